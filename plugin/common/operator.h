// What an operator is to TensorRT: one description, from which both adaptors are made (plugin_v2.cpp, plugin_v3.cpp).
#pragma once

#include <NvInfer.h>
#include <NvInferVersion.h>

#include <array>

#include "library.h"
#include "refuse.h"

// TensorRT for RTX counts its own versions from 1, so its headers cannot be told by NV_TENSORRT_MAJOR alone.
#if defined(TRT_MAJOR_RTX) || NV_TENSORRT_MAJOR >= 10
#define SADTRT_PLUGIN_V3 1
#else
#define SADTRT_PLUGIN_V3 0
#endif

namespace sadtrt {

constexpr int kMostAttributes = 8;
constexpr int kMostTensors = 16;  // inputs and outputs together
constexpr int kMessageBytes = 512;

// An attribute of the ONNX node, kINT32 or kFLOAT32, with its bounds and what it is where the node does not say.
struct Attribute {
    const char* name;
    nvinfer1::PluginFieldType type;
    double smallest, largest, initial;
};

union Value {
    int32_t integer;
    float real;
};
using Values = std::array<Value, kMostAttributes>;  // in the order of the operator's attributes

// A node with concrete shapes, or with the largest where TensorRT asks for a workspace.
struct Layer {
    const nvinfer1::PluginTensorDesc* inputs;
    const nvinfer1::PluginTensorDesc* outputs;
    const Values& attributes;
};

// Functions that may refuse write one sentence of at most kMessageBytes, which begins with the operator's name.
struct Operator {
    const char* name;     // of the ONNX node
    const char* version;  // of the ONNX node: its attribute plugin_version
    const char* mark;     // eight characters, with which its layers begin in an engine of TensorRT 8.6
    int32_t inputs, outputs;
    const Attribute* attributes;
    int32_t attribute_count;

    // The shapes of the outputs as far as they are known at build time; false when the inputs do not fit.
    bool (*infer_shapes)(const nvinfer1::DimsExprs* inputs, const Values& attributes, nvinfer1::DimsExprs* outputs,
                         nvinfer1::IExprBuilder& builder, char* message);
    nvinfer1::DataType (*output_type)(int32_t output, const nvinfer1::DataType* inputs);
    // Whether tensor `position` (inputs, then outputs) may have its type and format, beside those before it.
    bool (*supports)(int32_t position, const nvinfer1::PluginTensorDesc* tensors);
    size_t (*workspace_bytes)(const Layer& layer);
    // 0, or another number when layers of these shapes cannot be run.
    int32_t (*check)(const Layer& layer, char* message);
    // Queues one layer that `check` lets pass: 0, or another number. The workspace is as large as was asked for at the
    // largest shapes.
    int32_t (*enqueue)(const Layer& layer, const void* const* inputs, void* const* outputs, void* workspace,
                       cudaStream_t stream, char* message);
};

// SADTRT_FLOAT32, ... or -1 for a type that no kernel here computes with.
inline int32_t feature_type_of(nvinfer1::DataType type) {
    switch (type) {
        case nvinfer1::DataType::kFLOAT: return SADTRT_FLOAT32;
        case nvinfer1::DataType::kHALF: return SADTRT_FLOAT16;
#if SADTRT_PLUGIN_V3
        case nvinfer1::DataType::kBF16: return SADTRT_BFLOAT16;
#endif
        default: return -1;
    }
}

// What an operator says that needs no workspace, or whose output has its first input's type, or is fp32.
inline size_t no_workspace(const Layer&) { return 0; }
inline nvinfer1::DataType type_of_first(int32_t, const nvinfer1::DataType* inputs) { return inputs[0]; }
inline nvinfer1::DataType always_fp32(int32_t, const nvinfer1::DataType*) { return nvinfer1::DataType::kFLOAT; }

inline bool is_plain_fp32(const nvinfer1::PluginTensorDesc& tensor) {
    return tensor.type == nvinfer1::DataType::kFLOAT && tensor.format == nvinfer1::TensorFormat::kLINEAR;
}

// Whether a tensor is fp32, fp16 or bf16 in linear layout, or fp16 or bf16 in the format `channels_last`.
inline bool has_features(const nvinfer1::PluginTensorDesc& tensor, nvinfer1::TensorFormat channels_last) {
    const int32_t type = feature_type_of(tensor.type);
    return type >= 0 && (tensor.format == nvinfer1::TensorFormat::kLINEAR ||
                         (tensor.format == channels_last && type != SADTRT_FLOAT32));
}

// The same, where the channels of a tensor of so many axes also fill the format's vectors.
inline bool has_full_features(const nvinfer1::PluginTensorDesc& tensor, nvinfer1::TensorFormat channels_last,
                              int32_t axes, int64_t vector = 8) {
    const bool full = tensor.dims.nbDims == axes && tensor.dims.d[1] > 0 && tensor.dims.d[1] % vector == 0;
    return has_features(tensor, channels_last) && (full || tensor.format == nvinfer1::TensorFormat::kLINEAR);
}

}  // namespace sadtrt
