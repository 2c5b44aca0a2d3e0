// MotionInput and MotionSum as TensorRT sees them.
//
// Both take features or mask logits (N, C, D, H, W), then the driving and the source keypoints (N, K, 3), fp32.
#include "../common/operators.h"
#include "dense_motion.h"
#include "problem_check.h"

namespace sadtrt {
namespace {

using namespace nvinfer1;

constexpr int32_t kInputs = 3;  // features or logits, driving keypoints, source keypoints
constexpr int32_t kAxes = 5;

constexpr Attribute kInputAttributes[] = {{"exponent", PluginFieldType::kFLOAT32, -1e6, 0, -50}};
constexpr Attribute kSumAttributes[] = {{"floor", PluginFieldType::kFLOAT32, 0, 1, 0.001}};

bool check_axes(const char* name, const DimsExprs* inputs, char* message) {
    bool fits = inputs[0].nbDims == kAxes;
    for (int32_t points = 1; points < kInputs; ++points) {
        fits = fits && inputs[points].nbDims == 3 &&
               (!inputs[points].d[2]->isConstant() || inputs[points].d[2]->getConstantValue() == 3);
    }
    if (!fits) {
        refuse(message, kMessageBytes,
               "%s: a volume (N, C, D, H, W), driving keypoints (N, K, 3) and source keypoints (N, K, 3) are expected",
               name);
    }
    return fits;
}

bool infer_input(const DimsExprs* inputs, const Values&, DimsExprs* outputs, IExprBuilder& builder, char* message) {
    if (!check_axes("MotionInput", inputs, message)) {
        return false;
    }
    const IDimensionExpr& one = *builder.constant(1);
    const IDimensionExpr& motions = *builder.operation(DimensionOperation::kSUM, *inputs[1].d[1], one);
    const IDimensionExpr& features = *builder.operation(DimensionOperation::kSUM, *inputs[0].d[1], one);
    outputs[0] = inputs[0];
    outputs[0].d[1] = builder.operation(DimensionOperation::kPROD, motions, features);
    return true;
}

bool infer_sum(const DimsExprs* inputs, const Values&, DimsExprs* outputs, IExprBuilder& builder, char* message) {
    if (!check_axes("MotionSum", inputs, message)) {
        return false;
    }
    outputs[0].nbDims = kAxes;
    outputs[0].d[0] = inputs[0].d[0];
    for (int32_t axis = 1; axis < 4; ++axis) {
        outputs[0].d[axis] = inputs[0].d[axis + 1];
    }
    outputs[0].d[4] = builder.constant(3);
    return true;
}

DataType input_type(int32_t, const DataType* inputs) { return inputs[0]; }
DataType sum_type(int32_t, const DataType*) { return DataType::kFLOAT; }

// fp32, fp16 or bf16 in linear layout, or fp16 or bf16 in kDHWC8.
bool is_volume(const PluginTensorDesc& tensor) {
    const int32_t type = feature_type_of(tensor.type);
    return type >= 0 && (tensor.format == TensorFormat::kLINEAR ||
                         (tensor.format == TensorFormat::kDHWC8 && type != SADTRT_FLOAT32));
}

bool is_plain_fp32(const PluginTensorDesc& tensor) {
    return tensor.type == DataType::kFLOAT && tensor.format == TensorFormat::kLINEAR;
}

// The volume's channels need not fill vectors of eight, what is beside them is not read; the output's have to.
bool input_supports(int32_t position, const PluginTensorDesc* tensors) {
    const PluginTensorDesc& tensor = tensors[position];
    if (position == 0) {
        return is_volume(tensor);
    }
    if (position < kInputs) {
        return is_plain_fp32(tensor);
    }
    const bool vectors_full = tensor.dims.nbDims == kAxes && tensor.dims.d[1] > 0 && tensor.dims.d[1] % 8 == 0;
    return is_volume(tensor) && tensor.type == tensors[0].type &&
           (tensor.format == TensorFormat::kLINEAR || vectors_full);
}

bool sum_supports(int32_t position, const PluginTensorDesc* tensors) {
    return position == 0 ? is_volume(tensors[0]) : is_plain_fp32(tensors[position]);
}

size_t workspace_bytes(const Layer&) { return 0; }

// The launch of a layer; pointers are left empty.
SadtrtDenseMotion problem_of(const Layer& layer) {
    const Dims& volume = layer.inputs[0].dims;
    SadtrtDenseMotion problem = {};
    problem.batch = volume.d[0];
    problem.channels = volume.d[1];
    problem.depth = volume.d[2];
    problem.height = volume.d[3];
    problem.width = volume.d[4];
    problem.keypoints = layer.inputs[1].dims.d[1];
    problem.feature_type = feature_type_of(layer.inputs[0].type);
    problem.input_channels_last = layer.inputs[0].format == TensorFormat::kDHWC8;
    problem.output_channels_last = layer.outputs[0].format == TensorFormat::kDHWC8;
    return problem;
}

SadtrtDenseMotion input_problem(const Layer& layer) {
    SadtrtDenseMotion problem = problem_of(layer);
    problem.exponent = layer.attributes[0].real;
    return problem;
}

SadtrtDenseMotion sum_problem(const Layer& layer) {
    SadtrtDenseMotion problem = problem_of(layer);
    problem.floor = layer.attributes[0].real;
    return problem;
}

// 0 when both sets of keypoints have a keypoint for every motion of every volume.
int32_t check_keypoints(const char* name, const Layer& layer, char* message) {
    const Dims& driving = layer.inputs[1].dims;
    const Dims& source = layer.inputs[2].dims;
    const bool fits = driving.d[0] == layer.inputs[0].dims.d[0] && driving.d[0] == source.d[0] &&
                      driving.d[1] == source.d[1];
    return fits ? 0 : refuse(message, kMessageBytes, "%s: the keypoints' batches or counts differ", name);
}

int32_t check_input(const Layer& layer, char* message) {
    const int32_t refused = check_keypoints("MotionInput", layer, message);
    return refused != 0 ? refused : check_motion_input(input_problem(layer), message, kMessageBytes);
}

int32_t check_sum(const Layer& layer, char* message) {
    const int32_t refused = check_keypoints("MotionSum", layer, message);
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
    if (const int32_t refused = check_input(layer, message)) {
        return refused;
    }
    SadtrtDenseMotion problem = input_problem(layer);
    set_pointers(problem, inputs, outputs);
    return sadtrt_motion_input(&problem, stream, message, kMessageBytes);
}

int32_t enqueue_sum(const Layer& layer, const void* const* inputs, void* const* outputs, void*, cudaStream_t stream,
                    char* message) {
    if (const int32_t refused = check_sum(layer, message)) {
        return refused;
    }
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
    input_type,
    input_supports,
    workspace_bytes,
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
    sum_type,
    sum_supports,
    workspace_bytes,
    check_sum,
    enqueue_sum,
};

}  // namespace sadtrt
