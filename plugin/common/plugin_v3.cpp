// The operators for TensorRT 10, 11 and TensorRT for RTX: IPluginV3 found through getCreators, no link to nvinfer.
#include "adaptor.h"
#include "operators.h"

#if SADTRT_PLUGIN_V3

#include <atomic>
#include <deque>
#include <new>
#include <string>
#include <vector>

namespace sadtrt {
namespace {

using namespace nvinfer1;

// The way to the user's logger. TensorRT hands it over once, when it loads the library; no layer's work depends on it.
std::atomic<ILoggerFinder*>& logger_finder() {
    static std::atomic<ILoggerFinder*> finder{nullptr};
    return finder;
}

ILogger* logger() {
    ILoggerFinder* finder = logger_finder().load();
    return finder != nullptr ? finder->findLogger() : nullptr;
}

// "interpolation 0 padding 1", so that layers of other attributes are timed by themselves.
std::string timing_cache_id(const Operator& op, const Values& attributes) {
    std::string id;
    for (int32_t index = 0; index < op.attribute_count; ++index) {
        const Attribute& attribute = op.attributes[index];
        const bool is_integer = attribute.type == PluginFieldType::kINT32;
        char number[32];
        std::snprintf(number, sizeof(number), "%.10g",
                      is_integer ? static_cast<double>(attributes[index].integer) : attributes[index].real);
        id += std::string(index > 0 ? " " : "") + attribute.name + " " + number;
    }
    return id;
}

class Plugin final : public IPluginV3,
                     public IPluginV3OneCore,
                     public IPluginV3OneBuild,
                     public IPluginV3OneRuntime {
public:
    Plugin(const Operator& op, const Values& attributes)
        : mOperator(op),
          mAttributes(attributes),
          mFields(op, &mAttributes),
          mTimingCacheId(timing_cache_id(op, attributes)) {}
    Plugin(const Plugin&) = delete;

    IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
        switch (type) {
            case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
            case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
            case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }
    IPluginV3* clone() noexcept override { return new (std::nothrow) Plugin(mOperator, mAttributes); }

    const char* getPluginName() const noexcept override { return mOperator.name; }
    const char* getPluginVersion() const noexcept override { return mOperator.version; }
    const char* getPluginNamespace() const noexcept override { return ""; }

    int32_t getNbOutputs() const noexcept override { return mOperator.outputs; }
    int32_t configurePlugin(const DynamicPluginTensorDesc*, int32_t, const DynamicPluginTensorDesc*,
                            int32_t) noexcept override {
        return 0;
    }
    int32_t getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                               int32_t input_count) const noexcept override {
        if (!counts_fit(input_count, output_count)) {
            return 1;
        }
        for (int32_t output = 0; output < output_count; ++output) {
            outputs[output] = mOperator.output_type(output, inputs);
        }
        return 0;
    }
    int32_t getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs*, int32_t,
                            DimsExprs* outputs, int32_t output_count, IExprBuilder& builder) noexcept override {
        char message[kMessageBytes];
        bool fits = output_count == mOperator.outputs;
        if (!fits) {
            refuse(message, kMessageBytes, "%s: it has %d outputs, not %d", mOperator.name, mOperator.outputs,
                   output_count);
        } else {
            fits = infer_shapes(mOperator, inputs, input_count, mAttributes, outputs, builder, message);
        }
        return reported(fits ? 0 : 1, message);
    }
    bool supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors, int32_t input_count,
                                   int32_t output_count) noexcept override {
        if (!counts_fit(input_count, output_count)) {
            return false;
        }
        PluginTensorDesc descriptions[kMostTensors];
        for (int32_t index = 0; index <= position; ++index) {
            descriptions[index] = tensors[index].desc;
        }
        return mOperator.supports(position, descriptions);
    }
    size_t getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t input_count,
                            const DynamicPluginTensorDesc* outputs, int32_t output_count) const noexcept override {
        if (!counts_fit(input_count, output_count)) {
            return 0;
        }
        PluginTensorDesc largest[kMostTensors];
        for (int32_t index = 0; index < input_count + output_count; ++index) {
            const DynamicPluginTensorDesc& tensor =
                index < input_count ? inputs[index] : outputs[index - input_count];
            largest[index] = tensor.desc;
            largest[index].dims = tensor.max;
        }
        return mOperator.workspace_bytes({largest, largest + input_count, mAttributes});
    }
    const char* getTimingCacheID() noexcept override { return mTimingCacheId.c_str(); }

    int32_t onShapeChange(const PluginTensorDesc* inputs, int32_t, const PluginTensorDesc* outputs,
                          int32_t) noexcept override {
        char message[kMessageBytes];
        return reported(mOperator.check({inputs, outputs, mAttributes}, message), message);
    }
    int32_t enqueue(const PluginTensorDesc* input_descriptions, const PluginTensorDesc* output_descriptions,
                    const void* const* inputs, void* const* outputs, void* workspace,
                    cudaStream_t stream) noexcept override {
        char message[kMessageBytes];
        const Layer layer = {input_descriptions, output_descriptions, mAttributes};
        return reported(run(mOperator, layer, inputs, outputs, workspace, stream, message), message);
    }
    IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }
    const PluginFieldCollection* getFieldsToSerialize() noexcept override { return mFields.collection(); }

private:
    bool counts_fit(int32_t input_count, int32_t output_count) const {
        return input_count == mOperator.inputs && output_count == mOperator.outputs;
    }
    static int32_t reported(int32_t failed, const char* message) {
        if (failed != 0) {
            report(logger(), message);
        }
        return failed;
    }

    const Operator& mOperator;
    const Values mAttributes;
    const Fields mFields;
    const std::string mTimingCacheId;
};

class Creator final : public IPluginCreatorV3One {
public:
    explicit Creator(const Operator& op) : mOperator(op), mFields(op) {}

    const char* getPluginName() const noexcept override { return mOperator.name; }
    const char* getPluginVersion() const noexcept override { return mOperator.version; }
    const char* getPluginNamespace() const noexcept override { return ""; }
    const PluginFieldCollection* getFieldNames() noexcept override { return mFields.collection(); }
    IPluginV3* createPlugin(const char*, const PluginFieldCollection* fields, TensorRTPhase phase) noexcept override {
        char message[kMessageBytes];
        Values attributes = {};
        if (!read_attributes(mOperator, fields, phase == TensorRTPhase::kRUNTIME, attributes, message)) {
            report(logger(), message);
            return nullptr;
        }
        return new (std::nothrow) Plugin(mOperator, attributes);
    }

private:
    const Operator& mOperator;
    const Fields mFields;
};

}  // namespace
}  // namespace sadtrt

extern "C" SADTRT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
    sadtrt::logger_finder().store(finder);
}

extern "C" SADTRT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    static std::deque<sadtrt::Creator> made;
    static std::vector<nvinfer1::IPluginCreatorInterface*> creators;
    if (made.empty()) {
        for (const sadtrt::Operator* op : sadtrt::kOperators) {
            creators.push_back(&made.emplace_back(*op));
        }
    }
    count = static_cast<int32_t>(creators.size());
    return creators.data();
}

#endif
