// MotionInput and MotionSum as TensorRT sees them.
//
// MotionInput takes features (N, C, D, H, W) and gives maps (N * D, C, H, W), of which MotionSum takes the mask's logits.
// Then both take the driving and the source keypoints (N, K, 3), fp32.
#include "../common/operators.h"
#include "dense_motion.h"
#include "problem_check.h"

namespace sadtrt {
namespace {

using namespace nvinfer1;

constexpr int32_t kInputs = 3;  // features or logits, driving keypoints, source keypoints
constexpr int32_t kVolumeAxes = 5;
constexpr int32_t kMapAxes = 4;

constexpr Attribute kInputAttributes[] = {{"exponent", PluginFieldType::kFLOAT32, -1e6, 0, -50}};
constexpr Attribute kSumAttributes[] = {{"floor", PluginFieldType::kFLOAT32, 0, 1, 0.001}};

bool check_axes(const char* name, int32_t axes, const char* wanted, const DimsExprs* inputs, char* message) {
    bool fits = inputs[0].nbDims == axes;
    for (int32_t points = 1; points < kInputs; ++points) {
        fits = fits && inputs[points].nbDims == 3 &&
               (!inputs[points].d[2]->isConstant() || inputs[points].d[2]->getConstantValue() == 3);
    }
    if (!fits) {
        refuse(message, kMessageBytes, "%s: %s, driving keypoints (N, K, 3) and source keypoints (N, K, 3) are expected",
               name, wanted);
    }
    return fits;
}

bool infer_input(const DimsExprs* inputs, const Values&, DimsExprs* outputs, IExprBuilder& builder, char* message) {
    if (!check_axes("MotionInput", kVolumeAxes, "a volume (N, C, D, H, W)", inputs, message)) {
        return false;
    }
    const IDimensionExpr& one = *builder.constant(1);
    const IDimensionExpr& motions = *builder.operation(DimensionOperation::kSUM, *inputs[1].d[1], one);
    const IDimensionExpr& features = *builder.operation(DimensionOperation::kSUM, *inputs[0].d[1], one);
    outputs[0].nbDims = kMapAxes;
    outputs[0].d[0] = builder.operation(DimensionOperation::kPROD, *inputs[0].d[0], *inputs[0].d[2]);
    outputs[0].d[1] = builder.operation(DimensionOperation::kPROD, motions, features);
    outputs[0].d[2] = inputs[0].d[3];
    outputs[0].d[3] = inputs[0].d[4];
    return true;
}

bool infer_sum(const DimsExprs* inputs, const Values&, DimsExprs* outputs, IExprBuilder& builder, char* message) {
    if (!check_axes("MotionSum", kMapAxes, "maps (N * D, C, H, W)", inputs, message)) {
        return false;
    }
    const IDimensionExpr& batch = *inputs[1].d[0];
    outputs[0].nbDims = kVolumeAxes;
    outputs[0].d[0] = &batch;
    outputs[0].d[1] = builder.operation(DimensionOperation::kFLOOR_DIV, *inputs[0].d[0], batch);
    outputs[0].d[2] = inputs[0].d[2];
    outputs[0].d[3] = inputs[0].d[3];
    outputs[0].d[4] = builder.constant(3);
    return true;
}

// The volume's channels need not fill vectors of eight, what is beside them is not read; the output's have to.
bool input_supports(int32_t position, const PluginTensorDesc* tensors) {
    const PluginTensorDesc& tensor = tensors[position];
    if (position == 0) {
        return has_features(tensor, TensorFormat::kDHWC8);
    }
    if (position < kInputs) {
        return is_plain_fp32(tensor);
    }
    return has_full_features(tensor, TensorFormat::kHWC8, kMapAxes) && tensor.type == tensors[0].type;
}

bool sum_supports(int32_t position, const PluginTensorDesc* tensors) {
    return position == 0 ? has_features(tensors[0], TensorFormat::kHWC8) : is_plain_fp32(tensors[position]);
}

// What launches of both have; pointers are left empty.
SadtrtDenseMotion problem_of(const Layer& layer) {
    const Dims& input = layer.inputs[0].dims;
    SadtrtDenseMotion problem = {};
    problem.batch = layer.inputs[1].dims.d[0];
    problem.channels = input.d[1];
    problem.height = input.d[input.nbDims - 2];
    problem.width = input.d[input.nbDims - 1];
    problem.keypoints = layer.inputs[1].dims.d[1];
    problem.feature_type = feature_type_of(layer.inputs[0].type);
    problem.input_channels_last = layer.inputs[0].format != TensorFormat::kLINEAR;
    problem.output_channels_last = layer.outputs[0].format != TensorFormat::kLINEAR;
    return problem;
}

SadtrtDenseMotion input_problem(const Layer& layer) {
    SadtrtDenseMotion problem = problem_of(layer);
    problem.depth = layer.inputs[0].dims.d[2];
    problem.exponent = layer.attributes[0].real;
    return problem;
}

SadtrtDenseMotion sum_problem(const Layer& layer) {
    SadtrtDenseMotion problem = problem_of(layer);
    problem.depth = layer.inputs[0].dims.d[0] / problem.batch;
    problem.floor = layer.attributes[0].real;
    return problem;
}

// 0 when both sets of keypoints have a keypoint for every motion of every volume; `batch_fits` says as much of theirs.
int32_t check_keypoints(const char* name, const Layer& layer, bool batch_fits, char* message) {
    const Dims& driving = layer.inputs[1].dims;
    const Dims& source = layer.inputs[2].dims;
    const bool fits = batch_fits && driving.d[0] == source.d[0] && driving.d[1] == source.d[1];
    return fits ? 0 : refuse(message, kMessageBytes, "%s: the keypoints' batches or counts differ", name);
}

int32_t check_input(const Layer& layer, char* message) {
    const bool batch_fits = layer.inputs[0].dims.d[0] == layer.inputs[1].dims.d[0];
    const int32_t refused = check_keypoints("MotionInput", layer, batch_fits, message);
    return refused != 0 ? refused : check_motion_input(input_problem(layer), message, kMessageBytes);
}

int32_t check_sum(const Layer& layer, char* message) {
    const int64_t batch = layer.inputs[1].dims.d[0];
    const bool batch_fits = batch > 0 && layer.inputs[0].dims.d[0] % batch == 0;
    const int32_t refused = check_keypoints("MotionSum", layer, batch_fits, message);
    return refused != 0 ? refused : check_motion_sum(sum_problem(layer), message, kMessageBytes);
}

void set_pointers(SadtrtDenseMotion& problem, const void* const* inputs, void* const* outputs) {
    problem.input = inputs[0];
    problem.driving = static_cast<const float*>(inputs[1]);
    problem.source = static_cast<const float*>(inputs[2]);
    problem.output = outputs[0];
}

int32_t enqueue_input(const Layer& layer, const void* const* inputs, void* const* outputs, void*, cudaStream_t stream,
                      char* message) {
    SadtrtDenseMotion problem = input_problem(layer);
    set_pointers(problem, inputs, outputs);
    return sadtrt_motion_input(&problem, stream, message, kMessageBytes);
}

int32_t enqueue_sum(const Layer& layer, const void* const* inputs, void* const* outputs, void*, cudaStream_t stream,
                    char* message) {
    SadtrtDenseMotion problem = sum_problem(layer);
    set_pointers(problem, inputs, outputs);
    return sadtrt_motion_sum(&problem, stream, message, kMessageBytes);
}

}  // namespace

const Operator kMotionInput = {
    /*name=*/"MotionInput",
    /*version=*/"1",
    /*mark=*/"sadtrtMI",
    kInputs,
    /*outputs=*/1,
    kInputAttributes,
    /*attribute_count=*/1,
    infer_input,
    type_of_first,
    input_supports,
    no_workspace,
    check_input,
    enqueue_input,
};

const Operator kMotionSum = {
    /*name=*/"MotionSum",
    /*version=*/"1",
    /*mark=*/"sadtrtMS",
    kInputs,
    /*outputs=*/1,
    kSumAttributes,
    /*attribute_count=*/1,
    infer_sum,
    always_fp32,
    sum_supports,
    no_workspace,
    check_sum,
    enqueue_sum,
};

}  // namespace sadtrt
