// What both TensorRT adaptors share: names, attributes, formats, shapes and the launch of one layer.
#pragma once

#include <NvInfer.h>
#include <NvInferVersion.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "grid_sample_3d.h"
#include "problem_check.h"

// TensorRT for RTX counts its own versions from 1, so its headers cannot be told by NV_TENSORRT_MAJOR alone.
#if defined(TRT_MAJOR_RTX) || NV_TENSORRT_MAJOR >= 10
#define SADTRT_PLUGIN_V3 1
#else
#define SADTRT_PLUGIN_V3 0
#endif

namespace sadtrt {

constexpr const char* kPluginName = "GridSample3D";
constexpr const char* kPluginVersion = "1";
constexpr int32_t kInputs = 2;  // volume, grid
constexpr int32_t kAxes = 5;
constexpr int kMessageBytes = 512;

struct Attributes {
    int32_t interpolation = 0;
    int32_t padding = 0;
    int32_t align_corners = 0;
};

struct AttributeName {
    const char* name;
    int32_t Attributes::*value;
    int32_t largest;
};
inline constexpr AttributeName kAttributes[] = {{"interpolation", &Attributes::interpolation, 1},
                                                {"padding", &Attributes::padding, 2},
                                                {"align_corners", &Attributes::align_corners, 1}};

// Sets one attribute; false, with a sentence, when its value is out of range.
inline bool set_attribute(Attributes& attributes, const AttributeName& attribute, int64_t value, char* message) {
    if (value < 0 || value > attribute.largest) {
        refuse(message, kMessageBytes, "GridSample3D: attribute %s is %lld; an integer from 0 to %d is expected",
               attribute.name, static_cast<long long>(value), attribute.largest);
        return false;
    }
    attributes.*attribute.value = static_cast<int32_t>(value);
    return true;
}

// Reads attributes as the ONNX parser or a serialised engine gives them. Absent ones keep their default of 0 unless
// all are required; false, with a sentence, when one has another type or is out of range.
inline bool read_attributes(const nvinfer1::PluginFieldCollection* fields, bool require_all, Attributes& attributes,
                            char* message) {
    for (const AttributeName& attribute : kAttributes) {
        bool found = false;
        for (int32_t index = 0; fields != nullptr && index < fields->nbFields; ++index) {
            const nvinfer1::PluginField& field = fields->fields[index];
            if (std::strcmp(field.name, attribute.name) != 0) {
                continue;
            }
            if (field.type != nvinfer1::PluginFieldType::kINT32 || field.length != 1 || field.data == nullptr) {
                refuse(message, kMessageBytes, "GridSample3D: attribute %s is not one 32-bit integer", attribute.name);
                return false;
            }
            int32_t value = 0;
            std::memcpy(&value, field.data, sizeof(value));
            if (!set_attribute(attributes, attribute, value, message)) {
                return false;
            }
            found = true;
        }
        if (require_all && !found) {
            refuse(message, kMessageBytes,
                   "GridSample3D: the serialised layer has no attribute %s: it was not written by this plugin",
                   attribute.name);
            return false;
        }
    }
    return true;
}

// SADTRT_FLOAT32, ... or -1 for a type the kernel does not sample.
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

// The volume is fp32, fp16 or bf16 in linear layout, or fp16 or bf16 in kDHWC8 when the channels fill its vectors
// of eight; the grid is fp32 and linear; the output is as the volume.
inline bool supports(const nvinfer1::PluginTensorDesc& tensor, int32_t position,
                     const nvinfer1::PluginTensorDesc& volume) {
    using nvinfer1::DataType;
    using nvinfer1::TensorFormat;
    if (position == 1) {
        return tensor.type == DataType::kFLOAT && tensor.format == TensorFormat::kLINEAR;
    }
    if (position == kInputs) {
        return tensor.type == volume.type && tensor.format == volume.format;
    }
    const int32_t type = feature_type_of(tensor.type);
    if (type < 0) {
        return false;
    }
    const bool vectors_full = tensor.dims.nbDims == kAxes && tensor.dims.d[1] > 0 && tensor.dims.d[1] % 8 == 0;
    return tensor.format == TensorFormat::kLINEAR ||
           (tensor.format == TensorFormat::kDHWC8 && type != SADTRT_FLOAT32 && vectors_full);
}

// The shape of the output from those of the inputs: (N*k, C, Do, Ho, Wo). False, with a sentence, when the inputs
// are not a volume and a grid as far as is known at build time.
inline bool infer_shape(const nvinfer1::DimsExprs* inputs, int32_t count, nvinfer1::DimsExprs& output, char* message) {
    if (count != kInputs || inputs[0].nbDims != kAxes || inputs[1].nbDims != kAxes) {
        refuse(message, kMessageBytes,
               "GridSample3D: a volume (N, C, D, H, W) and a grid (N*k, Do, Ho, Wo, 3) are expected, not %d inputs "
               "of %d and %d axes",
               count, count > 0 ? inputs[0].nbDims : 0, count > 1 ? inputs[1].nbDims : 0);
        return false;
    }
    const nvinfer1::IDimensionExpr* coordinates = inputs[1].d[4];
    if (coordinates->isConstant() && coordinates->getConstantValue() != 3) {
        refuse(message, kMessageBytes, "GridSample3D: the grid's last axis has size %lld; 3 (x, y, z) is expected",
               static_cast<long long>(coordinates->getConstantValue()));
        return false;
    }
    output.nbDims = kAxes;
    output.d[0] = inputs[1].d[0];
    output.d[1] = inputs[0].d[1];
    output.d[2] = inputs[1].d[1];
    output.d[3] = inputs[1].d[2];
    output.d[4] = inputs[1].d[3];
    return true;
}

// The launch for concrete shapes; pointers are left empty.
inline SadtrtGridSample3D problem_of(const nvinfer1::PluginTensorDesc* inputs, const nvinfer1::Dims& volume,
                                     const nvinfer1::Dims& grid, const Attributes& attributes) {
    SadtrtGridSample3D problem = {};
    problem.volume_batch = volume.d[0];
    problem.channels = volume.d[1];
    problem.depth = volume.d[2];
    problem.height = volume.d[3];
    problem.width = volume.d[4];
    problem.grid_batch = grid.d[0];
    problem.out_depth = grid.d[1];
    problem.out_height = grid.d[2];
    problem.out_width = grid.d[3];
    problem.feature_type = feature_type_of(inputs[0].type);
    problem.layout =
        inputs[0].format == nvinfer1::TensorFormat::kDHWC8 ? SADTRT_CHANNELS_LAST : SADTRT_LINEAR;
    problem.interpolation = attributes.interpolation;
    problem.padding = attributes.padding;
    problem.align_corners = attributes.align_corners;
    return problem;
}

inline SadtrtGridSample3D problem_of(const nvinfer1::PluginTensorDesc* inputs, const Attributes& attributes) {
    return problem_of(inputs, inputs[0].dims, inputs[1].dims, attributes);
}

// Queues one layer on a stream: 0, or another number with a sentence. The workspace is as large as was asked for at
// the largest shapes, which is never less than these shapes can use.
inline int32_t launch(const nvinfer1::PluginTensorDesc* descriptions, const void* const* inputs, void* const* outputs,
                      void* workspace, const Attributes& attributes, cudaStream_t stream, char* message) {
    SadtrtGridSample3D problem = problem_of(descriptions, attributes);
    problem.workspace = workspace;
    problem.workspace_bytes = workspace != nullptr ? sadtrt_grid_sample_3d_workspace(&problem) : 0;
    problem.volume = inputs[0];
    problem.grid = static_cast<const float*>(inputs[1]);
    problem.output = outputs[0];
    return sadtrt_grid_sample_3d(&problem, stream, message, kMessageBytes);
}

// Says it where TensorRT's messages go, or on standard error when there is no logger.
inline void report(nvinfer1::ILogger* logger, const char* message) {
    if (logger != nullptr) {
        logger->log(nvinfer1::ILogger::Severity::kERROR, message);
    } else {
        std::fprintf(stderr, "%s\n", message);
    }
}

}  // namespace sadtrt
