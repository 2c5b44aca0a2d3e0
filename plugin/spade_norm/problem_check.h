// Refuses an ill-formed SpadeNorm problem with one sentence.
#pragma once

#include <cfloat>

#include "../common/refuse.h"
#include "spade_norm.h"

namespace sadtrt {

constexpr double kMostElements = 1e17;  // of a tensor: 64-bit offsets in bytes stay far below 2^63

// 0 when the problem can be launched; its pointers are not looked at.
inline int32_t check_problem(const SadtrtSpadeNorm& problem, char* message, int64_t message_size) {
    const int64_t sizes[] = {problem.batch, problem.channels, problem.height, problem.width};
    double elements = 2.0;  // the modulation has twice as many as x
    for (int axis = 0; axis < 4; ++axis) {
        if (sizes[axis] < 1 || sizes[axis] > INT32_MAX) {
            return refuse(message, message_size,
                          "SpadeNorm: axis %d has size %lld; sizes from 1 to 2^31 - 1 are expected", axis,
                          static_cast<long long>(sizes[axis]));
        }
        elements *= static_cast<double>(sizes[axis]);
    }
    if (elements > kMostElements) {
        return refuse(message, message_size, "SpadeNorm: the modulation has more than 1e17 elements");
    }
    if (problem.layout < SADTRT_LINEAR || problem.layout > SADTRT_CHANNELS_LAST) {
        return refuse(message, message_size, "SpadeNorm: layout %d is not 0 (linear) or 1 (channels last)",
                      problem.layout);
    }
    const bool channels_last = problem.layout == SADTRT_CHANNELS_LAST;
    if (const int32_t refused = check_features("SpadeNorm", problem.feature_type, channels_last, problem.channels,
                                               message, message_size)) {
        return refused;
    }
    if (problem.upsample < 1 || problem.upsample > 2 || problem.height % problem.upsample != 0 ||
        problem.width % problem.upsample != 0) {
        return refuse(message, message_size,
                      "SpadeNorm: upsample %d does not give %lld x %lld pixels; 1 is expected, or 2 for even sizes",
                      problem.upsample, static_cast<long long>(problem.height), static_cast<long long>(problem.width));
    }
    if (!(problem.scale >= 0.0f && problem.scale <= FLT_MAX)) {
        return refuse(message, message_size, "SpadeNorm: scale %g is not 0 (no int8) or a positive finite number",
                      static_cast<double>(problem.scale));
    }
    if (problem.scale > 0.0f && problem.layout == SADTRT_CHANNELS_LAST && problem.channels % 32 != 0) {
        return refuse(message, message_size,
                      "SpadeNorm: int8 of channels-last tensors wants a multiple of 32 channels, not %lld",
                      static_cast<long long>(problem.channels));
    }
    if (problem.form < 0 || problem.form > 2) {
        return refuse(message, message_size, "SpadeNorm: form %d is not 0, 1 or 2", problem.form);
    }
    return 0;
}

}  // namespace sadtrt
