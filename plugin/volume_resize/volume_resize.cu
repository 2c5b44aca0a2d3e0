// Chooses and launches the kernel of one VolumeResize or VolumeJoinDouble: the C interface of volume_resize.h.
#include "../common/launch.h"
#include "problem_check.h"
#include "volume_resize.cuh"

namespace sadtrt {
namespace {

using ResizeKernel = void (*)(Resize);

template <typename Feature, int kLanes>
ResizeKernel choose_mode(const SadtrtVolumeResize& problem) {
    return problem.mode == SADTRT_HALVE ? halve_volume<Feature, kLanes> : double_volume<Feature, kLanes>;
}

ResizeKernel choose_kernel(const SadtrtVolumeResize& problem) {
    const bool channels_last = problem.channels_last != 0;
    switch (problem.feature_type) {
        case SADTRT_FLOAT16: return channels_last ? choose_mode<__half, 8>(problem) : choose_mode<__half, 1>(problem);
        case SADTRT_BFLOAT16:
            return channels_last ? choose_mode<__nv_bfloat16, 8>(problem) : choose_mode<__nv_bfloat16, 1>(problem);
        default: return choose_mode<float, 1>(problem);
    }
}

// What the kernel is told of a problem whose input is one tensor.
Resize resize_of(const SadtrtVolumeResize& problem) {
    const bool channels_last = problem.channels_last != 0;
    const bool halves = problem.mode == SADTRT_HALVE;
    const int64_t rows = halves ? problem.height / 2 : problem.height;
    const int64_t columns = halves ? problem.width / 2 : problem.width;
    const int64_t vectors = channels_last ? problem.channels / 8 : 1;
    const int64_t planes = problem.batch * problem.depth * (channels_last ? 1 : problem.channels);
    Resize resize = {};
    resize.input = problem.input;
    resize.output = problem.output;
    resize.rows = static_cast<uint32_t>(rows);
    resize.columns = static_cast<uint32_t>(columns);
    resize.large_rows = static_cast<uint32_t>(halves ? problem.height : 2 * rows);
    resize.large_columns = static_cast<uint32_t>(halves ? problem.width : 2 * columns);
    resize.vectors = static_cast<uint32_t>(vectors);
    resize.total = static_cast<uint32_t>(planes * rows * columns * vectors);
    return resize;
}

int32_t launch(const char* name, const SadtrtVolumeResize& problem, Resize& resize, void* stream, char* message,
               int64_t message_size) {
    const Launch<Resize> launch = {choose_kernel(problem), dim3((resize.total + kResizeThreads - 1) / kResizeThreads),
                                   dim3(kResizeThreads), kernels_may_overlap()};
    return queue(name, launch, resize, stream, message, message_size);
}

}  // namespace
}  // namespace sadtrt

extern "C" int32_t sadtrt_volume_resize(const SadtrtVolumeResize* problem, void* stream, char* message,
                                        int64_t message_size) {
    using namespace sadtrt;
    if (problem == nullptr) {
        return refuse(message, message_size, "VolumeResize: no problem was given");
    }
    if (const int32_t refused = check_problem(*problem, message, message_size)) {
        return refused;
    }
    const bool channels_last = problem->channels_last != 0;
    if (!is_usable(problem->input, channels_last) || !is_usable(problem->output, channels_last)) {
        return refuse(message, message_size,
                      "VolumeResize: input or output is a null pointer, or channels last and not aligned to 16 bytes");
    }
    Resize resize = resize_of(*problem);
    return launch("VolumeResize", *problem, resize, stream, message, message_size);
}

extern "C" int32_t sadtrt_volume_join_double(const SadtrtVolumeJoinDouble* problem, void* stream, char* message,
                                             int64_t message_size) {
    using namespace sadtrt;
    if (problem == nullptr) {
        return refuse(message, message_size, "VolumeJoinDouble: no problem was given");
    }
    if (const int32_t refused = check_problem(*problem, message, message_size)) {
        return refused;
    }
    const bool channels_last = problem->channels_last != 0;
    for (const void* address : {problem->first, problem->second, static_cast<const void*>(problem->output)}) {
        if (!is_usable(address, channels_last)) {
            return refuse(message, message_size,
                          "VolumeJoinDouble: a tensor is a null pointer, or channels last and not aligned to 16 bytes");
        }
    }
    const SadtrtVolumeResize joined = doubled(*problem, problem->first_channels + problem->second_channels);
    // Channels last the inputs alternate from voxel to voxel, in linear layout from volume to volume.
    const int64_t voxels = problem->depth * problem->height * problem->width;
    const auto run_of = [&](int64_t channels) {
        return static_cast<uint32_t>(channels_last ? channels / 8 : channels * voxels);
    };
    Resize resize = resize_of(joined);
    resize.input = problem->first;
    resize.second = problem->second;
    resize.run = run_of(problem->first_channels);
    resize.second_run = run_of(problem->second_channels);
    return launch("VolumeJoinDouble", joined, resize, stream, message, message_size);
}
