// PictureConv as TensorRT sees it: a map (N, C, H, W), weights (3, C, 3, 3) and a bias (3) to a picture (N, 3, H, W).
#include "../common/operators.h"
#include "picture_conv.h"
#include "problem_check.h"

namespace sadtrt {
namespace {

using namespace nvinfer1;

constexpr int32_t kAxes = 4;
enum { kMap, kWeights, kBias, kPicture };

bool infer_shapes(const DimsExprs* inputs, const Values&, DimsExprs* outputs, IExprBuilder& builder, char* message) {
    if (inputs[kMap].nbDims != kAxes || inputs[kWeights].nbDims != kAxes || inputs[kBias].nbDims != 1) {
        refuse(message, kMessageBytes,
               "PictureConv: a map of 4 axes, weights of 4 and a bias of 1 are expected, not of %d, %d and %d",
               inputs[kMap].nbDims, inputs[kWeights].nbDims, inputs[kBias].nbDims);
        return false;
    }
    outputs[0] = inputs[kMap];
    outputs[0].d[1] = builder.constant(3);
    return true;
}

// The map is fp32, fp16 or bf16 in linear layout, or fp16 or bf16 in kHWC8 when the channels fill its vectors of eight.
bool supports(int32_t position, const PluginTensorDesc* tensors) {
    const PluginTensorDesc& tensor = tensors[position];
    return position == kMap ? has_full_features(tensor, TensorFormat::kHWC8, kAxes) : is_plain_fp32(tensor);
}

SadtrtPictureConv problem_of(const Layer& layer) {
    const PluginTensorDesc& map = layer.inputs[kMap];
    SadtrtPictureConv problem = {};
    problem.batch = map.dims.d[0];
    problem.channels = map.dims.d[1];
    problem.height = map.dims.d[2];
    problem.width = map.dims.d[3];
    problem.feature_type = feature_type_of(map.type);
    problem.channels_last = map.format == TensorFormat::kHWC8;
    return problem;
}

int32_t check(const Layer& layer, char* message) {
    const SadtrtPictureConv problem = problem_of(layer);
    const Dims& weights = layer.inputs[kWeights].dims;
    if (weights.d[0] != 3 || weights.d[1] != problem.channels || weights.d[2] != 3 || weights.d[3] != 3 ||
        layer.inputs[kBias].dims.d[0] != 3) {
        return refuse(message, kMessageBytes,
                      "PictureConv: weights (3, %lld, 3, 3) and a bias (3) are expected for a map of %lld channels",
                      static_cast<long long>(problem.channels), static_cast<long long>(problem.channels));
    }
    return check_problem(problem, message, kMessageBytes);
}

int32_t enqueue(const Layer& layer, const void* const* inputs, void* const* outputs, void*, cudaStream_t stream,
                char* message) {
    SadtrtPictureConv problem = problem_of(layer);
    problem.input = inputs[kMap];
    problem.weights = static_cast<const float*>(inputs[kWeights]);
    problem.bias = static_cast<const float*>(inputs[kBias]);
    problem.output = static_cast<float*>(outputs[0]);
    return sadtrt_picture_conv(&problem, stream, message, kMessageBytes);
}

}  // namespace

const Operator kPictureConv = {
    /*name=*/"PictureConv",
    /*version=*/"1",
    /*mark=*/"sadtrtPC",
    /*inputs=*/3,
    /*outputs=*/1,
    /*attributes=*/nullptr,
    /*attribute_count=*/0,
    infer_shapes,
    always_fp32,
    supports,
    no_workspace,
    check,
    enqueue,
};

}  // namespace sadtrt
