// GridSample3D for TensorRT 8.6: an IPluginV2DynamicExt that registers itself when the library is loaded.
//
// The library links to no TensorRT library, whose wheels have nothing to link to. It asks the one that is already
// loaded (by "import tensorrt") for its registry; sadtrt_plugin_registration tries again and says how that went.
#include "plugin_common.h"

#if !SADTRT_PLUGIN_V3

#include <dlfcn.h>

#include <new>

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

// What a serialised layer looks like in an engine.
struct State {
    char magic[8] = {'s', 'a', 'd', 't', 'r', 't', 'G', '3'};
    int32_t format = 1;
    int32_t interpolation = 0;
    int32_t padding = 0;
    int32_t align_corners = 0;
};
static_assert(sizeof(State) == 24, "a serialised layer has no gaps");

class GridSample3D final : public IPluginV2DynamicExt {
public:
    explicit GridSample3D(const Attributes& attributes) : mAttributes(attributes) {}

    IPluginV2DynamicExt* clone() const noexcept override {
        GridSample3D* copy = new (std::nothrow) GridSample3D(mAttributes);
        if (copy != nullptr) {
            copy->setPluginNamespace(mNamespace.c_str());
        }
        return copy;
    }
    DimsExprs getOutputDimensions(int32_t, const DimsExprs* inputs, int32_t input_count,
                                  IExprBuilder&) noexcept override {
        char message[kMessageBytes];
        DimsExprs output = {};
        if (!infer_shape(inputs, input_count, output, message)) {
            report(logger(), message);
            output.nbDims = -1;
        }
        return output;
    }
    bool supportsFormatCombination(int32_t position, const PluginTensorDesc* tensors, int32_t input_count,
                                   int32_t output_count) noexcept override {
        return input_count == kInputs && output_count == 1 && supports(tensors[position], position, tensors[0]);
    }
    void configurePlugin(const DynamicPluginTensorDesc*, int32_t, const DynamicPluginTensorDesc*,
                         int32_t) noexcept override {}
    size_t getWorkspaceSize(const PluginTensorDesc* inputs, int32_t, const PluginTensorDesc*,
                            int32_t) const noexcept override {
        const SadtrtGridSample3D problem = problem_of(inputs, mAttributes);
        return static_cast<size_t>(sadtrt_grid_sample_3d_workspace(&problem));
    }
    int32_t enqueue(const PluginTensorDesc* input_descriptions, const PluginTensorDesc*, const void* const* inputs,
                    void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
        char message[kMessageBytes];
        const int32_t failed = launch(input_descriptions, inputs, outputs, workspace, mAttributes, stream, message);
        if (failed != 0) {
            report(logger(), message);
        }
        return failed;
    }
    DataType getOutputDataType(int32_t, const DataType* types, int32_t) const noexcept override { return types[0]; }

    const char* getPluginType() const noexcept override { return kPluginName; }
    const char* getPluginVersion() const noexcept override { return kPluginVersion; }
    int32_t getNbOutputs() const noexcept override { return 1; }
    int32_t initialize() noexcept override { return 0; }
    void terminate() noexcept override {}
    size_t getSerializationSize() const noexcept override { return sizeof(State); }
    void serialize(void* buffer) const noexcept override {
        State state;
        state.interpolation = mAttributes.interpolation;
        state.padding = mAttributes.padding;
        state.align_corners = mAttributes.align_corners;
        std::memcpy(buffer, &state, sizeof(state));
    }
    void destroy() noexcept override { delete this; }
    void setPluginNamespace(const char* name) noexcept override { mNamespace = name != nullptr ? name : ""; }
    const char* getPluginNamespace() const noexcept override { return mNamespace.c_str(); }

private:
    const Attributes mAttributes;
    std::string mNamespace;
};

class GridSample3DCreator final : public IPluginCreator {
public:
    GridSample3DCreator() {
        for (int index = 0; index < kAttributeCount; ++index) {
            mFields[index] = PluginField(kAttributes[index].name, nullptr, PluginFieldType::kINT32, 1);
        }
        mCollection.nbFields = kAttributeCount;
        mCollection.fields = mFields;
    }
    const char* getPluginName() const noexcept override { return kPluginName; }
    const char* getPluginVersion() const noexcept override { return kPluginVersion; }
    const PluginFieldCollection* getFieldNames() noexcept override { return &mCollection; }
    IPluginV2* createPlugin(const char*, const PluginFieldCollection* fields) noexcept override {
        char message[kMessageBytes];
        Attributes attributes;
        if (!read_attributes(fields, false, attributes, message)) {
            report(logger(), message);
            return nullptr;
        }
        return create(attributes);
    }
    IPluginV2* deserializePlugin(const char*, const void* bytes, size_t length) noexcept override {
        char message[kMessageBytes];
        const State expected;
        State state;
        if (bytes == nullptr || length != sizeof(state)) {
            refuse(message, kMessageBytes,
                   "GridSample3D: a serialised layer of %zu bytes was not written by this plugin; %zu are expected",
                   length, sizeof(state));
            report(logger(), message);
            return nullptr;
        }
        std::memcpy(&state, bytes, sizeof(state));
        if (std::memcmp(state.magic, expected.magic, sizeof(state.magic)) != 0 || state.format != expected.format) {
            report(logger(), "GridSample3D: the serialised layer was not written by this version of the plugin");
            return nullptr;
        }
        Attributes attributes;
        const int32_t values[] = {state.interpolation, state.padding, state.align_corners};
        for (int index = 0; index < kAttributeCount; ++index) {
            if (!set_attribute(attributes, kAttributes[index], values[index], message)) {
                report(logger(), message);
                return nullptr;
            }
        }
        return create(attributes);
    }
    void setPluginNamespace(const char* name) noexcept override { mNamespace = name != nullptr ? name : ""; }
    const char* getPluginNamespace() const noexcept override { return mNamespace.c_str(); }

private:
    static constexpr int kAttributeCount = static_cast<int>(sizeof(kAttributes) / sizeof(kAttributes[0]));

    IPluginV2* create(const Attributes& attributes) const {
        GridSample3D* plugin = new (std::nothrow) GridSample3D(attributes);
        if (plugin != nullptr) {
            plugin->setPluginNamespace(mNamespace.c_str());
        }
        return plugin;
    }

    PluginField mFields[kAttributeCount];
    PluginFieldCollection mCollection;
    std::string mNamespace;
};

GridSample3DCreator& creator() {
    static GridSample3DCreator instance;
    return instance;
}

// Registers the creator unless that is done: "" or the reason why it cannot be.
const char* register_creator() {
    const auto get_registry = reinterpret_cast<IPluginRegistry* (*)()>(tensorrt_function("getPluginRegistry"));
    if (get_registry == nullptr) {
        return "no TensorRT library is loaded in this process: import tensorrt first";
    }
    IPluginRegistry* registry = get_registry();
    if (registry->getPluginCreator(kPluginName, kPluginVersion, "") == &creator() ||
        registry->registerCreator(creator(), "")) {
        return "";
    }
    return "TensorRT's registry has another plugin GridSample3D of version 1 already";
}

// Loading the library after TensorRT is enough.
[[maybe_unused]] const char* const tried_at_load = register_creator();

}  // namespace
}  // namespace sadtrt

// Registers GridSample3D if loading the library came too early to do it: "" or the reason why it cannot be.
extern "C" SADTRT_EXPORT const char* sadtrt_plugin_registration(void) { return sadtrt::register_creator(); }

#endif
