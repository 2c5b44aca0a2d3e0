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
            case DimensionOperation::kSUB: return &mMade.emplace_back(left - right, true);
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

// The types and formats of an input of these sizes that are taken, and with each those of the output that are. Between
// them are `others`, float32 and linear, of which each is asked for once more as half.
void print_formats(Plugin* plugin, const std::vector<int64_t>& input, const std::vector<int64_t>& output,
                   const std::vector<PluginTensorDesc>& others) {
    const int32_t count = static_cast<int32_t>(others.size());
    for (int type = 0; type < 8; ++type) {
        for (int format = 0; format < 13; ++format) {
            std::vector<PluginTensorDesc> tensors = {tensor(DataType(type), TensorFormat(format), input)};
            tensors.insert(tensors.end(), others.begin(), others.end());
            tensors.push_back({});
            if (!supports(plugin, 0, tensors)) {
                continue;
            }
            std::printf("%lld channels: type %d, format %d:", static_cast<long long>(input[1]), type, format);
            for (int32_t other = 1; other <= count; ++other) {
                std::vector<PluginTensorDesc> half = tensors;
                half[other].type = DataType::kHALF;
                std::printf(" input %d: %d %d;", other, supports(plugin, other, tensors),
                            supports(plugin, other, half));
            }
            for (int output_type = 0; output_type < 8; ++output_type) {
                for (int output_format = 0; output_format < 13; ++output_format) {
                    tensors.back() = tensor(DataType(output_type), TensorFormat(output_format), output);
                    if (supports(plugin, count + 1, tensors)) {
                        std::printf(" output %d %d;", output_type, output_format);
                    }
                }
            }
            std::printf("\n");
        }
    }
}

// The plugin with attributes that are integers; null when it is refused.
Plugin* create(Creator* creator, const std::vector<std::pair<const char*, int32_t>>& attributes) {
    std::vector<PluginField> fields;
    for (const auto& attribute : attributes) {
        fields.emplace_back(attribute.first, &attribute.second, PluginFieldType::kINT32, 1);
    }
    PluginFieldCollection collection = {};
    collection.nbFields = static_cast<int32_t>(fields.size());
    collection.fields = fields.data();
    return create(creator, collection);
}

constexpr TensorFormat kMapsLast = TensorFormat::kHWC8;

void print_split_sum(Creator* creator) {
    print_node(creator);
    create(creator, "scale", 17, PluginFieldType::kINT32);
    create(creator, "slope", -0.5f, PluginFieldType::kFLOAT32);
    Plugin* pooled = create(creator, {{"depth", 3}, {"taps_depth", 3}, {"pool", 1}});
    Plugin* doubled = create(creator, {{"depth", 3}, {"taps_depth", 3}, {"scale", 2}});
    Plugin* second = create(creator, {{"depth", 3}, {"taps_depth", 3}, {"pool", 1}, {"first_channel", 8}});
    print_serialised(creator, pooled);
    print_shape(pooled, {{6, 24, 64, 33}, {8}});
    print_shape(doubled, {{6, 96, 33, 34}, {8}});
    print_shape(pooled, {{2, 24, 3, 64, 33}, {8}});
    print_shape(pooled, {{6, 24, 64, 33}, {8, 1}});
    print_formats(pooled, {6, 24, 64, 32}, {6, 8, 32, 16}, {tensor(DataType::kFLOAT, kLinear, {8})});
    print_formats(pooled, {6, 9, 64, 32}, {6, 3, 32, 16}, {tensor(DataType::kFLOAT, kLinear, {3})});
    const PluginTensorDesc x = tensor(DataType::kHALF, kMapsLast, {6, 24, 64, 32});
    const PluginTensorDesc y = tensor(DataType::kHALF, kMapsLast, {6, 8, 32, 16});
    print_run(pooled, {x, tensor(DataType::kFLOAT, kLinear, {9})}, y);
    print_run(second, {x, tensor(DataType::kFLOAT, kLinear, {8})}, y);
    print_run(pooled, {tensor(DataType::kHALF, kMapsLast, {7, 24, 64, 32}), tensor(DataType::kFLOAT, kLinear, {8})}, y);
}

