// GridSample3D for TensorRT 10, 11 and TensorRT for RTX: an IPluginV3 found through getCreators, no link to nvinfer.
#include "plugin_common.h"

#if SADTRT_PLUGIN_V3

#include <atomic>
#include <new>

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

class GridSample3D final : public IPluginV3,
                           public IPluginV3OneCore,
                           public IPluginV3OneBuild,
                           public IPluginV3OneRuntime {
public:
    explicit GridSample3D(const Attributes& attributes) : mAttributes(attributes) {
        for (int index = 0; index < kAttributeCount; ++index) {
            const AttributeName& attribute = kAttributes[index];
            mFields[index] =
                PluginField(attribute.name, &(mAttributes.*attribute.value), PluginFieldType::kINT32, 1);
        }
        mCollection.nbFields = kAttributeCount;
        mCollection.fields = mFields;
        std::snprintf(mTimingCacheId, sizeof(mTimingCacheId), "interpolation %d padding %d align_corners %d",
                      attributes.interpolation, attributes.padding, attributes.align_corners);
    }
    GridSample3D(const GridSample3D&) = delete;

    IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
        switch (type) {
            case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
            case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
            case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }
    IPluginV3* clone() noexcept override { return new (std::nothrow) GridSample3D(mAttributes); }

    const char* getPluginName() const noexcept override { return kPluginName; }
    const char* getPluginVersion() const noexcept override { return kPluginVersion; }
    const char* getPluginNamespace() const noexcept override { return ""; }

    int32_t getNbOutputs() const noexcept override { return 1; }
    int32_t configurePlugin(const DynamicPluginTensorDesc*, int32_t, const DynamicPluginTensorDesc*,
                            int32_t) noexcept override {
        return 0;
    }
    int32_t getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                               int32_t input_count) const noexcept override {
        if (output_count != 1 || input_count != kInputs) {
            return 1;
        }
        outputs[0] = inputs[0];
        return 0;
    }
    int32_t getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs*, int32_t,
                            DimsExprs* outputs, int32_t output_count, IExprBuilder&) noexcept override {
        char message[kMessageBytes];
        if (output_count != 1 || !infer_shape(inputs, input_count, outputs[0], message)) {
            report(logger(), output_count == 1 ? message : "GridSample3D: it has one output");
            return 1;
        }
        return 0;
    }
    bool supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors, int32_t input_count,
                                   int32_t output_count) noexcept override {
        return input_count == kInputs && output_count == 1 &&
               supports(tensors[position].desc, position, tensors[0].desc);
    }
    size_t getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t, const DynamicPluginTensorDesc*,
                            int32_t) const noexcept override {
        const PluginTensorDesc descriptions[] = {inputs[0].desc, inputs[1].desc};
        const SadtrtGridSample3D problem = problem_of(descriptions, inputs[0].max, inputs[1].max, mAttributes);
        return static_cast<size_t>(sadtrt_grid_sample_3d_workspace(&problem));
    }
    const char* getTimingCacheID() noexcept override { return mTimingCacheId; }

    int32_t onShapeChange(const PluginTensorDesc* inputs, int32_t, const PluginTensorDesc*, int32_t) noexcept override {
        char message[kMessageBytes];
        const int32_t refused = check_problem(problem_of(inputs, mAttributes), message, kMessageBytes);
        if (refused != 0) {
            report(logger(), message);
        }
        return refused;
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
    IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }
    const PluginFieldCollection* getFieldsToSerialize() noexcept override { return &mCollection; }

private:
    static constexpr int kAttributeCount = static_cast<int>(sizeof(kAttributes) / sizeof(kAttributes[0]));

    const Attributes mAttributes;
    PluginField mFields[kAttributeCount];
    PluginFieldCollection mCollection;
    char mTimingCacheId[80];
};

class GridSample3DCreator final : public IPluginCreatorV3One {
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
    const char* getPluginNamespace() const noexcept override { return ""; }
    const PluginFieldCollection* getFieldNames() noexcept override { return &mCollection; }
    IPluginV3* createPlugin(const char*, const PluginFieldCollection* fields, TensorRTPhase phase) noexcept override {
        char message[kMessageBytes];
        Attributes attributes;
        if (!read_attributes(fields, phase == TensorRTPhase::kRUNTIME, attributes, message)) {
            report(logger(), message);
            return nullptr;
        }
        return new (std::nothrow) GridSample3D(attributes);
    }

private:
    static constexpr int kAttributeCount = static_cast<int>(sizeof(kAttributes) / sizeof(kAttributes[0]));

    PluginField mFields[kAttributeCount];
    PluginFieldCollection mCollection;
};

}  // namespace
}  // namespace sadtrt

extern "C" SADTRT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
    sadtrt::logger_finder().store(finder);
}

extern "C" SADTRT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    static sadtrt::GridSample3DCreator creator;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
    count = 1;
    return creators;
}

#endif
