// What both adaptors do with an operator's description: attributes in and out, shapes, and where messages go.
#pragma once

#include <cstdio>
#include <cstring>

#include "operator.h"

namespace sadtrt {

// The attributes as TensorRT asks for them: names and types, and values where there are any.
class Fields {
public:
    explicit Fields(const Operator& op, const Values* values = nullptr) {
        for (int32_t index = 0; index < op.attribute_count; ++index) {
            const Attribute& attribute = op.attributes[index];
            const void* value = values != nullptr ? &(*values)[index] : nullptr;
            mFields[index] = nvinfer1::PluginField(attribute.name, value, attribute.type, 1);
        }
        mCollection.nbFields = op.attribute_count;
        mCollection.fields = mFields.data();
    }
    Fields(const Fields&) = delete;

    const nvinfer1::PluginFieldCollection* collection() const { return &mCollection; }

private:
    std::array<nvinfer1::PluginField, kMostAttributes> mFields;
    nvinfer1::PluginFieldCollection mCollection = {};
};

// Sets one attribute; false, with a sentence, when its value is out of range.
inline bool set_attribute(const Operator& op, int32_t index, Value value, Values& values, char* message) {
    const Attribute& attribute = op.attributes[index];
    const bool is_integer = attribute.type == nvinfer1::PluginFieldType::kINT32;
    const double number = is_integer ? static_cast<double>(value.integer) : static_cast<double>(value.real);
    if (!(number >= attribute.smallest && number <= attribute.largest)) {  // also for NaN
        refuse(message, kMessageBytes, "%s: attribute %s is %.10g; %s from %.10g to %.10g is expected", op.name,
               attribute.name, number, is_integer ? "an integer" : "a number", attribute.smallest, attribute.largest);
        return false;
    }
    values[index] = value;
    return true;
}

// Reads attributes as the ONNX parser or a serialised engine gives them. Absent ones keep their initial value unless
// all are required; false, with a sentence, when one has another type or is out of range.
inline bool read_attributes(const Operator& op, const nvinfer1::PluginFieldCollection* fields, bool require_all,
                            Values& values, char* message) {
    for (int32_t index = 0; index < op.attribute_count; ++index) {
        const Attribute& attribute = op.attributes[index];
        const bool is_integer = attribute.type == nvinfer1::PluginFieldType::kINT32;
        bool found = false;
        if (is_integer) {
            values[index].integer = static_cast<int32_t>(attribute.initial);
        } else {
            values[index].real = static_cast<float>(attribute.initial);
        }
        for (int32_t number = 0; fields != nullptr && number < fields->nbFields; ++number) {
            const nvinfer1::PluginField& field = fields->fields[number];
            if (std::strcmp(field.name, attribute.name) != 0) {
                continue;
            }
            if (field.type != attribute.type || field.length != 1 || field.data == nullptr) {
                refuse(message, kMessageBytes, "%s: attribute %s is not one 32-bit %s", op.name, attribute.name,
                       is_integer ? "integer" : "float");
                return false;
            }
            Value value;
            std::memcpy(&value, field.data, sizeof(value));
            if (!set_attribute(op, index, value, values, message)) {
                return false;
            }
            found = true;
        }
        if (require_all && !found) {
            refuse(message, kMessageBytes,
                   "%s: the serialised layer has no attribute %s: it was not written by this plugin", op.name,
                   attribute.name);
            return false;
        }
    }
    return true;
}

// The shapes of all outputs; false, with a sentence, when the inputs do not fit.
inline bool infer_shapes(const Operator& op, const nvinfer1::DimsExprs* inputs, int32_t count,
                         const Values& attributes, nvinfer1::DimsExprs* outputs, nvinfer1::IExprBuilder& builder,
                         char* message) {
    if (count != op.inputs) {
        refuse(message, kMessageBytes, "%s: %d inputs are expected, not %d", op.name, op.inputs, count);
        return false;
    }
    return op.infer_shapes(inputs, attributes, outputs, builder, message);
}

// Queues one layer: 0, or another number with a sentence where it cannot be run.
inline int32_t run(const Operator& op, const Layer& layer, const void* const* inputs, void* const* outputs,
                   void* workspace, cudaStream_t stream, char* message) {
    const int32_t refused = op.check(layer, message);
    return refused != 0 ? refused : op.enqueue(layer, inputs, outputs, workspace, stream, message);
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
