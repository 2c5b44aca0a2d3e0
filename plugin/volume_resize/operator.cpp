// VolumeResize, VolumeJoinDouble and FoldDepth as TensorRT sees them.
//
// Volumes are (N, C, D, H, W). The first halves or doubles height and width, the second doubles those of two volumes
// joined along their channels, the third makes channels of depth.
#include "../common/operators.h"
#include "fold_depth.h"
#include "problem_check.h"
#include "volume_resize.h"

namespace sadtrt {
namespace {

using namespace nvinfer1;

constexpr int32_t kAxes = 5;

enum { kMode, kAttributeCount };
constexpr Attribute kAttributes[kAttributeCount] = {{"mode", PluginFieldType::kINT32, 0, 1, 0}};

bool check_axes(const char* name, const DimsExprs& volume, char* message) {
    if (volume.nbDims != kAxes) {
        refuse(message, kMessageBytes, "%s: a volume (N, C, D, H, W) is expected, not an input of %d axes", name,
               volume.nbDims);
        return false;
    }
    return true;
}

bool infer_resized(const DimsExprs* inputs, const Values& attributes, DimsExprs* outputs, IExprBuilder& builder,
                   char* message) {
    if (!check_axes("VolumeResize", inputs[0], message)) {
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

bool infer_joined(const DimsExprs* inputs, const Values&, DimsExprs* outputs, IExprBuilder& builder, char* message) {
    if (!check_axes("VolumeJoinDouble", inputs[0], message) || !check_axes("VolumeJoinDouble", inputs[1], message)) {
        return false;
    }
    outputs[0] = inputs[0];
    outputs[0].d[1] = builder.operation(DimensionOperation::kSUM, *inputs[0].d[1], *inputs[1].d[1]);
    for (int32_t axis = 3; axis < kAxes; ++axis) {
        outputs[0].d[axis] = builder.operation(DimensionOperation::kPROD, *inputs[0].d[axis], *builder.constant(2));
    }
    return true;
}

bool infer_folded(const DimsExprs* inputs, const Values&, DimsExprs* outputs, IExprBuilder& builder, char* message) {
    if (!check_axes("FoldDepth", inputs[0], message)) {
        return false;
    }
    outputs[0].nbDims = kAxes - 1;
    outputs[0].d[0] = inputs[0].d[0];
    outputs[0].d[1] = builder.operation(DimensionOperation::kPROD, *inputs[0].d[1], *inputs[0].d[2]);
    outputs[0].d[2] = inputs[0].d[3];
    outputs[0].d[3] = inputs[0].d[4];
    return true;
}

DataType output_type(int32_t, const DataType* inputs) { return inputs[0]; }

// fp32, fp16 or bf16 in linear layout, or fp16 or bf16 in kDHWC8 when the channels fill its vectors of eight.
bool supports_volume(const PluginTensorDesc& tensor) {
    const int32_t type = feature_type_of(tensor.type);
    const bool vectors_full = tensor.dims.nbDims == kAxes && tensor.dims.d[1] > 0 && tensor.dims.d[1] % 8 == 0;
    return type >= 0 && (tensor.format == TensorFormat::kLINEAR ||
                         (tensor.format == TensorFormat::kDHWC8 && type != SADTRT_FLOAT32 && vectors_full));
}

// The output is as the volume.
bool supports_resized(int32_t position, const PluginTensorDesc* tensors) {
    const PluginTensorDesc& volume = tensors[0];
    return position == 0 ? supports_volume(volume)
                         : tensors[1].type == volume.type && tensors[1].format == volume.format;
}

// The second volume and the output are as the first.
bool supports_joined(int32_t position, const PluginTensorDesc* tensors) {
    const PluginTensorDesc& tensor = tensors[position];
    return supports_volume(tensor) && tensor.type == tensors[0].type && tensor.format == tensors[0].format;
}

// The output, which has an axis less, is as the volume: linear or channels last.
bool supports_folded(int32_t position, const PluginTensorDesc* tensors) {
    const PluginTensorDesc& volume = tensors[0];
    const bool linear = volume.format == TensorFormat::kLINEAR;
    return position == 0 ? supports_volume(volume)
                         : tensors[1].type == volume.type &&
                               tensors[1].format == (linear ? TensorFormat::kLINEAR : TensorFormat::kHWC8);
}

size_t workspace_bytes(const Layer&) { return 0; }

// The launch of a layer of one input, as far as both operators have the same; pointers are left empty.
template <typename Problem>
Problem volume_problem(const Layer& layer) {
    const Dims& volume = layer.inputs[0].dims;
    Problem problem = {};
    problem.batch = volume.d[0];
    problem.channels = volume.d[1];
    problem.depth = volume.d[2];
    problem.height = volume.d[3];
    problem.width = volume.d[4];
    problem.feature_type = feature_type_of(layer.inputs[0].type);
    problem.channels_last = layer.inputs[0].format == TensorFormat::kDHWC8;
    return problem;
}

SadtrtVolumeResize resize_of(const Layer& layer) {
    SadtrtVolumeResize problem = volume_problem<SadtrtVolumeResize>(layer);
    problem.mode = layer.attributes[kMode].integer;
    return problem;
}

SadtrtVolumeJoinDouble join_of(const Layer& layer) {
    const Dims& first = layer.inputs[0].dims;
    SadtrtVolumeJoinDouble problem = {};
    problem.batch = first.d[0];
    problem.first_channels = first.d[1];
    problem.second_channels = layer.inputs[1].dims.d[1];
    problem.depth = first.d[2];
    problem.height = first.d[3];
    problem.width = first.d[4];
    problem.feature_type = feature_type_of(layer.inputs[0].type);
    problem.channels_last = layer.inputs[0].format == TensorFormat::kDHWC8;
    return problem;
}

int32_t check_resize(const Layer& layer, char* message) {
    return check_problem(resize_of(layer), message, kMessageBytes);
}

int32_t check_join(const Layer& layer, char* message) {
    for (int32_t axis = 0; axis < kAxes; ++axis) {
        const int64_t first = layer.inputs[0].dims.d[axis];
        const int64_t second = layer.inputs[1].dims.d[axis];
        if (axis != 1 && first != second) {
            return refuse(message, kMessageBytes, "VolumeJoinDouble: axis %d has sizes %lld and %lld", axis,
                          static_cast<long long>(first), static_cast<long long>(second));
        }
    }
    return check_problem(join_of(layer), message, kMessageBytes);
}

int32_t check_fold(const Layer& layer, char* message) {
    return check_problem(volume_problem<SadtrtFoldDepth>(layer), message, kMessageBytes);
}

int32_t enqueue_resize(const Layer& layer, const void* const* inputs, void* const* outputs, void*,
                       cudaStream_t stream, char* message) {
    SadtrtVolumeResize problem = resize_of(layer);
    problem.input = inputs[0];
    problem.output = outputs[0];
    return sadtrt_volume_resize(&problem, stream, message, kMessageBytes);
}

int32_t enqueue_join(const Layer& layer, const void* const* inputs, void* const* outputs, void*, cudaStream_t stream,
                     char* message) {
    if (const int32_t refused = check_join(layer, message)) {
        return refused;
    }
    SadtrtVolumeJoinDouble problem = join_of(layer);
    problem.first = inputs[0];
    problem.second = inputs[1];
    problem.output = outputs[0];
    return sadtrt_volume_join_double(&problem, stream, message, kMessageBytes);
}

int32_t enqueue_fold(const Layer& layer, const void* const* inputs, void* const* outputs, void*, cudaStream_t stream,
                     char* message) {
    SadtrtFoldDepth problem = volume_problem<SadtrtFoldDepth>(layer);
    problem.input = inputs[0];
    problem.output = outputs[0];
    return sadtrt_fold_depth(&problem, stream, message, kMessageBytes);
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
    infer_resized,
    output_type,
    supports_resized,
    workspace_bytes,
    check_resize,
    enqueue_resize,
};

const Operator kVolumeJoinDouble = {
    /*name=*/"VolumeJoinDouble",
    /*version=*/"1",
    /*mark=*/"sadtrtVJ",
    /*inputs=*/2,
    /*outputs=*/1,
    /*attributes=*/nullptr,
    /*attribute_count=*/0,
    infer_joined,
    output_type,
    supports_joined,
    workspace_bytes,
    check_join,
    enqueue_join,
};

const Operator kFoldDepth = {
    /*name=*/"FoldDepth",
    /*version=*/"1",
    /*mark=*/"sadtrtFD",
    /*inputs=*/1,
    /*outputs=*/1,
    /*attributes=*/nullptr,
    /*attribute_count=*/0,
    infer_folded,
    output_type,
    supports_folded,
    workspace_bytes,
    check_fold,
    enqueue_fold,
};

}  // namespace sadtrt
