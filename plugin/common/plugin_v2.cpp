// The operators for TensorRT 8.6: IPluginV2DynamicExt, registered when the library is loaded.
//
// The library links to no TensorRT library, whose wheels have nothing to link to. It asks the one that is already
// loaded (by "import tensorrt") for its registry; sadtrt_plugin_registration tries again and says how that went.
#include "adaptor.h"
#include "operators.h"

#if !SADTRT_PLUGIN_V3

#include <dlfcn.h>

#include <deque>
#include <new>
#include <string>

// 8.6 calls this interface deprecated, and has no other.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace sadtrt {
namespace {

using namespace nvinfer1;

#define SADTRT_TEXT_OF(value) #value
#define SADTRT_TEXT(value) SADTRT_TEXT_OF(value)
constexpr const char* kTensorRTLibrary = "libnvinfer.so." SADTRT_TEXT(NV_TENSORRT_MAJOR);

// A function of the TensorRT library in this process, whether it was loaded with global symbols or not; else null.
void* tensorrt_function(const char* name) {
    if (void* found = dlsym(RTLD_DEFAULT, name)) {
        return found;
    }
    void* library = dlopen(kTensorRTLibrary, RTLD_LAZY | RTLD_NOLOAD);
    return library != nullptr ? dlsym(library, name) : nullptr;
}

ILogger* logger() {
    const auto get_logger = reinterpret_cast<ILogger* (*)()>(tensorrt_function("getLogger"));
    return get_logger != nullptr ? get_logger() : nullptr;
}

// How a serialised layer begins in an engine; its attributes follow, four bytes each.
struct Header {
    char mark[8];
    int32_t format;
};
static_assert(sizeof(Header) == 12, "a serialised layer has no gaps");
constexpr int32_t kFormat = 1;

size_t serialised_bytes(const Operator& op) {
    return sizeof(Header) + sizeof(Value) * static_cast<size_t>(op.attribute_count);
}

class Plugin final : public IPluginV2DynamicExt {
public:
    Plugin(const Operator& op, const Values& attributes) : mOperator(op), mAttributes(attributes) {}

    IPluginV2DynamicExt* clone() const noexcept override {
        Plugin* copy = new (std::nothrow) Plugin(mOperator, mAttributes);
        if (copy != nullptr) {
            copy->setPluginNamespace(mNamespace.c_str());
        }
        return copy;
    }
    DimsExprs getOutputDimensions(int32_t output, const DimsExprs* inputs, int32_t input_count,
                                  IExprBuilder& builder) noexcept override {
        char message[kMessageBytes];
        DimsExprs outputs[kMostTensors] = {};
        if (!infer_shapes(mOperator, inputs, input_count, mAttributes, outputs, builder, message)) {
            report(logger(), message);
            outputs[output].nbDims = -1;
        }
        return outputs[output];
    }
    bool supportsFormatCombination(int32_t position, const PluginTensorDesc* tensors, int32_t input_count,
                                   int32_t output_count) noexcept override {
        return input_count == mOperator.inputs && output_count == mOperator.outputs &&
               mOperator.supports(position, tensors);
    }
    void configurePlugin(const DynamicPluginTensorDesc*, int32_t, const DynamicPluginTensorDesc*,
                         int32_t) noexcept override {}
    size_t getWorkspaceSize(const PluginTensorDesc* inputs, int32_t, const PluginTensorDesc* outputs,
                            int32_t) const noexcept override {
        return mOperator.workspace_bytes({inputs, outputs, mAttributes});
    }
    int32_t enqueue(const PluginTensorDesc* input_descriptions, const PluginTensorDesc* output_descriptions,
                    const void* const* inputs, void* const* outputs, void* workspace,
                    cudaStream_t stream) noexcept override {
        char message[kMessageBytes];
        const Layer layer = {input_descriptions, output_descriptions, mAttributes};
        const int32_t failed = run(mOperator, layer, inputs, outputs, workspace, stream, message);
        if (failed != 0) {
            report(logger(), message);
        }
        return failed;
    }
    DataType getOutputDataType(int32_t output, const DataType* inputs, int32_t) const noexcept override {
        return mOperator.output_type(output, inputs);
    }

