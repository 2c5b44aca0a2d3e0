// Loads a plugin library as TensorRT does and prints what its GridSample3D answers: no TensorRT library, no GPU.
#include "tensorrt_caller.h"

// The plugin with these attributes in a field collection of its own; null when they are refused.
Plugin* create(Creator* creator, int32_t interpolation, int32_t padding, int32_t align_corners) {
    const PluginField fields[] = {PluginField("interpolation", &interpolation, PluginFieldType::kINT32, 1),
                                  PluginField("padding", &padding, PluginFieldType::kINT32, 1),
                                  PluginField("align_corners", &align_corners, PluginFieldType::kINT32, 1)};
    PluginFieldCollection collection = {};
    collection.nbFields = 3;
    collection.fields = fields;
    return create(creator, collection);
}

// What an engine keeps of a layer, and whether a layer comes back from it with the same.
void print_serialised(Creator* creator, Plugin* plugin) {
    std::printf("serialised:");
#if NV_TENSORRT_MAJOR >= 10
    const auto core = static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    const auto build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    const PluginFieldCollection* fields = core->getFieldsToSerialize();
    for (int32_t index = 0; index < fields->nbFields; ++index) {
        std::printf(" %s=%d", fields->fields[index].name, *static_cast<const int32_t*>(fields->fields[index].data));
    }
    std::printf("\ntiming cache: %s\n", build->getTimingCacheID());
    std::printf("read again: %d\n", creator->createPlugin("layer", fields, TensorRTPhase::kRUNTIME) != nullptr);
    PluginFieldCollection fewer = *fields;
    fewer.nbFields = 1;
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

void print_shape(Plugin* plugin, std::vector<int64_t> volume, std::vector<int64_t> grid) {
    std::deque<Dimension> made;
    Builder builder;
    const DimsExprs inputs[] = {expressions(made, volume), expressions(made, grid)};
    DimsExprs output = {};
#if NV_TENSORRT_MAJOR >= 10
    const auto build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    const bool inferred = build->getOutputShapes(inputs, 2, nullptr, 0, &output, 1, builder) == 0;
#else
    output = plugin->getOutputDimensions(0, inputs, 2, builder);
    const bool inferred = output.nbDims > 0;
#endif
    std::printf("shape:");
    for (int32_t axis = 0; inferred && axis < output.nbDims; ++axis) {
        std::printf(" %lld", static_cast<long long>(static_cast<const Dimension*>(output.d[axis])->value()));
    }
    std::printf("\n");
}

bool supports(Plugin* plugin, int32_t position, const PluginTensorDesc* tensors) {
#if NV_TENSORRT_MAJOR >= 10
    DynamicPluginTensorDesc all[3] = {};
    for (int index = 0; index < 3; ++index) {
        all[index].desc = tensors[index];
    }
    const auto build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    return build->supportsFormatCombination(position, all, 2, 1);
#else
    return plugin->supportsFormatCombination(position, tensors, 2, 1);
#endif
}

// Every type and format of a volume of so many channels that is taken, with an output like it and one that is not.
void print_formats(Plugin* plugin, int64_t channels) {
    for (int type = 0; type < 8; ++type) {
        for (int format = 0; format < 13; ++format) {
            const auto volume = tensor(DataType(type), TensorFormat(format), {1, channels, 4, 8, 8});
            const auto grid = tensor(DataType::kFLOAT, TensorFormat::kLINEAR, {16, 4, 8, 8, 3});
            const auto half_grid = tensor(DataType::kHALF, TensorFormat::kLINEAR, {16, 4, 8, 8, 3});
            const auto other = tensor(DataType(type), TensorFormat(format + 1), {16, channels, 4, 8, 8});
            const PluginTensorDesc good[] = {volume, grid, volume}, bad[] = {volume, half_grid, other};
            if (supports(plugin, 0, good)) {
                std::printf("%lld channels: type %d, format %d:", static_cast<long long>(channels), type, format);
                std::printf(" %d %d", supports(plugin, 1, good), supports(plugin, 2, good));
                std::printf(" %d %d\n", supports(plugin, 1, bad), supports(plugin, 2, bad));
            }
        }
    }
}

// The workspace at the largest shapes, and a layer that no kernel is launched for: its grids do not divide.
void print_run(Plugin* plugin) {
    const PluginTensorDesc inputs[] = {tensor(DataType::kHALF, TensorFormat::kLINEAR, {2, 32, 16, 64, 64}),
                                       tensor(DataType::kFLOAT, TensorFormat::kLINEAR, {3, 16, 64, 64, 3})};
    const PluginTensorDesc output = tensor(DataType::kHALF, TensorFormat::kLINEAR, {3, 32, 16, 64, 64});
    const void* addresses[] = {nullptr, nullptr};
    void* written[] = {nullptr};
#if NV_TENSORRT_MAJOR >= 10
    DynamicPluginTensorDesc dynamic[3] = {};
    for (int index = 0; index < 3; ++index) {
        dynamic[index].desc = index < 2 ? inputs[index] : output;
        dynamic[index].max = dynamic[index].desc.dims;
        dynamic[index].desc.dims.d[0] = -1;
    }
    const auto build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    const auto run = static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    std::printf("workspace: %zu\n", build->getWorkspaceSize(dynamic, 2, dynamic + 2, 1));
    DataType type = DataType::kFLOAT;
    const DataType types[] = {DataType::kHALF, DataType::kFLOAT};
    build->getOutputDataTypes(&type, 1, types, 2);
    std::printf("outputs: %d of type %d\n", build->getNbOutputs(), static_cast<int>(type));
    std::printf("shape change: %d\n", run->onShapeChange(inputs, 2, &output, 1));
    std::printf("enqueue: %d\n", run->enqueue(inputs, &output, addresses, written, nullptr, nullptr));
#else
    std::printf("workspace: %zu\n", plugin->getWorkspaceSize(inputs, 2, &output, 1));
    const DataType types[] = {DataType::kHALF, DataType::kFLOAT};
    std::printf("outputs: %d of type %d\n", plugin->getNbOutputs(),
                static_cast<int>(plugin->getOutputDataType(0, types, 2)));
    std::printf("enqueue: %d\n", plugin->enqueue(inputs, &output, addresses, written, nullptr, nullptr));
#endif
}

int main(int, char** arguments) {
    void* library = dlopen(arguments[1], RTLD_NOW);
    if (library == nullptr) {
        std::printf("%s\n", dlerror());
        return 1;
    }
    Creator* creator = creator_of(library, "GridSample3D");
    if (creator == nullptr) {
        return 1;
    }
    std::printf("node: %s %s '%s'\n", creator->getPluginName(), creator->getPluginVersion(),
                creator->getPluginNamespace());
    const PluginFieldCollection* fields = creator->getFieldNames();
    for (int32_t index = 0; index < fields->nbFields; ++index) {
        std::printf("attribute: %s, type %d\n", fields->fields[index].name, static_cast<int>(fields->fields[index].type));
    }
    create(creator, 0, 3, 0);
    create(creator, 0, 0, -1);
    const float real = 1.0f;
    const PluginField wrong("padding", &real, PluginFieldType::kFLOAT32, 1);
    PluginFieldCollection collection = {};
    collection.nbFields = 1;
    collection.fields = &wrong;
    create(creator, collection);
    collection.nbFields = 0;
    print_serialised(creator, create(creator, collection));
    Plugin* plugin = create(creator, 1, 2, 1);
    print_serialised(creator, plugin);
    print_shape(plugin, {1, 4, 16, 64, 64}, {16, 8, 32, 31, 3});
    print_shape(plugin, {-1, 4, 16, 64, 64}, {-1, 8, 32, 31, 3});
    print_shape(plugin, {1, 4, 64, 64}, {1, 64, 64, 2});
    print_shape(plugin, {1, 4, 16, 64, 64}, {16, 8, 32, 31, 2});
    print_formats(plugin, 4);
    print_formats(plugin, 32);
    print_run(create(creator, 0, 0, 0));
    print_run(plugin);
    return 0;
}
