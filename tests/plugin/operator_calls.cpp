// What the operators on volumes and of dense motion answer when a plugin library is loaded as TensorRT does.
#include "tensorrt_caller.h"

// Expressions are computed at once: -1, an unknown size, as any other number.
class Arithmetic final : public IExprBuilder, private apiv::VExprBuilder {
public:
    Arithmetic() { mImpl = this; }

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

void print_node(Creator* creator) {
    std::printf("node: %s %s '%s'\n", creator->getPluginName(), creator->getPluginVersion(),
                creator->getPluginNamespace());
    const PluginFieldCollection* fields = creator->getFieldNames();
    for (int32_t index = 0; index < fields->nbFields; ++index) {
        const PluginField& field = fields->fields[index];
        std::printf("attribute: %s, type %d\n", field.name, static_cast<int>(field.type));
    }
}

// What an engine keeps of a layer, and whether a layer comes back from it with the same.
void print_serialised(Creator* creator, Plugin* plugin) {
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
    fewer.nbFields = fields->nbFields > 1 ? 1 : 0;
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

void print_shape(Plugin* plugin, const std::vector<std::vector<int64_t>>& shapes) {
    std::deque<Dimension> made;
    Arithmetic builder;
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
bool supports(Plugin* plugin, int32_t position, const std::vector<PluginTensorDesc>& tensors) {
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
void print_run(Plugin* plugin, const std::vector<PluginTensorDesc>& inputs, const PluginTensorDesc& output) {
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

constexpr TensorFormat kLinear = TensorFormat::kLINEAR;
constexpr TensorFormat kChannelsLast = TensorFormat::kDHWC8;

// The plugin with one attribute; null when it is refused.
template <typename Number>
Plugin* create(Creator* creator, const char* name, Number value, PluginFieldType type) {
    const PluginField field(name, &value, type, 1);
    PluginFieldCollection collection = {};
    collection.nbFields = 1;
    collection.fields = &field;
    return create(creator, collection);
}

// The types and formats of input 0 of so many channels that are taken, and with each those of the output that are.
void print_formats(Plugin* plugin, int64_t channels, int64_t output_channels, int32_t keypoints) {
    for (int type = 0; type < 8; ++type) {
        for (int format = 0; format < 13; ++format) {
            std::vector<PluginTensorDesc> tensors = {
                tensor(DataType(type), TensorFormat(format), {1, channels, 4, 8, 8})};
            tensors.insert(tensors.end(), keypoints, tensor(DataType::kFLOAT, kLinear, {1, 15, 3}));
            tensors.push_back({});
            if (!supports(plugin, 0, tensors)) {
                continue;
            }
            std::printf("%lld channels: type %d, format %d:", static_cast<long long>(channels), type, format);
            for (int32_t points = 1; points <= keypoints; ++points) {
                std::vector<PluginTensorDesc> half = tensors;
                half[points].type = DataType::kHALF;
                std::printf(" keypoints %d %d;", supports(plugin, points, tensors), supports(plugin, points, half));
            }
            for (int output_type = 0; output_type < 8; ++output_type) {
                for (int output_format = 0; output_format < 13; ++output_format) {
                    tensors.back() = tensor(DataType(output_type), TensorFormat(output_format),
                                            {1, output_channels, 4, 8, 8});
                    if (supports(plugin, keypoints + 1, tensors)) {
                        std::printf(" output %d %d;", output_type, output_format);
                    }
                }
            }
            std::printf("\n");
        }
    }
}

void print_volume_resize(Creator* creator) {
    print_node(creator);
    create(creator, "mode", 2, PluginFieldType::kINT32);
    Plugin* halve = create(creator, "mode", 0, PluginFieldType::kINT32);
    Plugin* twice = create(creator, "mode", 1, PluginFieldType::kINT32);
    print_serialised(creator, twice);
    print_shape(halve, {{2, 32, 16, 64, 33}});
    print_shape(twice, {{2, 32, 16, 64, 33}});
    print_shape(twice, {{2, 32, 64, 33}});
    print_formats(halve, 32, 32, 0);
    print_formats(halve, 12, 12, 0);
    print_run(halve, {tensor(DataType::kHALF, kLinear, {2, 32, 16, 64, 1})},
              tensor(DataType::kHALF, kLinear, {2, 32, 16, 32, 0}));
}

void print_volume_join_double(Creator* creator) {
    print_node(creator);
    Plugin* plugin = create(creator, PluginFieldCollection{});
    print_serialised(creator, plugin);
    print_shape(plugin, {{2, 32, 16, 64, 33}, {2, 8, 16, 64, 33}});
    print_shape(plugin, {{2, 32, 16, 64, 33}, {2, 8, 64, 33}});
    print_shape(plugin, {{2, 32, 16, 64, 33}});
    const PluginTensorDesc first = tensor(DataType::kHALF, kChannelsLast, {2, 32, 16, 64, 32});
    const PluginTensorDesc output = tensor(DataType::kHALF, kChannelsLast, {2, 40, 16, 128, 64});
    for (const PluginTensorDesc& second : {tensor(DataType::kHALF, kChannelsLast, {2, 8, 16, 64, 32}),
                                           tensor(DataType::kHALF, kChannelsLast, {2, 4, 16, 64, 32}),
                                           tensor(DataType::kHALF, kLinear, {2, 8, 16, 64, 32}),
                                           tensor(DataType::kFLOAT, kLinear, {2, 8, 16, 64, 32})}) {
        std::printf("second of type %d, format %d, %lld channels: %d; output: %d\n", static_cast<int>(second.type),
                    static_cast<int>(second.format), static_cast<long long>(second.dims.d[1]),
                    supports(plugin, 1, {first, second, output}), supports(plugin, 2, {first, second, output}));
    }
    print_run(plugin, {first, tensor(DataType::kHALF, kChannelsLast, {2, 8, 16, 64, 16})}, output);
    print_run(plugin, {first, tensor(DataType::kHALF, kChannelsLast, {2, 4, 16, 64, 32})}, output);
}

void print_fold_depth(Creator* creator) {
    print_node(creator);
    Plugin* plugin = create(creator, PluginFieldCollection{});
    print_serialised(creator, plugin);
    print_shape(plugin, {{2, 32, 16, 64, 33}});
    print_shape(plugin, {{2, 32, 64, 33}});
    print_formats(plugin, 32, 512, 0);
    print_formats(plugin, 12, 192, 0);
    print_run(plugin, {tensor(DataType::kHALF, kChannelsLast, {2, 32, 16, 64, 0})},
              tensor(DataType::kHALF, TensorFormat::kHWC8, {2, 512, 64, 0}));
}

void print_motion(Creator* creator, const char* attribute, float bad, float good, int64_t channels) {
    print_node(creator);
    create(creator, attribute, bad, PluginFieldType::kFLOAT32);
    Plugin* plugin = create(creator, attribute, good, PluginFieldType::kFLOAT32);
    print_serialised(creator, plugin);
    print_shape(plugin, {{2, channels, 16, 64, 64}, {2, 15, 3}, {2, 15, 3}});
    print_shape(plugin, {{2, channels, 16, 64, 64}, {2, 15, 3}, {2, 15, 2}});
    print_formats(plugin, channels, 80, 2);
    print_formats(plugin, 3, 12, 2);
    const PluginTensorDesc volume = tensor(DataType::kHALF, kChannelsLast, {2, channels, 16, 64, 64});
    const PluginTensorDesc keypoints = tensor(DataType::kFLOAT, kLinear, {2, 15, 3});
    const PluginTensorDesc fewer = tensor(DataType::kFLOAT, kLinear, {2, 14, 3});
    const PluginTensorDesc many = tensor(DataType::kFLOAT, kLinear, {2, 16, 3});
    print_run(plugin, {volume, keypoints, fewer}, volume);
    print_run(plugin, {volume, many, many}, volume);
}

int main(int, char** arguments) {
    void* library = dlopen(arguments[1], RTLD_NOW);
    if (library == nullptr) {
        std::printf("%s\n", dlerror());
        return 1;
    }
    print_volume_resize(creator_of(library, "VolumeResize"));
    print_volume_join_double(creator_of(library, "VolumeJoinDouble"));
    print_fold_depth(creator_of(library, "FoldDepth"));
    print_motion(creator_of(library, "MotionInput"), "exponent", 1.0f, -12.5f, 4);
    print_motion(creator_of(library, "MotionSum"), "floor", -0.5f, 0.25f, 16);
    return 0;
}