    const char* getPluginType() const noexcept override { return mOperator.name; }
    const char* getPluginVersion() const noexcept override { return mOperator.version; }
    int32_t getNbOutputs() const noexcept override { return mOperator.outputs; }
    int32_t initialize() noexcept override { return 0; }
    void terminate() noexcept override {}
    size_t getSerializationSize() const noexcept override { return serialised_bytes(mOperator); }
    void serialize(void* buffer) const noexcept override {
        Header header;
        std::memcpy(header.mark, mOperator.mark, sizeof(header.mark));
        header.format = kFormat;
        std::memcpy(buffer, &header, sizeof(header));
        std::memcpy(static_cast<char*>(buffer) + sizeof(header), mAttributes.data(),
                    serialised_bytes(mOperator) - sizeof(header));
    }
    void destroy() noexcept override { delete this; }
    void setPluginNamespace(const char* name) noexcept override { mNamespace = name != nullptr ? name : ""; }
    const char* getPluginNamespace() const noexcept override { return mNamespace.c_str(); }

private:
    const Operator& mOperator;
    const Values mAttributes;
    std::string mNamespace;
};

class Creator final : public IPluginCreator {
public:
    explicit Creator(const Operator& op) : mOperator(op), mFields(op) {}

    const char* getPluginName() const noexcept override { return mOperator.name; }
    const char* getPluginVersion() const noexcept override { return mOperator.version; }
    const PluginFieldCollection* getFieldNames() noexcept override { return mFields.collection(); }
    IPluginV2* createPlugin(const char*, const PluginFieldCollection* fields) noexcept override {
        char message[kMessageBytes];
        Values attributes = {};
        if (!read_attributes(mOperator, fields, false, attributes, message)) {
            report(logger(), message);
            return nullptr;
        }
        return create(attributes);
    }
    IPluginV2* deserializePlugin(const char*, const void* bytes, size_t length) noexcept override {
        char message[kMessageBytes];
        Values attributes = {};
        if (!read_layer(bytes, length, attributes, message)) {
            report(logger(), message);
            return nullptr;
        }
        return create(attributes);
    }
    void setPluginNamespace(const char* name) noexcept override { mNamespace = name != nullptr ? name : ""; }
    const char* getPluginNamespace() const noexcept override { return mNamespace.c_str(); }

private:
    bool read_layer(const void* bytes, size_t length, Values& attributes, char* message) const {
        const size_t expected = serialised_bytes(mOperator);
        if (bytes == nullptr || length != expected) {
            refuse(message, kMessageBytes,
                   "%s: a serialised layer of %zu bytes was not written by this plugin; %zu are expected",
                   mOperator.name, length, expected);
            return false;
        }
        Header header;
        std::memcpy(&header, bytes, sizeof(header));
        if (std::memcmp(header.mark, mOperator.mark, sizeof(header.mark)) != 0 || header.format != kFormat) {
            refuse(message, kMessageBytes, "%s: the serialised layer was not written by this version of the plugin",
                   mOperator.name);
            return false;
        }
        const char* next = static_cast<const char*>(bytes) + sizeof(header);
        for (int32_t index = 0; index < mOperator.attribute_count; ++index, next += sizeof(Value)) {
            Value value;
            std::memcpy(&value, next, sizeof(value));
            if (!set_attribute(mOperator, index, value, attributes, message)) {
                return false;
            }
        }
        return true;
    }
    IPluginV2* create(const Values& attributes) const {
        Plugin* plugin = new (std::nothrow) Plugin(mOperator, attributes);
        if (plugin != nullptr) {
            plugin->setPluginNamespace(mNamespace.c_str());
        }
        return plugin;
    }

    const Operator& mOperator;
    const Fields mFields;
    std::string mNamespace;
};

std::deque<Creator>& creators() {
    static std::deque<Creator> made;
    if (made.empty()) {
        for (const Operator* op : kOperators) {
            made.emplace_back(*op);
        }
    }
    return made;
}

// Registers the creators that are not: "" or the reason why one cannot be.
const char* register_creators() {
    const auto get_registry = reinterpret_cast<IPluginRegistry* (*)()>(tensorrt_function("getPluginRegistry"));
    if (get_registry == nullptr) {
        return "no TensorRT library is loaded in this process: import tensorrt first";
    }
    IPluginRegistry* registry = get_registry();
    for (Creator& creator : creators()) {
        const char* name = creator.getPluginName();
        const char* version = creator.getPluginVersion();
        if (registry->getPluginCreator(name, version, "") != &creator && !registry->registerCreator(creator, "")) {
            static char reason[kMessageBytes];
            refuse(reason, kMessageBytes, "TensorRT's registry has another plugin %s of version %s already", name,
                   version);
            return reason;
        }
    }
    return "";
}

// Loading the library after TensorRT is enough.
[[maybe_unused]] const char* const tried_at_load = register_creators();

}  // namespace
}  // namespace sadtrt

// Registers the operators if loading the library came too early to do it: "" or the reason why they cannot be.
extern "C" SADTRT_EXPORT const char* sadtrt_plugin_registration(void) { return sadtrt::register_creators(); }

#endif
