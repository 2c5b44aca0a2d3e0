// Loads a plugin library as TensorRT does and prints what its SpadeNorm and SpadeNormAdd answer, in int8 as well.
#include "tensorrt_caller.h"

Plugin* create(Creator* creator, float epsilon, float slope, int32_t upsample = 1) {
    const PluginField fields[] = {PluginField("epsilon", &epsilon, PluginFieldType::kFLOAT32, 1),
                                  PluginField("slope", &slope, PluginFieldType::kFLOAT32, 1),
                                  PluginField("upsample", &upsample, PluginFieldType::kINT32, 1)};
    PluginFieldCollection collection = {};
    collection.nbFields = 3;
    collection.fields = fields;
    return create(creator, collection);
}

// Whether a layer comes back from what an engine keeps of it with the same attributes.
void print_serialised(Creator* creator, Plugin* plugin) {
#if NV_TENSORRT_MAJOR >= 10
    const auto run = static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    const auto build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    const PluginFieldCollection* fields = run->getFieldsToSerialize();
    for (int32_t index = 0; index < fields->nbFields; ++index) {
        const PluginField& field = fields->fields[index];
        std::printf("%s=%g\n", field.name,
                    field.type == PluginFieldType::kINT32 ? *static_cast<const int32_t*>(field.data)
                                                          : *static_cast<const float*>(field.data));
    }
    std::printf("timing cache: %s\n", build->getTimingCacheID());
    std::printf("read again: %d\n", creator->createPlugin("layer", fields, TensorRTPhase::kRUNTIME) != nullptr);
#else
    std::vector<unsigned char> bytes(plugin->getSerializationSize());
    plugin->serialize(bytes.data());
    float values[2];
    int32_t upsample = 0;
    std::memcpy(values, bytes.data() + 12, sizeof(values));
    std::memcpy(&upsample, bytes.data() + 20, sizeof(upsample));
    std::printf("%.8s epsilon=%g slope=%g upsample=%d\n", reinterpret_cast<const char*>(bytes.data()), values[0],
                values[1], upsample);
    std::printf("read again: %d\n", creator->deserializePlugin("layer", bytes.data(), bytes.size()) != nullptr);
#endif
}

// The shapes of all outputs for x, a residual where there is one, and the modulation.
void print_shapes(Plugin* plugin, int32_t outputs, std::vector<std::vector<int64_t>> sizes) {
    std::deque<Dimension> made;
    Builder builder;
    std::vector<DimsExprs> inputs;
    for (const std::vector<int64_t>& input : sizes) {
        inputs.push_back(expressions(made, input));
    }
    const int32_t count = static_cast<int32_t>(inputs.size());
    DimsExprs shapes[2] = {};
    for (int32_t output = 0; output < outputs; ++output) {
#if NV_TENSORRT_MAJOR >= 10
        const auto build =
            static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
        const bool inferred =
            build->getOutputShapes(inputs.data(), count, nullptr, 0, shapes, outputs, builder) == 0;
#else
        shapes[output] = plugin->getOutputDimensions(output, inputs.data(), count, builder);
        const bool inferred = shapes[output].nbDims > 0;
#endif
        std::printf("shape %d:", output);
        for (int32_t axis = 0; inferred && axis < shapes[output].nbDims; ++axis) {
            std::printf(" %lld",
                        static_cast<long long>(static_cast<const Dimension*>(shapes[output].d[axis])->value()));
        }
        std::printf("\n");
    }
}

bool supports(Plugin* plugin, int32_t position, const std::vector<PluginTensorDesc>& tensors, int32_t inputs) {
    const int32_t outputs = static_cast<int32_t>(tensors.size()) - inputs;
#if NV_TENSORRT_MAJOR >= 10
    std::vector<DynamicPluginTensorDesc> all(tensors.size());
    for (size_t index = 0; index < tensors.size(); ++index) {
        all[index].desc = tensors[index];
    }
    const auto build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    return build->supportsFormatCombination(position, all.data(), inputs, outputs);
#else
    return plugin->supportsFormatCombination(position, tensors.data(), inputs, outputs);
#endif
}