void print_split_sum_join(Creator* creator) {
    print_node(creator);
    Plugin* plugin = create(creator, {{"depth", 3}, {"taps_depth", 3}, {"scale", 2}});
    print_serialised(creator, plugin);
    print_shape(plugin, {{6, 96, 33, 34}, {8}, {6, 40, 64, 66}});
    print_shape(plugin, {{6, 96, 33, 34}, {8}, {2, 40, 3, 64, 66}});
    print_shape(plugin, {{6, 96, 33, 34}, {8}});
    const PluginTensorDesc x = tensor(DataType::kHALF, kMapsLast, {6, 96, 33, 34});
    const PluginTensorDesc bias = tensor(DataType::kFLOAT, kLinear, {8});
    const PluginTensorDesc y = tensor(DataType::kHALF, kMapsLast, {6, 48, 64, 66});
    for (const PluginTensorDesc& skip : {tensor(DataType::kHALF, kMapsLast, {6, 40, 64, 66}),
                                         tensor(DataType::kHALF, kMapsLast, {6, 4, 64, 66}),
                                         tensor(DataType::kHALF, kLinear, {6, 40, 64, 66}),
                                         tensor(DataType::kFLOAT, kLinear, {6, 40, 64, 66})}) {
        std::printf("skip of type %d, format %d, %lld channels: %d; output: %d\n", static_cast<int>(skip.type),
                    static_cast<int>(skip.format), static_cast<long long>(skip.dims.d[1]),
                    supports(plugin, 2, {x, bias, skip, y}), supports(plugin, 3, {x, bias, skip, y}));
    }
    print_run(plugin, {x, bias, tensor(DataType::kHALF, kMapsLast, {6, 40, 64, 64})}, y);
}

void print_fold_depth(Creator* creator) {
    print_node(creator);
    Plugin* plugin = create(creator, PluginFieldCollection{});
    Plugin* of_maps = create(creator, "depth", 16, PluginFieldType::kINT32);
    print_serialised(creator, of_maps);
    print_shape(plugin, {{2, 32, 16, 64, 33}});
    print_shape(plugin, {{2, 32, 64, 33}});
    print_shape(of_maps, {{32, 40, 64, 33}});
    print_shape(of_maps, {{2, 40, 16, 64, 33}});
    print_formats(plugin, {2, 32, 16, 64, 33}, {2, 512, 64, 33}, {});
    print_formats(plugin, {2, 12, 16, 64, 33}, {2, 192, 64, 33}, {});
    print_formats(of_maps, {32, 40, 64, 33}, {2, 640, 64, 33}, {});
    print_run(plugin, {tensor(DataType::kHALF, kChannelsLast, {2, 32, 16, 64, 0})},
              tensor(DataType::kHALF, kMapsLast, {2, 512, 64, 0}));
    print_run(of_maps, {tensor(DataType::kHALF, kMapsLast, {33, 40, 64, 33})},
              tensor(DataType::kHALF, kMapsLast, {2, 640, 64, 33}));
}

// `input` of two volumes of 16 x 64 x 64, and `odd` of other channels with its output.
void print_motion(Creator* creator, const char* attribute, float bad, float good, const std::vector<int64_t>& input,
                  const std::vector<int64_t>& output, const std::vector<int64_t>& odd,
                  const std::vector<int64_t>& odd_output) {
    print_node(creator);
    create(creator, attribute, bad, PluginFieldType::kFLOAT32);
    Plugin* plugin = create(creator, attribute, good, PluginFieldType::kFLOAT32);
    print_serialised(creator, plugin);
    print_shape(plugin, {input, {2, 15, 3}, {2, 15, 3}});
    print_shape(plugin, {input, {2, 15, 3}, {2, 15, 2}});
    print_shape(plugin, {{2, 16}, {2, 15, 3}, {2, 15, 3}});
    const PluginTensorDesc keypoints = tensor(DataType::kFLOAT, kLinear, {2, 15, 3});
    print_formats(plugin, input, output, {keypoints, keypoints});
    print_formats(plugin, odd, odd_output, {keypoints, keypoints});
    const PluginTensorDesc features = tensor(DataType::kHALF, kLinear, input);
    const PluginTensorDesc fewer = tensor(DataType::kFLOAT, kLinear, {2, 14, 3});
    const PluginTensorDesc many = tensor(DataType::kFLOAT, kLinear, {2, 16, 3});
    const PluginTensorDesc three = tensor(DataType::kFLOAT, kLinear, {3, 15, 3});
    print_run(plugin, {features, keypoints, fewer}, features);
    print_run(plugin, {features, many, many}, features);
    print_run(plugin, {features, three, three}, features);
}

int main(int, char** arguments) {
    void* library = dlopen(arguments[1], RTLD_NOW);
    if (library == nullptr) {
        std::printf("%s\n", dlerror());
        return 1;
    }
    print_split_sum(creator_of(library, "SplitSum"));
    print_split_sum_join(creator_of(library, "SplitSumJoin"));
    print_fold_depth(creator_of(library, "FoldDepth"));
    print_motion(creator_of(library, "MotionInput"), "exponent", 1.0f, -12.5f, {2, 4, 16, 64, 64}, {32, 80, 64, 64},
                 {2, 3, 16, 64, 64}, {32, 12, 64, 64});
    print_motion(creator_of(library, "MotionSum"), "floor", -0.5f, 0.25f, {32, 16, 64, 64}, {2, 16, 64, 64, 3},
                 {32, 3, 64, 64}, {2, 16, 64, 64, 3});
    return 0;
}
