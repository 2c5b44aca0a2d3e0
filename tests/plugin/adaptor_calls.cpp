// What GridSample3D answers when a plugin library is loaded as TensorRT does.
#include "tensorrt_host.h"

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

// Every type and format of a volume of so many channels that is taken, with an output like it and one that is not.
void print_formats(Plugin* plugin, int64_t channels) {
    for (int type = 0; type < 8; ++type) {
        for (int format = 0; format < 13; ++format) {
            const auto volume = tensor(DataType(type), TensorFormat(format), {1, channels, 4, 8, 8});
            const auto grid = tensor(DataType::kFLOAT, TensorFormat::kLINEAR, {16, 4, 8, 8, 3});
            const auto half_grid = tensor(DataType::kHALF, TensorFormat::kLINEAR, {16, 4, 8, 8, 3});
            const auto other = tensor(DataType(type), TensorFormat(format + 1), {16, channels, 4, 8, 8});
            const std::vector<PluginTensorDesc> good = {volume, grid, volume}, bad = {volume, half_grid, other};
            if (supports(plugin, 0, good)) {
                std::printf("%lld channels: type %d, format %d:", static_cast<long long>(channels), type, format);
                std::printf(" %d %d", supports(plugin, 1, good), supports(plugin, 2, good));
                std::printf(" %d %d\n", supports(plugin, 1, bad), supports(plugin, 2, bad));
            }
        }
    }
}

void print_grids_that_do_not_divide(Plugin* plugin) {
    print_run(plugin,
              {tensor(DataType::kHALF, TensorFormat::kLINEAR, {2, 32, 16, 64, 64}),
               tensor(DataType::kFLOAT, TensorFormat::kLINEAR, {3, 16, 64, 64, 3})},
              tensor(DataType::kHALF, TensorFormat::kLINEAR, {3, 32, 16, 64, 64}));
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
    print_node(creator);
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
    print_shape(plugin, {{1, 4, 16, 64, 64}, {16, 8, 32, 31, 3}});
    print_shape(plugin, {{-1, 4, 16, 64, 64}, {-1, 8, 32, 31, 3}});
    print_shape(plugin, {{1, 4, 64, 64}, {1, 64, 64, 2}});
    print_shape(plugin, {{1, 4, 16, 64, 64}, {16, 8, 32, 31, 2}});
    print_formats(plugin, 4);
    print_formats(plugin, 32);
    print_grids_that_do_not_divide(create(creator, 0, 0, 0));
    print_grids_that_do_not_divide(plugin);
    return 0;
}