// Every type and format of x of so many channels that is taken, and whether all others must be as it is.
void print_formats(Plugin* plugin, int32_t inputs, int32_t outputs, int64_t channels) {
    for (int type = 0; type < 8; ++type) {
        for (int format = 0; format < 13; ++format) {
            const auto given = tensor(DataType(type), TensorFormat(format), {1, channels, 8, 8});
            const auto other = tensor(DataType(type), TensorFormat(format + 1), {1, channels, 8, 8});
            const std::vector<PluginTensorDesc> alike(static_cast<size_t>(inputs + outputs), given);
            if (!supports(plugin, 0, alike, inputs)) {
                continue;
            }
            std::printf("%lld channels: type %d, format %d:", static_cast<long long>(channels), type, format);
            for (int32_t position = 1; position < inputs + outputs; ++position) {
                std::vector<PluginTensorDesc> mixed = alike;
                mixed[static_cast<size_t>(position)] = other;
                std::printf(" %d%d", supports(plugin, position, alike, inputs),
                            supports(plugin, position, mixed, inputs));
            }
            std::printf("\n");
        }
    }
}

// The workspace, the outputs' types, and a layer that no kernel is launched for: its modulation is too small.
void print_run(Plugin* plugin, int32_t input_count, int32_t output_count) {
    const auto x = tensor(DataType::kHALF, TensorFormat::kHWC8, {2, 512, 64, 64});
    const auto modulation = tensor(DataType::kHALF, TensorFormat::kHWC8, {2, 1024, 64, 32});
    std::vector<PluginTensorDesc> inputs(static_cast<size_t>(input_count - 1), x);
    inputs.push_back(modulation);
    const std::vector<PluginTensorDesc> outputs(static_cast<size_t>(output_count), x);
    const void* addresses[3] = {};
    void* written[2] = {};
    const std::vector<DataType> types(static_cast<size_t>(input_count), DataType::kHALF);
#if NV_TENSORRT_MAJOR >= 10
    std::vector<DynamicPluginTensorDesc> dynamic_inputs(inputs.size()), dynamic_outputs(outputs.size());
    for (size_t index = 0; index < inputs.size(); ++index) {
        dynamic_inputs[index].desc = inputs[index];
        dynamic_inputs[index].max = inputs[index].dims;
    }
    for (size_t index = 0; index < outputs.size(); ++index) {
        dynamic_outputs[index].desc = outputs[index];
        dynamic_outputs[index].max = outputs[index].dims;
    }
    const auto build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    const auto run = static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    std::printf("workspace: %zu\n",
                build->getWorkspaceSize(dynamic_inputs.data(), input_count, dynamic_outputs.data(), output_count));
    DataType made[2] = {DataType::kFLOAT, DataType::kFLOAT};
    build->getOutputDataTypes(made, output_count, types.data(), input_count);
    std::printf("outputs: %d, the last of type %d\n", build->getNbOutputs(),
                static_cast<int>(made[output_count - 1]));
    std::printf("enqueue: %d\n",
                run->enqueue(inputs.data(), outputs.data(), addresses, written, nullptr, nullptr));
#else
    std::printf("workspace: %zu\n",
                plugin->getWorkspaceSize(inputs.data(), input_count, outputs.data(), output_count));
    std::printf("outputs: %d, the last of type %d\n", plugin->getNbOutputs(),
                static_cast<int>(plugin->getOutputDataType(output_count - 1, types.data(), input_count)));
    std::printf("enqueue: %d\n",
                plugin->enqueue(inputs.data(), outputs.data(), addresses, written, nullptr, nullptr));
#endif
}

