// MotionSum: softmax over the mask logits, small masks to zero, and the sum of the motions by these weights; all fp32.
//
// A thread takes one voxel; its logits are in registers.
#pragma once

#include "dense_motion.cuh"

namespace sadtrt {

// Eight logits of one voxel, 16 bytes: channels last.
template <typename Feature>
struct alignas(8 * sizeof(Feature)) Octet {
    Feature of[8];
};

template <typename Feature, bool kChannelsLast>
__global__ void __launch_bounds__(kMotionThreads) motion_sum(const __grid_constant__ Motion motion) {
    __shared__ Translation motions[kMostMotions];
    const uint32_t batch = blockIdx.z;
    wait_for_previous_kernel();
    let_next_kernel_begin();
    read_motions(motion, batch, motions);
    __syncthreads();
    const uint32_t voxel = blockIdx.x * kMotionThreads + threadIdx.x;
    if (voxel >= motion.voxels) {
        return;
    }
    const uint32_t count = motion.channels;
    float masks[kMostMotions];
    if constexpr (kChannelsLast) {
        const uint32_t chunks = (count + 7) / 8;
        const Octet<Feature>* chunk =
            static_cast<const Octet<Feature>*>(motion.input) + (batch * motion.voxels + voxel) * chunks;
#pragma unroll
        for (uint32_t index = 0; index < kMostMotions / 8; ++index) {
            const Octet<Feature> octet = index < chunks ? chunk[index] : Octet<Feature>();
#pragma unroll
            for (uint32_t lane = 0; lane < 8; ++lane) {
                masks[index * 8 + lane] = index * 8 + lane < count ? to_float(octet.of[lane]) : -INFINITY;
            }
        }
    } else {
        const uint32_t plane = motion.height.size * motion.width.size;
        const uint32_t map = batch * motion.depth.size + voxel / plane;
        const Feature* logits = static_cast<const Feature*>(motion.input) + map * count * plane + voxel % plane;
#pragma unroll
        for (uint32_t number = 0; number < kMostMotions; ++number) {
            masks[number] = number < count ? to_float(__ldg(logits + number * plane)) : -INFINITY;
        }
    }

    float largest = masks[0];
#pragma unroll
    for (int number = 1; number < kMostMotions; ++number) {
        largest = fmaxf(largest, masks[number]);
    }
    float total = 0.0f;
#pragma unroll
    for (int number = 0; number < kMostMotions; ++number) {
        masks[number] = expf(masks[number] - largest);
        total += masks[number];
    }
    const float scale = 1.0f / total;

    const uint32_t width = motion.width.size;
    const uint32_t height = motion.height.size;
    const float coordinates[3] = {coordinate_of(voxel % width, motion.width.size),
                                  coordinate_of(voxel / width % height, motion.height.size),
                                  coordinate_of(voxel / width / height, motion.depth.size)};
    float sums[3] = {};
#pragma unroll
    for (uint32_t number = 0; number < kMostMotions; ++number) {
        if (number < count) {
            const float mask = masks[number] * scale;
            const float weight = mask < motion.floor ? 0.0f : mask;  // a mask that is NaN stays NaN
#pragma unroll
            for (int axis = 0; axis < 3; ++axis) {
                sums[axis] = fmaf(weight, moved(coordinates[axis], motions[number], axis), sums[axis]);
            }
        }
    }
    float* output = static_cast<float*>(motion.output) + (batch * motion.voxels + voxel) * 3;
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        output[axis] = sums[axis];
    }
}

}  // namespace sadtrt
