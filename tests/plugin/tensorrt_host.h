// Loads a plugin library as TensorRT does and prints what its operators answer: no TensorRT library, no GPU.
#pragma once

#include <NvInfer.h>
#include <NvInferVersion.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <vector>

using namespace nvinfer1;

#if NV_TENSORRT_MAJOR >= 10
using Number = int64_t;
using Creator = IPluginCreatorV3One;
using Plugin = IPluginV3;
#else
using Number = int32_t;
using Creator = IPluginCreator;
using Plugin = IPluginV2DynamicExt;
#endif

class Dimension final : public IDimensionExpr, private apiv::VDimensionExpr {
public:
    Dimension(int64_t value, bool constant) : mValue(value), mConstant(constant) { mImpl = this; }
    int64_t value() const { return mValue; }

private:
    bool isConstant() const override { return mConstant; }
    Number getConstantValue() const override { return static_cast<Number>(mValue); }
#if NV_TENSORRT_MAJOR >= 10
    bool isSizeTensor() const override { return false; }
#endif
    int64_t mValue;
    bool mConstant;
};

// Expressions are computed at once: -1, an unknown size, as any other number.
class Builder final : public IExprBuilder, private apiv::VExprBuilder {
public:
    Builder() { mImpl = this; }

private:
    const IDimensionExpr* constant(Number value) override { return &mMade.emplace_back(value, true); }
    const IDimensionExpr* operation(DimensionOperation operation, const IDimensionExpr& first,
                                    const IDimensionExpr& second) override {
        const int64_t left = static_cast<const Dimension&>(first).value();
        const int64_t right = static_cast<const Dimension&>(second).value();
        switch (operation) {
            case DimensionOperation::kSUM: return &mMade.emplace_back(left + right, true);
            case DimensionOperation::kPROD: return &mMade.emplace_back(left * right, true);
            case DimensionOperation::kFLOOR_DIV: return &mMade.emplace_back(left / right, true);
            default: return nullptr;
        }
    }
#if NV_TENSORRT_MAJOR >= 10
    const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
        return nullptr;
    }
#endif
    std::deque<Dimension> mMade;
};

class Logger final : public ILogger {
    void log(Severity, const char* message) noexcept override { std::printf("error: %s\n", message); }
} the_logger;

inline DimsExprs expressions(std::deque<Dimension>& made, std::vector<int64_t> sizes) {
    DimsExprs result = {};
    result.nbDims = static_cast<int32_t>(sizes.size());
    for (size_t axis = 0; axis < sizes.size(); ++axis) {
        result.d[axis] = &made.emplace_back(sizes[axis], sizes[axis] >= 0);
    }
    return result;
}

inline PluginTensorDesc tensor(DataType type, TensorFormat format, std::vector<int64_t> sizes) {
    PluginTensorDesc result = {};
    result.type = type;
    result.format = format;
    result.dims.nbDims = static_cast<int32_t>(sizes.size());
    for (size_t axis = 0; axis < sizes.size(); ++axis) {
        result.dims.d[axis] = static_cast<Number>(sizes[axis]);
    }
    return result;
}

#if NV_TENSORRT_MAJOR >= 10
class Finder final : public ILoggerFinder {
    ILogger* findLogger() override { return &the_logger; }
} the_finder;

inline Creator* creator_of(void* library, const char* name) {
    const auto set_finder = reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
    const auto get_creators =
        reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"));
    set_finder(&the_finder);
    int32_t count = 0;
    for (IPluginCreatorInterface* const* creators = get_creators(count); count > 0; ++creators, --count) {
        Creator* creator = static_cast<Creator*>(*creators);
        if (std::strcmp(creator->getPluginName(), name) == 0) {
            return creator;
        }
    }
    return nullptr;
}
inline Plugin* create(Creator* creator, const PluginFieldCollection& fields) {
    return creator->createPlugin("layer", &fields, TensorRTPhase::kBUILD);
}
#else
class Registry final : public IPluginRegistry {
public:
    std::vector<Creator*> found;

    bool registerCreator(IPluginCreator& creator, const char*) noexcept override {
        found.push_back(&creator);
        return true;
    }
    IPluginCreator* getPluginCreator(const char*, const char*, const char*) noexcept override { return nullptr; }
    IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept override { return nullptr; }
    bool isParentSearchEnabled() const override { return false; }
    void setParentSearchEnabled(bool) override {}
    PluginLibraryHandle loadLibrary(const char*) noexcept override { return nullptr; }
    void deregisterLibrary(PluginLibraryHandle) noexcept override {}
    void setErrorRecorder(IErrorRecorder*) noexcept override {}
    IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
    bool deregisterCreator(const IPluginCreator&) noexcept override { return true; }
} the_registry;

extern "C" ILogger* getLogger() noexcept { return &the_logger; }
extern "C" IPluginRegistry* getPluginRegistry() noexcept { return &the_registry; }
inline Creator* creator_of(void*, const char* name) {
    for (Creator* creator : the_registry.found) {
        if (std::strcmp(creator->getPluginName(), name) == 0) {
            return creator;
        }
    }
    return nullptr;
}
inline Plugin* create(Creator* creator, const PluginFieldCollection& fields) {
    return static_cast<Plugin*>(creator->createPlugin("layer", &fields));
}
#endif

inline void print_node(Creator* creator) {
    std::printf("node: %s %s '%s'\n", creator->getPluginName(), creator->getPluginVersion(),
                creator->getPluginNamespace());
    const PluginFieldCollection* fields = creator->getFieldNames();
    for (int32_t index = 0; index < fields->nbFields; ++index) {
        const PluginField& field = fields->fields[index];
        std::printf("attribute: %s, type %d\n", field.name, static_cast<int>(field.type));
    }
}

