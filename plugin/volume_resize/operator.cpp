// VolumeResize as TensorRT sees it: a volume (N, C, D, H, W) with height and width halved or doubled.
#include "../common/operators.h"
#include "problem_check.h"
#include "volume_resize.h"

namespace sadtrt {
namespace {

using namespace nvinfer1;

constexpr int32_t kAxes = 5;

enum { kMode, kAttributeCount };
constexpr Attribute kAttributes[kAttributeCount] = {{"mode", PluginFieldType::kINT32, 0, 1, 0}};

bool infer_output(const DimsExprs* inputs, const Values& attributes, DimsExprs* outputs, IExprBuilder& builder,
                  char* message) {
    if (inputs[0].nbDims != kAxes) {
        refuse(message, kMessageBytes, "VolumeResize: a volume (N, C, D, H, W) is expected, not an input of %d axes",
               inputs[0].nbDims);
        return false;
    }
    outputs[0] = inputs[0];
    const bool halves = attributes[kMode].integer == SADTRT_HALVE;
    const DimensionOperation operation = halves ? DimensionOperation::kFLOOR_DIV : DimensionOperation::kPROD;
    for (int32_t axis = 3; axis < kAxes; ++axis) {
        outputs[0].d[axis] = builder.operation(operation, *inputs[0].d[axis], *builder.constant(2));
    }
    return true;
}

DataType output_type(int32_t, const DataType* inputs) { return inputs[0]; }

// fp32, fp16 or bf16 in linear layout, or fp16 or bf16 in kDHWC8 when the channels fill its vectors of eight; the
// output is as the volume.
bool supports(int32_t position, const PluginTensorDesc* tensors) {
    const PluginTensorDesc& tensor = tensors[position];
    if (position == 1) {
        return tensor.type == tensors[0].type && tensor.format == tensors[0].format;
    }
    const int32_t type = feature_type_of(tensor.type);
    const bool vectors_full = tensor.dims.nbDims == kAxes && tensor.dims.d[1] > 0 && tensor.dims.d[1] % 8 == 0;
    return type >= 0 && (tensor.format == TensorFormat::kLINEAR ||
                         (tensor.format == TensorFormat::kDHWC8 && type != SADTRT_FLOAT32 && vectors_full));
}

size_t workspace_bytes(const Layer&) { return 0; }

// The launch of a layer; pointers are left empty.
SadtrtVolumeResize problem_of(const Layer& layer) {
    const Dims& volume = layer.inputs[0].dims;
    SadtrtVolumeResize problem = {};
    problem.batch = volume.d[0];
    problem.channels = volume.d[1];
    problem.depth = volume.d[2];
    problem.height = volume.d[3];
    problem.width = volume.d[4];
    problem.feature_type = feature_type_of(layer.inputs[0].type);
    problem.channels_last = layer.inputs[0].format == TensorFormat::kDHWC8;
    problem.mode = layer.attributes[kMode].integer;
    return problem;
}

int32_t check(const Layer& layer, char* message) { return check_problem(problem_of(layer), message, kMessageBytes); }

int32_t enqueue(const Layer& layer, const void* const* inputs, void* const* outputs, void*, cudaStream_t stream,
                char* message) {
    SadtrtVolumeResize problem = problem_of(layer);
    problem.input = inputs[0];
    problem.output = outputs[0];
    return sadtrt_volume_resize(&problem, stream, message, kMessageBytes);
}

}  // namespace

const Operator kVolumeResize = {
    /*name=*/"VolumeResize",
    /*version=*/"1",
    /*mark=*/"sadtrtVR",
    /*inputs=*/1,
    /*outputs=*/1,
    kAttributes,
    kAttributeCount,
    infer_output,
    output_type,
    supports,
    workspace_bytes,
    check,
    enqueue,
};

}  // namespace sadtrt
