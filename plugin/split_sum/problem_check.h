// Refuses ill-formed problems of SplitSum with one sentence; shared by the launcher and the TensorRT adaptors.
#pragma once

#include "../common/refuse.h"
#include "split_sum.h"

namespace sadtrt {

constexpr int64_t kMostTaps = 15;   // along an axis
constexpr int64_t kMostScale = 16;

// Channels of x for each of the O outputs.
inline int64_t parts_of(const SadtrtSplitSum& problem) {
    const int64_t phases = problem.scale < 3 ? problem.scale : 3;
    return problem.taps_depth * problem.taps_height * problem.taps_width * phases * phases;
}

// 0 when the problem can be launched; pointers are not looked at.
inline int32_t check_problem(const SadtrtSplitSum& problem, char* message, int64_t message_size) {
    constexpr const char* kName = "SplitSum";
    const bool upsamples = problem.scale > 1;
    if (problem.scale < 1 || problem.scale > kMostScale || (upsamples && problem.pool != 0)) {
        return refuse(message, message_size, "%s: scale %lld with pool %d; 1 to %lld, and no pool above 1 are expected",
                      kName, static_cast<long long>(problem.scale), problem.pool, static_cast<long long>(kMostScale));
    }
    const int64_t taps[] = {problem.taps_depth, problem.taps_height, problem.taps_width};
    for (int axis = 0; axis < 3; ++axis) {
        if (taps[axis] < 1 || taps[axis] > kMostTaps || taps[axis] % 2 == 0 || (axis > 0 && upsamples && taps[axis] > 1)) {
            return refuse(message, message_size,
                          "%s: %lld taps along axis %d; an odd number up to %lld, in an upsampled plane 1, is expected",
                          kName, static_cast<long long>(taps[axis]), axis, static_cast<long long>(kMostTaps));
        }
    }
    const int64_t least_side = problem.pool != 0 ? 2 : 1;
    if (problem.outputs < 1 || problem.skip_channels < 0 || problem.height < least_side || problem.width < least_side) {
        return refuse(message, message_size, "%s: %lld outputs of %lld x %lld and %lld channels of a skip are too few",
                      kName, static_cast<long long>(problem.outputs), static_cast<long long>(problem.height),
                      static_cast<long long>(problem.width), static_cast<long long>(problem.skip_channels));
    }
    if (problem.depth < 1 || problem.maps < 1 || problem.maps % problem.depth != 0) {
        return refuse(message, message_size, "%s: %lld maps are no volumes of depth %lld", kName,
                      static_cast<long long>(problem.maps), static_cast<long long>(problem.depth));
    }
    if (problem.first_channel < 0 || problem.x_channels - problem.first_channel < parts_of(problem) * problem.outputs) {
        return refuse(message, message_size, "%s: %lld channels from %lld on for %lld outputs; %lld are expected", kName,
                      static_cast<long long>(problem.x_channels), static_cast<long long>(problem.first_channel),
                      static_cast<long long>(problem.outputs),
                      static_cast<long long>(parts_of(problem) * problem.outputs));
    }
    const double places = static_cast<double>(problem.maps) * (problem.height + 1.0) * (problem.width + 1.0);
    const double scaled = static_cast<double>(problem.scale) * problem.scale;
    const double of_x = places * (static_cast<double>(problem.x_channels) + 8.0);
    const double of_y = places * scaled * (static_cast<double>(problem.outputs) + problem.skip_channels);
    if (of_x > INT32_MAX || of_y > INT32_MAX) {
        return refuse(message, message_size, "%s: a tensor has more than 2^31 - 1 elements", kName);
    }
    if (const int32_t refused = check_feature_type(kName, problem.feature_type, message, message_size)) {
        return refused;
    }
    if (problem.x_channels_last != 0 && problem.feature_type == SADTRT_FLOAT32) {
        return refuse(message, message_size, "%s: channels last are fp16 or bf16, not fp32", kName);
    }
    const bool vectors_full =
        problem.outputs % 8 == 0 && problem.skip_channels % 8 == 0 && problem.first_channel % 8 == 0;
    if (problem.y_channels_last != 0 && (problem.x_channels_last == 0 || !vectors_full)) {
        return refuse(message, message_size,
                      "%s: channels last come of channels last in multiples of 8, not of %lld and %lld channels from %lld on",
                      kName, static_cast<long long>(problem.outputs), static_cast<long long>(problem.skip_channels),
                      static_cast<long long>(problem.first_channel));
    }
    return 0;
}

}  // namespace sadtrt
