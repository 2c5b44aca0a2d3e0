// What the kernels of MotionInput and MotionSum share: a launch's parameters, and the keypoints in shared memory.
#pragma once

#include "../common/device.cuh"
#include "motion_math.h"
#include "problem_check.h"

namespace sadtrt {

constexpr int kMotionThreads = 256;

struct Motion {
    const void* input;
    const float* driving;
    const float* source;
    void* output;
    Axis depth, height, width;
    uint32_t channels;  // of the input
    uint32_t keypoints;
    uint32_t voxels;  // of one volume
    float exponent;
    float floor;
};

// The motions of volume `batch`, by the threads of a block together; to be followed by __syncthreads().
__device__ __forceinline__ void read_motions(const Motion& motion, uint32_t batch, Translation* motions) {
    const uint32_t numbers = motion.keypoints * 3;
    for (uint32_t index = threadIdx.x; index < numbers + 3; index += kMotionThreads) {
        const bool background = index < 3;
        const uint32_t from = batch * numbers + index - 3;
        motions[index / 3].driving[index % 3] = background ? 0.0f : motion.driving[from];
        motions[index / 3].source[index % 3] = background ? 0.0f : motion.source[from];
    }
}

}  // namespace sadtrt
