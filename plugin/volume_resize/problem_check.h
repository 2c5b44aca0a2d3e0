// Refuses an ill-formed VolumeResize problem with one sentence; shared by the launcher and the TensorRT adaptors.
#pragma once

#include "../common/refuse.h"
#include "volume_resize.h"

namespace sadtrt {

// 0 when the problem can be launched.
inline int32_t check_problem(const SadtrtVolumeResize& problem, char* message, int64_t message_size) {
    const int64_t sizes[] = {problem.batch, problem.channels, problem.depth, problem.height, problem.width};
    double elements = problem.mode == SADTRT_DOUBLE ? 4.0 : 1.0;  // of the larger of the two tensors
    for (int axis = 0; axis < 5; ++axis) {
        const int64_t smallest = axis >= 3 && problem.mode == SADTRT_HALVE ? 2 : 1;
        if (sizes[axis] < smallest) {
            return refuse(message, message_size, "VolumeResize: axis %d has size %lld; at least %lld is expected", axis,
                          static_cast<long long>(sizes[axis]), static_cast<long long>(smallest));
        }
        elements *= static_cast<double>(sizes[axis]);
    }
    if (elements > INT32_MAX) {
        return refuse(message, message_size, "VolumeResize: a tensor has more than 2^31 - 1 elements");
    }
    if (problem.feature_type < SADTRT_FLOAT32 || problem.feature_type > SADTRT_BFLOAT16) {
        return refuse(message, message_size, "VolumeResize: feature type %d is not 0 (fp32), 1 (fp16) or 2 (bf16)",
                      problem.feature_type);
    }
    if (problem.mode < SADTRT_HALVE || problem.mode > SADTRT_DOUBLE) {
        return refuse(message, message_size, "VolumeResize: mode %d is not 0 (halve) or 1 (double)", problem.mode);
    }
    if (problem.channels_last != 0 && (problem.feature_type == SADTRT_FLOAT32 || problem.channels % 8 != 0)) {
        return refuse(message, message_size,
                      "VolumeResize: channels last are fp16 or bf16 in multiples of 8, not %lld channels of type %d",
                      static_cast<long long>(problem.channels), problem.feature_type);
    }
    return 0;
}

}  // namespace sadtrt