void print_operator(void* library, const char* name, int32_t inputs, int32_t outputs) {
    Creator* creator = creator_of(library, name);
    if (creator == nullptr) {
        std::printf("no %s\n", name);
        return;
    }
    std::printf("node: %s %s\n", creator->getPluginName(), creator->getPluginVersion());
    const PluginFieldCollection* fields = creator->getFieldNames();
    for (int32_t index = 0; index < fields->nbFields; ++index) {
        const PluginField& field = fields->fields[index];
        std::printf("attribute: %s, type %d\n", field.name, static_cast<int>(field.type));
    }
    create(creator, -1.0f, 1.0f);
    create(creator, 1e-5f, 2.0f);
    create(creator, 1e-5f, 1.0f, 3);
    PluginFieldCollection nothing = {};
    print_serialised(creator, create(creator, nothing));
    Plugin* plugin = create(creator, 1e-3f, 0.25f);
    print_serialised(creator, plugin);
    const std::vector<std::vector<int64_t>> x(static_cast<size_t>(inputs - 1), {-1, 16, 64, 32});
    std::vector<std::vector<int64_t>> shapes = x;
    shapes.push_back({-1, 32, 64, 32});
    print_shapes(plugin, outputs, shapes);
    shapes.back() = {-1, 24, 64, 32};
    print_shapes(plugin, outputs, shapes);
    shapes.back() = {-1, 32, 64};
    print_shapes(plugin, outputs, shapes);
    print_formats(plugin, inputs, outputs, 12);
    print_formats(plugin, inputs, outputs, 16);
    print_run(plugin, inputs, outputs);
    // The sum keeps the size of x; y has the modulation's, which in print_run is not twice as high as x.
    Plugin* doubling = create(creator, 1e-3f, 0.25f, 2);
    print_serialised(creator, doubling);
    std::vector<std::vector<int64_t>> half(static_cast<size_t>(inputs - 1), {-1, 16, 32, 16});
    half.push_back({-1, 32, 64, 32});
    print_shapes(doubling, outputs, half);
    print_run(doubling, inputs, outputs);
}

// An operator whose last output is int8: its attribute, its type, and the formats that go with those of the inputs.
void print_int8(void* library, const char* name, int32_t inputs, int32_t outputs) {
    Creator* creator = creator_of(library, name);
    if (creator == nullptr) {
        std::printf("no %s\n", name);
        return;
    }
    std::printf("node: %s %s\n", creator->getPluginName(), creator->getPluginVersion());
    for (float scale : {-1.0f, 0.0f, 0.5f}) {
        const PluginField field("scale", &scale, PluginFieldType::kFLOAT32, 1);
        PluginFieldCollection collection = {};
        collection.nbFields = 1;
        collection.fields = &field;
        Plugin* plugin = create(creator, collection);
        std::printf("scale %g: %s\n", scale, plugin != nullptr ? "taken" : "refused");
        if (plugin == nullptr) {
            continue;
        }
        print_run(plugin, inputs, outputs);
        for (int64_t channels : {8, 32}) {
            for (TensorFormat x_format : {TensorFormat::kLINEAR, TensorFormat::kHWC8}) {
                const auto x = tensor(DataType::kHALF, x_format, {1, channels, 8, 8});
                std::vector<PluginTensorDesc> all(static_cast<size_t>(inputs + outputs), x);
                std::printf("%lld channels, format %d: %d, y", static_cast<long long>(channels),
                            static_cast<int>(x_format), supports(plugin, 0, all, inputs));
                for (int type = 0; type < 6; ++type) {
                    for (int format = 0; format < 13; ++format) {
                        all.back() = tensor(DataType(type), TensorFormat(format), {1, channels, 8, 8});
                        if (supports(plugin, inputs + outputs - 1, all, inputs)) {
                            std::printf(" type %d format %d", type, format);
                        }
                    }
                }
                std::printf("\n");
            }
        }
    }
}

int main(int, char** arguments) {
    void* library = dlopen(arguments[1], RTLD_NOW);
    if (library == nullptr) {
        std::printf("%s\n", dlerror());
        return 1;
    }
    print_operator(library, "SpadeNorm", 2, 1);
    print_operator(library, "SpadeNormAdd", 3, 2);
    print_int8(library, "SpadeNormInt8", 2, 1);
    print_int8(library, "SpadeNormAddInt8", 3, 2);
    return 0;
}
