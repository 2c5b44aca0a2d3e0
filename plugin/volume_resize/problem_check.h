// Refuses ill-formed problems of this folder with one sentence; shared by the launchers and the TensorRT adaptors.
#pragma once

#include "../common/refuse.h"
#include "fold_depth.h"
#include "volume_resize.h"

namespace sadtrt {

// What all problems have. `least_side` is the smallest height and width, `growth` how many times as large the larger
// of the tensors is as the input.
template <typename Problem>
int32_t check_volume(const char* name, const Problem& problem, int64_t least_side, double growth, char* message,
                     int64_t message_size) {
    const int64_t sizes[] = {problem.batch, problem.channels, problem.depth, problem.height, problem.width};
    double elements = growth;
    for (int axis = 0; axis < 5; ++axis) {
        const int64_t smallest = axis >= 3 ? least_side : 1;
        if (sizes[axis] < smallest) {
            return refuse(message, message_size, "%s: axis %d has size %lld; at least %lld is expected", name, axis,
                          static_cast<long long>(sizes[axis]), static_cast<long long>(smallest));
        }
        elements *= static_cast<double>(sizes[axis]);
    }
    if (elements > INT32_MAX) {
        return refuse(message, message_size, "%s: a tensor has more than 2^31 - 1 elements", name);
    }
    if (problem.feature_type < SADTRT_FLOAT32 || problem.feature_type > SADTRT_BFLOAT16) {
        return refuse(message, message_size, "%s: feature type %d is not 0 (fp32), 1 (fp16) or 2 (bf16)", name,
                      problem.feature_type);
    }
    if (problem.channels_last != 0 && (problem.feature_type == SADTRT_FLOAT32 || problem.channels % 8 != 0)) {
        return refuse(message, message_size,
                      "%s: channels last are fp16 or bf16 in multiples of 8, not %lld channels of type %d", name,
                      static_cast<long long>(problem.channels), problem.feature_type);
    }
    return 0;
}

// 0 when the problem can be launched.
inline int32_t check_problem(const SadtrtVolumeResize& problem, char* message, int64_t message_size) {
    if (problem.mode < SADTRT_HALVE || problem.mode > SADTRT_DOUBLE) {
        return refuse(message, message_size, "VolumeResize: mode %d is not 0 (halve) or 1 (double)", problem.mode);
    }
    const bool halves = problem.mode == SADTRT_HALVE;
    return check_volume("VolumeResize", problem, halves ? 2 : 1, halves ? 1.0 : 4.0, message, message_size);
}

// The doubling of as many channels; `input` is left empty.
inline SadtrtVolumeResize doubled(const SadtrtVolumeJoinDouble& problem, int64_t channels) {
    SadtrtVolumeResize part = {};
    part.output = problem.output;
    part.batch = problem.batch;
    part.channels = channels;
    part.depth = problem.depth;
    part.height = problem.height;
    part.width = problem.width;
    part.feature_type = problem.feature_type;
    part.channels_last = problem.channels_last;
    part.mode = SADTRT_DOUBLE;
    return part;
}

inline int32_t check_problem(const SadtrtVolumeJoinDouble& problem, char* message, int64_t message_size) {
    const int64_t both = problem.first_channels + problem.second_channels;
    for (const int64_t channels : {problem.first_channels, problem.second_channels, both}) {
        const SadtrtVolumeResize part = doubled(problem, channels);
        if (const int32_t refused = check_volume("VolumeJoinDouble", part, 1, 4.0, message, message_size)) {
            return refused;
        }
    }
    return 0;
}

inline int32_t check_problem(const SadtrtFoldDepth& problem, char* message, int64_t message_size) {
    return check_volume("FoldDepth", problem, 1, 1.0, message, message_size);
}

// Whether the kernels can read or write at an address: channels last they do so 16 bytes at a time.
inline bool is_usable(const void* address, bool channels_last) {
    return address != nullptr && (!channels_last || reinterpret_cast<uintptr_t>(address) % 16 == 0);
}

}  // namespace sadtrt
