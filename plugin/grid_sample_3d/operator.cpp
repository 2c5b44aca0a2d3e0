// GridSample3D as TensorRT sees it: volume (N, C, D, H, W) and grid (N*k, Do, Ho, Wo, 3) to (N*k, C, Do, Ho, Wo).
#include "../common/operators.h"
#include "grid_sample_3d.h"
#include "problem_check.h"

namespace sadtrt {
namespace {

using namespace nvinfer1;

constexpr int32_t kInputs = 2;  // volume, grid
constexpr int32_t kAxes = 5;

enum { kInterpolation, kPadding, kAlignCorners, kHalfCoordinates, kAttributeCount };
constexpr Attribute kAttributes[kAttributeCount] = {{"interpolation", PluginFieldType::kINT32, 0, 1, 0},
                                                    {"padding", PluginFieldType::kINT32, 0, 2, 0},
                                                    {"align_corners", PluginFieldType::kINT32, 0, 1, 0},
                                                    {"half_coordinates", PluginFieldType::kINT32, 0, 1, 0}};

bool infer_output(const DimsExprs* inputs, const Values&, DimsExprs* outputs, IExprBuilder&, char* message) {
    if (inputs[0].nbDims != kAxes || inputs[1].nbDims != kAxes) {
        refuse(message, kMessageBytes,
               "GridSample3D: a volume (N, C, D, H, W) and a grid (N*k, Do, Ho, Wo, 3) are expected, not inputs of %d "
               "and %d axes",
               inputs[0].nbDims, inputs[1].nbDims);
        return false;
    }
    const IDimensionExpr* coordinates = inputs[1].d[4];
    if (coordinates->isConstant() && coordinates->getConstantValue() != 3) {
        refuse(message, kMessageBytes, "GridSample3D: the grid's last axis has size %lld; 3 (x, y, z) is expected",
               static_cast<long long>(coordinates->getConstantValue()));
        return false;
    }
    outputs[0].nbDims = kAxes;
    outputs[0].d[0] = inputs[1].d[0];
    outputs[0].d[1] = inputs[0].d[1];
    outputs[0].d[2] = inputs[1].d[1];
    outputs[0].d[3] = inputs[1].d[2];
    outputs[0].d[4] = inputs[1].d[3];
    return true;
}

// The volume is fp32, fp16 or bf16 in linear layout, or fp16 or bf16 in kDHWC8 when the channels fill its vectors
// of eight; the grid is fp32 and linear; the output is as the volume.
bool supports(int32_t position, const PluginTensorDesc* tensors) {
    const PluginTensorDesc& tensor = tensors[position];
    if (position == 1) {
        return is_plain_fp32(tensor);
    }
    if (position == kInputs) {
        return tensor.type == tensors[0].type && tensor.format == tensors[0].format;
    }
    return has_full_features(tensor, TensorFormat::kDHWC8, kAxes);
}

// The launch of a layer; pointers are left empty.
SadtrtGridSample3D problem_of(const Layer& layer) {
    const Dims& volume = layer.inputs[0].dims;
    const Dims& grid = layer.inputs[1].dims;
    SadtrtGridSample3D problem = {};
    problem.volume_batch = volume.d[0];
    problem.channels = volume.d[1];
    problem.depth = volume.d[2];
    problem.height = volume.d[3];
    problem.width = volume.d[4];
    problem.grid_batch = grid.d[0];
    problem.out_depth = grid.d[1];
    problem.out_height = grid.d[2];
    problem.out_width = grid.d[3];
    problem.feature_type = feature_type_of(layer.inputs[0].type);
    problem.layout = layer.inputs[0].format == TensorFormat::kDHWC8 ? SADTRT_CHANNELS_LAST : SADTRT_LINEAR;
    problem.interpolation = layer.attributes[kInterpolation].integer;
    problem.padding = layer.attributes[kPadding].integer;
    problem.align_corners = layer.attributes[kAlignCorners].integer;
    problem.half_coordinates = layer.attributes[kHalfCoordinates].integer;
    return problem;
}

size_t workspace_bytes(const Layer& layer) {
    const SadtrtGridSample3D problem = problem_of(layer);
    return static_cast<size_t>(sadtrt_grid_sample_3d_workspace(&problem));
}

int32_t check(const Layer& layer, char* message) { return check_problem(problem_of(layer), message, kMessageBytes); }

// The workspace asked for at the largest shapes is never less than these shapes can use.
int32_t enqueue(const Layer& layer, const void* const* inputs, void* const* outputs, void* workspace,
                cudaStream_t stream, char* message) {
    SadtrtGridSample3D problem = problem_of(layer);
    problem.workspace = workspace;
    problem.workspace_bytes = workspace != nullptr ? sadtrt_grid_sample_3d_workspace(&problem) : 0;
    problem.volume = inputs[0];
    problem.grid = static_cast<const float*>(inputs[1]);
    problem.output = outputs[0];
    return sadtrt_grid_sample_3d(&problem, stream, message, kMessageBytes);
}

}  // namespace

const Operator kGridSample3D = {
    /*name=*/"GridSample3D",
    /*version=*/"1",
    /*mark=*/"sadtrtG3",
    kInputs,
    /*outputs=*/1,
    kAttributes,
    kAttributeCount,
    infer_output,
    type_of_first,
    supports,
    workspace_bytes,
    check,
    enqueue,
};

}  // namespace sadtrt