// What an engine keeps of a layer, and whether a layer comes back from it with the same.
inline void print_serialised(Creator* creator, Plugin* plugin) {
    std::printf("serialised:");
#if NV_TENSORRT_MAJOR >= 10
    const auto core = static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    const auto build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    const PluginFieldCollection* fields = core->getFieldsToSerialize();
    for (int32_t index = 0; index < fields->nbFields; ++index) {
        const PluginField& field = fields->fields[index];
        if (field.type == PluginFieldType::kFLOAT32) {
            std::printf(" %s=%g", field.name, *static_cast<const float*>(field.data));
        } else {
            std::printf(" %s=%d", field.name, *static_cast<const int32_t*>(field.data));
        }
    }
    std::printf("\ntiming cache: %s\n", build->getTimingCacheID());
    std::printf("read again: %d\n", creator->createPlugin("layer", fields, TensorRTPhase::kRUNTIME) != nullptr);
    PluginFieldCollection fewer = *fields;
    fewer.nbFields = fields->nbFields == 1 ? 0 : 1;
    std::printf("read in part: %d\n", creator->createPlugin("layer", &fewer, TensorRTPhase::kRUNTIME) != nullptr);
#else
    std::vector<unsigned char> bytes(plugin->getSerializationSize());
    plugin->serialize(bytes.data());
    for (unsigned char byte : bytes) {
        std::printf(" %02x", byte);
    }
    Plugin* again = static_cast<Plugin*>(creator->deserializePlugin("layer", bytes.data(), bytes.size()));
    std::vector<unsigned char> copy(bytes.size());
    again->serialize(copy.data());
    std::printf("\nread again: %d\n", copy == bytes);
    std::printf("read in part: %d\n", creator->deserializePlugin("layer", bytes.data(), bytes.size() - 4) != nullptr);
    bytes[0] ^= 1;
    std::printf("read a stranger: %d\n", creator->deserializePlugin("layer", bytes.data(), bytes.size()) != nullptr);
#endif
}

inline void print_shape(Plugin* plugin, const std::vector<std::vector<int64_t>>& shapes) {
    std::deque<Dimension> made;
    Builder builder;
    std::vector<DimsExprs> inputs;
    for (const std::vector<int64_t>& sizes : shapes) {
        inputs.push_back(expressions(made, sizes));
    }
    const int32_t count = static_cast<int32_t>(inputs.size());
    DimsExprs output = {};
#if NV_TENSORRT_MAJOR >= 10
    const auto build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    const bool inferred = build->getOutputShapes(inputs.data(), count, nullptr, 0, &output, 1, builder) == 0;
#else
    output = plugin->getOutputDimensions(0, inputs.data(), count, builder);
    const bool inferred = output.nbDims > 0;
#endif
    std::printf("shape:");
    for (int32_t axis = 0; inferred && axis < output.nbDims; ++axis) {
        std::printf(" %lld", static_cast<long long>(static_cast<const Dimension*>(output.d[axis])->value()));
    }
    std::printf("\n");
}

// Whether a layer of one output takes tensor `position` beside those before it.
inline bool supports(Plugin* plugin, int32_t position, const std::vector<PluginTensorDesc>& tensors) {
    const int32_t inputs = static_cast<int32_t>(tensors.size()) - 1;
#if NV_TENSORRT_MAJOR >= 10
    std::vector<DynamicPluginTensorDesc> all(tensors.size());
    for (size_t index = 0; index < tensors.size(); ++index) {
        all[index].desc = tensors[index];
    }
    const auto build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    return build->supportsFormatCombination(position, all.data(), inputs, 1);
#else
    return plugin->supportsFormatCombination(position, tensors.data(), inputs, 1);
#endif
}

// The workspace at the largest shapes, the output's type, and a layer of one output for which no kernel is launched.
inline void print_run(Plugin* plugin, const std::vector<PluginTensorDesc>& inputs, const PluginTensorDesc& output) {
    const int32_t count = static_cast<int32_t>(inputs.size());
    std::vector<const void*> addresses(inputs.size());
    std::vector<DataType> types;
    for (const PluginTensorDesc& input : inputs) {
        types.push_back(input.type);
    }
    void* written[] = {nullptr};
#if NV_TENSORRT_MAJOR >= 10
    std::vector<DynamicPluginTensorDesc> dynamic(inputs.size() + 1);
    for (size_t index = 0; index < dynamic.size(); ++index) {
        dynamic[index].desc = index < inputs.size() ? inputs[index] : output;
        dynamic[index].max = dynamic[index].desc.dims;
        dynamic[index].desc.dims.d[0] = -1;
    }
    const auto build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    const auto run = static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    std::printf("workspace: %zu\n", build->getWorkspaceSize(dynamic.data(), count, dynamic.data() + count, 1));
    DataType type = DataType::kFLOAT;
    build->getOutputDataTypes(&type, 1, types.data(), count);
    std::printf("outputs: %d of type %d\n", build->getNbOutputs(), static_cast<int>(type));
    std::printf("shape change: %d\n", run->onShapeChange(inputs.data(), count, &output, 1));
    std::printf("enqueue: %d\n", run->enqueue(inputs.data(), &output, addresses.data(), written, nullptr, nullptr));
#else
    std::printf("workspace: %zu\n", plugin->getWorkspaceSize(inputs.data(), count, &output, 1));
    std::printf("outputs: %d of type %d\n", plugin->getNbOutputs(),
                static_cast<int>(plugin->getOutputDataType(0, types.data(), count)));
    std::printf("enqueue: %d\n",
                plugin->enqueue(inputs.data(), &output, addresses.data(), written, nullptr, nullptr));
#endif
}
