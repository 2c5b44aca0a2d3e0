// Refuses ill-formed problems with one sentence; shared by the launcher and the TensorRT adaptors.
#pragma once

#include "../common/refuse.h"
#include "picture_conv.h"

namespace sadtrt {

// 0 when the problem can be launched, its pointers aside.
inline int32_t check_problem(const SadtrtPictureConv& problem, char* message, int64_t message_size) {
    const int64_t sizes[] = {problem.batch, problem.channels, problem.height, problem.width};
    double elements = 1.0;
    for (int axis = 0; axis < 4; ++axis) {
        if (sizes[axis] < 1) {
            return refuse(message, message_size, "PictureConv: axis %d has size %lld; at least 1 is expected", axis,
                          static_cast<long long>(sizes[axis]));
        }
        elements *= static_cast<double>(sizes[axis]);
    }
    if (elements > INT32_MAX || problem.batch > 65535 || problem.height > 500000) {
        return refuse(message, message_size, "PictureConv: the map has more elements, rows or images than it may have");
    }
    return check_features("PictureConv", problem.feature_type, problem.channels_last != 0, problem.channels, message,
                          message_size);
}

}  // namespace sadtrt
