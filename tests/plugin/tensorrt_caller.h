// What TensorRT is to a plugin library, as far as adaptor_calls.cpp and spade_calls.cpp ask. No library, no GPU.
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

class Builder final : public IExprBuilder {};

class Logger final : public ILogger {
    void log(Severity, const char* message) noexcept override { std::printf("error: %s\n", message); }
} the_logger;

DimsExprs expressions(std::deque<Dimension>& made, std::vector<int64_t> sizes) {
    DimsExprs result = {};
    result.nbDims = static_cast<int32_t>(sizes.size());
    for (size_t axis = 0; axis < sizes.size(); ++axis) {
        result.d[axis] = &made.emplace_back(sizes[axis], sizes[axis] >= 0);
    }
    return result;
}

PluginTensorDesc tensor(DataType type, TensorFormat format, std::vector<int64_t> sizes) {
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

// The creator of that name in a library that was just loaded, or null.
Creator* creator_of(void* library, const char* name) {
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
Plugin* create(Creator* creator, const PluginFieldCollection& fields) {
    return creator->createPlugin("layer", &fields, TensorRTPhase::kBUILD);
}
#else
class Registry final : public IPluginRegistry {
public:
    std::vector<Creator*> creators;

    bool registerCreator(IPluginCreator& creator, const char*) noexcept override {
        creators.push_back(&creator);
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
Creator* creator_of(void*, const char* name) {
    for (Creator* creator : the_registry.creators) {
        if (std::strcmp(creator->getPluginName(), name) == 0) {
            return creator;
        }
    }
    return nullptr;
}
Plugin* create(Creator* creator, const PluginFieldCollection& fields) {
    return static_cast<Plugin*>(creator->createPlugin("layer", &fields));
}
#endif
