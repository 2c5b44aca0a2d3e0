// SpadeNorm and SpadeNormAdd as TensorRT sees them: tensors (N, C, H, W), the modulation (N, 2 C, H, W). With upsample
// 2 the operator doubles height and width of x, or of its sum with the residual, before it normalises. SpadeNormInt8 and
// SpadeNormAddInt8 write y in eight bits, for a DequantizeLinear of the same scale.
#include <cfloat>

#include "../common/operators.h"
#include "problem_check.h"
#include "spade_norm.h"

namespace sadtrt {
namespace {

using namespace nvinfer1;

constexpr int32_t kAxes = 4;

enum { kEpsilon, kSlope, kUpsample, kScale, kAttributeCount };
constexpr Attribute kAttributes[kAttributeCount] = {{"epsilon", PluginFieldType::kFLOAT32, 0, 1, 1e-5},
                                                    {"slope", PluginFieldType::kFLOAT32, 0, 1, 1},
                                                    {"upsample", PluginFieldType::kINT32, 1, 2, 1},
                                                    {"scale", PluginFieldType::kFLOAT32, FLT_MIN, FLT_MAX, 1}};
// In TensorRT's int8 layers kCHW32 is what kHWC8 is among those of half.
constexpr TensorFormat kInt8Format = TensorFormat::kCHW32;
constexpr int64_t kInt8Channels = 32;

// x and the modulation, with a residual between them in SpadeNormAdd.
template <bool kAdds>
constexpr int32_t kInputs = kAdds ? 3 : 2;
template <bool kAdds>
constexpr int32_t kOutputs = kAdds ? 2 : 1;

template <bool kAdds>
bool infer_outputs(const DimsExprs* inputs, const Values&, DimsExprs* outputs, IExprBuilder&, char* message) {
    const DimsExprs& modulation = inputs[kInputs<kAdds> - 1];
    if (inputs[0].nbDims != kAxes || modulation.nbDims != kAxes) {
        refuse(message, kMessageBytes,
               "SpadeNorm: x (N, C, H, W) and a modulation (N, 2 C, H, W) are expected, not inputs of %d and %d axes",
               inputs[0].nbDims, modulation.nbDims);
        return false;
    }
    const IDimensionExpr* channels = inputs[0].d[1];
    const IDimensionExpr* twice = modulation.d[1];
    if (channels->isConstant() && twice->isConstant() &&
        twice->getConstantValue() != 2 * channels->getConstantValue()) {
        refuse(message, kMessageBytes,
               "SpadeNorm: the modulation of %lld channels has %lld; twice as many are expected",
               static_cast<long long>(channels->getConstantValue()),
               static_cast<long long>(twice->getConstantValue()));
        return false;
    }
    for (int32_t output = 0; output < kOutputs<kAdds>; ++output) {
        outputs[output] = inputs[0];
    }
    outputs[kOutputs<kAdds> - 1].d[2] = modulation.d[2];
    outputs[kOutputs<kAdds> - 1].d[3] = modulation.d[3];
    return true;
}

template <bool kAdds, bool kQuantizes>
DataType output_type(int32_t output, const DataType* inputs) {
    return kQuantizes && output == kOutputs<kAdds> - 1 ? DataType::kINT8 : inputs[0];
}

// All tensors are of one type, fp32, fp16 or bf16, and one format: linear, or kHWC8 of 16 bits when the channels fill
// its vectors of eight. Only y in int8 is of its own, linear where the others are and else kCHW32.
template <bool kAdds, bool kQuantizes>
bool supports(int32_t position, const PluginTensorDesc* tensors) {
    constexpr int64_t kVector = kQuantizes ? kInt8Channels : 8;
    const PluginTensorDesc& tensor = tensors[position];
    if (kQuantizes && position == kInputs<kAdds> + kOutputs<kAdds> - 1) {
        const bool linear = tensors[0].format == TensorFormat::kLINEAR;
        return tensor.type == DataType::kINT8 && tensor.format == (linear ? TensorFormat::kLINEAR : kInt8Format);
    }
    if (position > 0) {
        return tensor.type == tensors[0].type && tensor.format == tensors[0].format;
    }
    return has_full_features(tensor, TensorFormat::kHWC8, kAxes, kVector);
}

// The launch of a layer; pointers are left empty.
template <bool kAdds, bool kQuantizes = false>
SadtrtSpadeNorm problem_of(const Layer& layer) {
    const PluginTensorDesc& x = layer.inputs[0];
    const Dims& modulation = layer.inputs[kInputs<kAdds> - 1].dims;
    SadtrtSpadeNorm problem = {};
    problem.batch = x.dims.d[0];
    problem.channels = x.dims.d[1];
    problem.height = modulation.d[2];
    problem.width = modulation.d[3];
    problem.upsample = layer.attributes[kUpsample].integer;
    problem.epsilon = layer.attributes[kEpsilon].real;
    problem.slope = layer.attributes[kSlope].real;
    problem.scale = kQuantizes ? layer.attributes[kScale].real : 0.0f;
    problem.feature_type = feature_type_of(x.type);
    problem.layout = x.format == TensorFormat::kHWC8 ? SADTRT_CHANNELS_LAST : SADTRT_LINEAR;
    return problem;
}

template <bool kAdds>
size_t workspace_bytes(const Layer& layer) {
    const SadtrtSpadeNorm problem = problem_of<kAdds>(layer);
    return static_cast<size_t>(sadtrt_spade_norm_workspace(&problem));
}

template <bool kAdds, bool kQuantizes>
int32_t check(const Layer& layer, char* message) {
    const Dims& x = layer.inputs[0].dims;
    for (int32_t input = 1; input < kInputs<kAdds>; ++input) {
        const bool is_modulation = input == kInputs<kAdds> - 1;
        const Dims& other = layer.inputs[input].dims;
        for (int32_t axis = 0; axis < kAxes; ++axis) {
            int64_t expected = x.d[axis];
            if (is_modulation && axis > 0) {
                expected *= axis == 1 ? 2 : layer.attributes[kUpsample].integer;
            }
            if (other.d[axis] != expected) {
                return refuse(message, kMessageBytes, "SpadeNorm: axis %d of the %s has size %lld; %lld is expected",
                              axis, is_modulation ? "modulation" : "residual", static_cast<long long>(other.d[axis]),
                              static_cast<long long>(expected));
            }
        }
    }
    return check_problem(problem_of<kAdds, kQuantizes>(layer), message, kMessageBytes);
}

// The workspace asked for at the largest shapes is never less than these shapes need.
template <bool kAdds, bool kQuantizes>
int32_t enqueue(const Layer& layer, const void* const* inputs, void* const* outputs, void* workspace,
                cudaStream_t stream, char* message) {
    SadtrtSpadeNorm problem = problem_of<kAdds, kQuantizes>(layer);
    problem.workspace = workspace;
    problem.workspace_bytes = workspace != nullptr ? sadtrt_spade_norm_workspace(&problem) : 0;
    problem.x = inputs[0];
    problem.residual = kAdds ? inputs[1] : nullptr;
    problem.modulation = inputs[kInputs<kAdds> - 1];
    problem.sum = kAdds ? outputs[0] : nullptr;
    problem.y = outputs[kOutputs<kAdds> - 1];
    return sadtrt_spade_norm(&problem, stream, message, kMessageBytes);
}

template <bool kAdds, bool kQuantizes>
constexpr Operator described(const char* name, const char* mark) {
    return {name,
            /*version=*/"1",
            mark,
            kInputs<kAdds>,
            kOutputs<kAdds>,
            kAttributes,
            kQuantizes ? kAttributeCount : kScale,
            infer_outputs<kAdds>,
            output_type<kAdds, kQuantizes>,
            supports<kAdds, kQuantizes>,
            workspace_bytes<kAdds>,
            check<kAdds, kQuantizes>,
            enqueue<kAdds, kQuantizes>};
}

}  // namespace

// Inputs x, modulation; output y.
const Operator kSpadeNorm = described<false, false>("SpadeNorm", "sadtrtSN");
const Operator kSpadeNormInt8 = described<false, true>("SpadeNormInt8", "sadtrtS8");
// Inputs x, residual, modulation; outputs x + residual, y.
const Operator kSpadeNormAdd = described<true, false>("SpadeNormAdd", "sadtrtSA");
const Operator kSpadeNormAddInt8 = described<true, true>("SpadeNormAddInt8", "sadtrtA8");

}  // namespace sadtrt
