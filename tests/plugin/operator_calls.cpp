// What VolumeResize, MotionInput and MotionSum answer when a plugin library is loaded as TensorRT does.
#include "tensorrt_host.h"

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
    print_motion(creator_of(library, "MotionInput"), "exponent", 1.0f, -12.5f, 4);
    print_motion(creator_of(library, "MotionSum"), "floor", -0.5f, 0.25f, 16);
    return 0;
}
