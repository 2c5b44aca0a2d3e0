// SplitSum and SplitSumJoin as TensorRT sees them: a convolution's outputs for every tap, its bias, and in the second the
// map that comes behind the sums.
#include "../common/operators.h"
#include "problem_check.h"
#include "split_sum.h"

namespace sadtrt {
namespace {

using namespace nvinfer1;

constexpr int32_t kMapAxes = 4;
enum { kX, kBias, kSkip };

enum { kDepth, kTapsDepth, kTapsHeight, kTapsWidth, kScale, kPool, kSlope, kFirstChannel, kAttributeCount };
constexpr Attribute kAttributes[kAttributeCount] = {
    {"depth", PluginFieldType::kINT32, 1, 1 << 20, 1},
    {"taps_depth", PluginFieldType::kINT32, 1, kMostTaps, 1},
    {"taps_height", PluginFieldType::kINT32, 1, kMostTaps, 1},
    {"taps_width", PluginFieldType::kINT32, 1, kMostTaps, 1},
    {"scale", PluginFieldType::kINT32, 1, kMostScale, 1},
    {"pool", PluginFieldType::kINT32, 0, 1, 0},
    {"slope", PluginFieldType::kFLOAT32, 0, 1, 1},
    {"first_channel", PluginFieldType::kINT32, 0, 1 << 20, 0},
};

const char* name_of(bool joins) { return joins ? "SplitSumJoin" : "SplitSum"; }

template <bool kJoins>
bool infer_shapes(const DimsExprs* inputs, const Values& attributes, DimsExprs* outputs, IExprBuilder& builder,
                  char* message) {
    if (inputs[kX].nbDims != kMapAxes || inputs[kBias].nbDims != 1 ||
        (kJoins && inputs[kSkip].nbDims != kMapAxes)) {
        refuse(message, kMessageBytes, "%s: maps (N, C, H, W) and a bias (O) are expected%s", name_of(kJoins),
               kJoins ? ", and maps that come behind the sums" : "");
        return false;
    }
    outputs[0] = inputs[kX];
    outputs[0].d[1] = inputs[kBias].d[0];
    if (kJoins) {
        outputs[0].d[1] = builder.operation(DimensionOperation::kSUM, *inputs[kBias].d[0], *inputs[kSkip].d[1]);
    }
    const int32_t scale = attributes[kScale].integer;
    for (int32_t axis = 2; axis < kMapAxes; ++axis) {
        const IDimensionExpr* size = inputs[kX].d[axis];
        if (attributes[kPool].integer != 0) {
            size = builder.operation(DimensionOperation::kFLOOR_DIV, *size, *builder.constant(2));
        }
        if (scale > 1) {
            // One window more than places.
            const IDimensionExpr& places = *builder.operation(DimensionOperation::kSUB, *size, *builder.constant(1));
            size = builder.operation(DimensionOperation::kPROD, places, *builder.constant(scale));
        }
        outputs[0].d[axis] = size;
    }
    return true;
}

// x is fp32, fp16 or bf16 in linear layout, or fp16 or bf16 in kHWC8 with any number of channels. What has the sums and
// the skip has its type, and is linear, or kHWC8 where x is and all channels fill vectors of eight.
template <bool kJoins>
bool supports(int32_t position, const PluginTensorDesc* tensors) {
    const PluginTensorDesc& tensor = tensors[position];
    if (position == kBias) {
        return is_plain_fp32(tensor);
    }
    if (position == kX) {
        return has_features(tensor, TensorFormat::kHWC8);
    }
    if (tensor.type != tensors[kX].type || (kJoins && position > kSkip && tensor.format != tensors[kSkip].format)) {
        return false;
    }
    const bool may_be_last = tensors[kX].format == TensorFormat::kHWC8 && tensors[kBias].dims.d[0] % 8 == 0;
    return has_full_features(tensor, TensorFormat::kHWC8, kMapAxes) &&
           (may_be_last || tensor.format == TensorFormat::kLINEAR);
}

// The launch of a layer; pointers are left empty.
template <bool kJoins>
SadtrtSplitSum problem_of(const Layer& layer) {
    const Dims& x = layer.inputs[kX].dims;
    const Values& attributes = layer.attributes;
    SadtrtSplitSum problem = {};
    problem.maps = x.d[0];
    problem.outputs = layer.inputs[kBias].dims.d[0];
    problem.skip_channels = kJoins ? layer.inputs[kSkip].dims.d[1] : 0;
    problem.x_channels = x.d[1];
    problem.first_channel = attributes[kFirstChannel].integer;
    problem.depth = attributes[kDepth].integer;
    problem.taps_depth = attributes[kTapsDepth].integer;
    problem.taps_height = attributes[kTapsHeight].integer;
    problem.taps_width = attributes[kTapsWidth].integer;
    problem.scale = attributes[kScale].integer;
    problem.height = x.d[2] - (problem.scale > 1);
    problem.width = x.d[3] - (problem.scale > 1);
    problem.slope = attributes[kSlope].real;
    problem.pool = attributes[kPool].integer;
    problem.feature_type = feature_type_of(layer.inputs[kX].type);
    problem.x_channels_last = layer.inputs[kX].format == TensorFormat::kHWC8;
    problem.y_channels_last = layer.outputs[0].format == TensorFormat::kHWC8;
    return problem;
}

template <bool kJoins>
int32_t check(const Layer& layer, char* message) {
    const SadtrtSplitSum problem = problem_of<kJoins>(layer);
    if (kJoins) {
        for (int32_t axis = 0; axis < kMapAxes; ++axis) {
            const int64_t of_skip = layer.inputs[kSkip].dims.d[axis];
            const int64_t of_y = layer.outputs[0].dims.d[axis];
            if (axis != 1 && of_skip != of_y) {
                return refuse(message, kMessageBytes, "%s: axis %d has size %lld in the sums, %lld in what comes behind",
                              name_of(kJoins), axis, static_cast<long long>(of_y), static_cast<long long>(of_skip));
            }
        }
    }
    return check_problem(problem, message, kMessageBytes);
}

template <bool kJoins>
int32_t enqueue(const Layer& layer, const void* const* inputs, void* const* outputs, void*, cudaStream_t stream,
                char* message) {
    SadtrtSplitSum problem = problem_of<kJoins>(layer);
    problem.x = inputs[kX];
    problem.bias = static_cast<const float*>(inputs[kBias]);
    problem.skip = kJoins ? inputs[kSkip] : nullptr;
    problem.y = outputs[0];
    return sadtrt_split_sum(&problem, stream, message, kMessageBytes);
}

template <bool kJoins>
constexpr Operator described(const char* name, const char* mark) {
    return {
        name,
        /*version=*/"1",
        mark,
        /*inputs=*/kJoins ? 3 : 2,
        /*outputs=*/1,
        kAttributes,
        kAttributeCount,
        infer_shapes<kJoins>,
        type_of_first,
        supports<kJoins>,
        no_workspace,
        check<kJoins>,
        enqueue<kJoins>,
    };
}

}  // namespace

constexpr Operator kSplitSum = described<false>("SplitSum", "sadtrtSS");
constexpr Operator kSplitSumJoin = described<true>("SplitSumJoin", "sadtrtSJ");

}  // namespace sadtrt
