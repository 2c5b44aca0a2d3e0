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
    // Queues one layer: 0, or another number. The workspace is as large as was asked for at the largest shapes.
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

}  // namespace sadtrt
