// FoldDepth as TensorRT sees it: a volume (N, C, D, H, W), or its maps (N * D, C, H, W), becomes a map (N, D * C, H, W).
#include "../common/operators.h"
#include "fold_depth.h"
#include "problem_check.h"

namespace sadtrt {
namespace {

using namespace nvinfer1;

constexpr int32_t kVolumeAxes = 5;
constexpr int32_t kMapAxes = 4;

enum { kDepth, kAttributeCount };
constexpr Attribute kAttributes[kAttributeCount] = {{"depth", PluginFieldType::kINT32, 0, 1 << 20, 0}};

bool infer_shapes(const DimsExprs* inputs, const Values& attributes, DimsExprs* outputs, IExprBuilder& builder,
                  char* message) {
    const DimsExprs& input = inputs[0];
    const int32_t depth = attributes[kDepth].integer;
    if (input.nbDims != (depth > 0 ? kMapAxes : kVolumeAxes)) {
        refuse(message, kMessageBytes,
               "FoldDepth: a volume (N, C, D, H, W) is expected, or maps (N * D, C, H, W) with the attribute depth, not "
               "an input of %d axes with depth %d",
               input.nbDims, depth);
        return false;
    }
    const IDimensionExpr& size = depth > 0 ? *builder.constant(depth) : *input.d[2];
    outputs[0].nbDims = kMapAxes;
    outputs[0].d[0] = depth > 0 ? builder.operation(DimensionOperation::kFLOOR_DIV, *input.d[0], size) : input.d[0];
    outputs[0].d[1] = builder.operation(DimensionOperation::kPROD, *input.d[1], size);
    outputs[0].d[2] = input.d[input.nbDims - 2];
    outputs[0].d[3] = input.d[input.nbDims - 1];
    return true;
}

// Volumes and maps are fp32, fp16 or bf16 in linear layout, or fp16 or bf16 channels last when the channels fill their
// vectors of eight. The output is as the input.
bool supports(int32_t position, const PluginTensorDesc* tensors) {
    const PluginTensorDesc& input = tensors[0];
    if (position > 0) {
        const bool linear = input.format == TensorFormat::kLINEAR;
        return tensors[1].type == input.type &&
               tensors[1].format == (linear ? TensorFormat::kLINEAR : TensorFormat::kHWC8);
    }
    const bool of_volume = input.dims.nbDims == kVolumeAxes;
    return has_full_features(input, of_volume ? TensorFormat::kDHWC8 : TensorFormat::kHWC8,
                             of_volume ? kVolumeAxes : kMapAxes);
}

// The launch of a layer; pointers are left empty.
SadtrtFoldDepth problem_of(const Layer& layer) {
    const Dims& input = layer.inputs[0].dims;
    const int32_t depth = layer.attributes[kDepth].integer;
    SadtrtFoldDepth problem = {};
    problem.of_maps = depth > 0;
    problem.batch = depth > 0 ? input.d[0] / depth : input.d[0];
    problem.channels = input.d[1];
    problem.depth = depth > 0 ? depth : input.d[2];
    problem.height = input.d[input.nbDims - 2];
    problem.width = input.d[input.nbDims - 1];
    problem.feature_type = feature_type_of(layer.inputs[0].type);
    problem.channels_last = layer.inputs[0].format != TensorFormat::kLINEAR;
    return problem;
}

int32_t check(const Layer& layer, char* message) {
    const int64_t maps = layer.inputs[0].dims.d[0];
    const int32_t depth = layer.attributes[kDepth].integer;
    if (depth > 0 && maps % depth != 0) {
        return refuse(message, kMessageBytes, "FoldDepth: %lld maps are no volumes of depth %d",
                      static_cast<long long>(maps), depth);
    }
    return check_problem(problem_of(layer), message, kMessageBytes);
}

int32_t enqueue(const Layer& layer, const void* const* inputs, void* const* outputs, void*, cudaStream_t stream,
                char* message) {
    SadtrtFoldDepth problem = problem_of(layer);
    problem.input = inputs[0];
    problem.output = outputs[0];
    return sadtrt_fold_depth(&problem, stream, message, kMessageBytes);
}

}  // namespace

const Operator kFoldDepth = {
    /*name=*/"FoldDepth",
    /*version=*/"1",
    /*mark=*/"sadtrtFD",
    /*inputs=*/1,
    /*outputs=*/1,
    kAttributes,
    kAttributeCount,
    infer_shapes,
    type_of_first,
    supports,
    no_workspace,
    check,
    enqueue,
};

}  // namespace sadtrt
