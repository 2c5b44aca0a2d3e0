// Refuses an ill-formed problem of MotionInput or MotionSum with one sentence; shared by launcher and adaptors.
#pragma once

#include "../common/refuse.h"
#include "dense_motion.h"

namespace sadtrt {

constexpr int kMostMotions = 16;          // with that of the background
constexpr int kMostMotionChannels = 128;  // of MotionInput's output
constexpr int64_t kMostVoxelsAnAxis = 1 << 20;
constexpr int64_t kMostBatch = 65535;  // CUDA's limit for the third axis of a launch

// 0 when `name` (MotionInput or MotionSum), whose larger tensor has so many channels, can be launched.
inline int32_t check_problem(const char* name, const SadtrtDenseMotion& problem, int64_t most_channels, char* message,
                             int64_t message_size) {
    const int64_t axes[] = {problem.depth, problem.height, problem.width};
    for (const int64_t size : axes) {
        if (size < 2 || size > kMostVoxelsAnAxis) {
            return refuse(message, message_size, "%s: an axis of the volume has %lld voxels; 2 to 2^20 are expected",
                          name, static_cast<long long>(size));
        }
    }
    if (problem.batch < 1 || problem.batch > kMostBatch || problem.channels < 1) {
        return refuse(message, message_size, "%s: %lld volumes of %lld channels; 1 to 65535 of 1 or more are expected",
                      name, static_cast<long long>(problem.batch), static_cast<long long>(problem.channels));
    }
    if (problem.keypoints < 1 || problem.keypoints >= kMostMotions) {
        return refuse(message, message_size, "%s: %lld keypoints; 1 to %d are expected", name,
                      static_cast<long long>(problem.keypoints), kMostMotions - 1);
    }
    const double voxels = static_cast<double>(problem.depth) * problem.height * problem.width * problem.batch;
    if (voxels * (most_channels + 8.0) > INT32_MAX) {
        return refuse(message, message_size, "%s: a tensor has more than 2^31 - 1 elements", name);
    }
    if (const int32_t refused = check_feature_type(name, problem.feature_type, message, message_size)) {
        return refused;
    }
    if ((problem.input_channels_last != 0 || problem.output_channels_last != 0) &&
        problem.feature_type == SADTRT_FLOAT32) {
        return refuse(message, message_size, "%s: channels last are fp16 or bf16, not fp32", name);
    }
    return 0;
}

inline int32_t check_motion_input(const SadtrtDenseMotion& problem, char* message, int64_t message_size) {
    constexpr const char* kName = "MotionInput";
    const int64_t channels = (problem.keypoints + 1) * (problem.channels + 1);
    if (const int32_t refused = check_problem(kName, problem, channels, message, message_size)) {
        return refused;
    }
    if (channels > kMostMotionChannels) {
        return refuse(message, message_size, "%s: the output would have %lld channels; at most %d are expected", kName,
                      static_cast<long long>(channels), kMostMotionChannels);
    }
    if (problem.output_channels_last != 0 && channels % 8 != 0) {
        return refuse(message, message_size, "%s: %lld channels last are no multiple of 8", kName,
                      static_cast<long long>(channels));
    }
    return 0;
}

inline int32_t check_motion_sum(const SadtrtDenseMotion& problem, char* message, int64_t message_size) {
    constexpr const char* kName = "MotionSum";
    if (const int32_t refused = check_problem(kName, problem, problem.channels, message, message_size)) {
        return refused;
    }
    if (problem.channels != problem.keypoints + 1) {
        return refuse(message, message_size, "%s: %lld mask logits for %lld keypoints; one more is expected", kName,
                      static_cast<long long>(problem.channels), static_cast<long long>(problem.keypoints));
    }
    return 0;
}

}  // namespace sadtrt
