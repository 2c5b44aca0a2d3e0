// Refuses ill-formed problems of FoldDepth with one sentence; shared by the launcher and the TensorRT adaptors.
#pragma once

#include "../common/refuse.h"
#include "fold_depth.h"

namespace sadtrt {

// 0 when the problem can be launched.
inline int32_t check_problem(const SadtrtFoldDepth& problem, char* message, int64_t message_size) {
    constexpr const char* kName = "FoldDepth";
    const int64_t sizes[] = {problem.batch, problem.channels, problem.depth, problem.height, problem.width};
    double elements = 1.0;
    for (int axis = 0; axis < 5; ++axis) {
        if (sizes[axis] < 1) {
            return refuse(message, message_size, "%s: axis %d has size %lld; at least 1 is expected", kName, axis,
                          static_cast<long long>(sizes[axis]));
        }
        elements *= static_cast<double>(sizes[axis]);
    }
    if (elements > INT32_MAX) {
        return refuse(message, message_size, "%s: a tensor has more than 2^31 - 1 elements", kName);
    }
    return check_features(kName, problem.feature_type, problem.channels_last != 0, problem.channels, message,
                          message_size);
}

}  // namespace sadtrt
