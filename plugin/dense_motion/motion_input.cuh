// MotionInput: for every motion a difference of heat maps and the sampled features, from keypoints, without a grid.
//
// A block takes kVoxels voxels of one row along x and all motions of these. What the row's voxels share for a motion,
// the pairs of voxels along y and z and the distances there, is computed once and lies in shared memory. A thread then
// takes one voxel and one motion. In linear layout neighbouring lanes write neighbouring voxels; in channels-last
// layout the block's output is one stretch of memory, gathered in shared memory and written 16 bytes a lane.
#pragma once

#include "dense_motion.cuh"

namespace sadtrt {

constexpr int kVoxels = 32;  // of a block

// What the voxels of a row share, for one motion.
struct MotionRow {
    float weights[4];  // of the four lines of voxels along x: lower z and y, lower z upper y, ...
    uint32_t first;    // voxel 0 of the first of these lines
    float driving_x, source_x;
    float driving_distance, source_distance;  // squared, along y and z
};

__device__ __forceinline__ MotionRow row_of(const Motion& motion, const Translation& keypoint, float y, float z) {
    const PlainPair along_y = locate_plain_pair(moved(y, keypoint, 1), motion.height);
    const PlainPair along_z = locate_plain_pair(moved(z, keypoint, 2), motion.depth);
    const float driving_y = y - keypoint.driving[1];
    const float driving_z = z - keypoint.driving[2];
    const float source_y = y - keypoint.source[1];
    const float source_z = z - keypoint.source[2];
    MotionRow row;
    row.weights[0] = along_z.lower * along_y.lower;
    row.weights[1] = along_z.lower * along_y.upper;
    row.weights[2] = along_z.upper * along_y.lower;
    row.weights[3] = along_z.upper * along_y.upper;
    row.first = (base_of(along_z) * motion.height.size + base_of(along_y)) * motion.width.size;
    row.driving_x = keypoint.driving[0];
    row.source_x = keypoint.source[0];
    row.driving_distance = driving_y * driving_y + driving_z * driving_z;
    row.source_distance = source_y * source_y + source_z * source_z;
    return row;
}

// Four channels of one voxel, 8 bytes: channels last.
template <typename Feature>
struct alignas(4 * sizeof(Feature)) Quad {
    Feature of[4];
};

// Four channels, or as many as there are left, from `channel` on at one voxel of a volume.
template <typename Feature, bool kChannelsLast>
__device__ __forceinline__ Quad<Feature> read_quad(const Feature* volume, uint32_t voxel, uint32_t channel,
                                                   const Motion& motion) {
    if constexpr (kChannelsLast) {
        const uint32_t stride = (motion.channels + 7) / 8 * 8;
        return *reinterpret_cast<const Quad<Feature>*>(volume + voxel * stride + channel);
    } else {
        Quad<Feature> quad = {};
#pragma unroll
        for (uint32_t lane = 0; lane < 4; ++lane) {
            if (channel + lane < motion.channels) {
                quad.of[lane] = __ldg(volume + (channel + lane) * motion.voxels + voxel);
            }
        }
        return quad;
    }
}

template <typename Feature, bool kInputLast, bool kOutputLast>
__global__ void __launch_bounds__(kMotionThreads) motion_input(const __grid_constant__ Motion motion) {
    // Two more than channels, so that neighbouring voxels begin in different banks.
    constexpr int kStride = kOutputLast ? kMostMotionChannels + 2 : 1;
    __shared__ Translation motions[kMostMotions];
    __shared__ MotionRow rows[kMostMotions];
    alignas(4) __shared__ Feature gathered[kVoxels * kStride];

    const uint32_t width = motion.width.size;
    const uint32_t height = motion.height.size;
    const uint32_t first_column = blockIdx.y * kVoxels;
    const uint32_t columns = width - first_column < kVoxels ? width - first_column : kVoxels;
    const uint32_t batch = blockIdx.z;
    const uint32_t count = motion.keypoints + 1;
    const uint32_t channels = count * (motion.channels + 1);
    wait_for_previous_kernel();
    let_next_kernel_begin();
    read_motions(motion, batch, motions);
    __syncthreads();
    if (threadIdx.x < count) {
        const float y = coordinate_of(blockIdx.x % height, motion.height.size);
        const float z = coordinate_of(blockIdx.x / height, motion.depth.size);
        rows[threadIdx.x] = row_of(motion, motions[threadIdx.x], y, z);
    }
    __syncthreads();

    const uint32_t volume_channels = kInputLast ? (motion.channels + 7) / 8 * 8 : motion.channels;
    const Feature* volume = static_cast<const Feature*>(motion.input) + batch * volume_channels * motion.voxels;
    Feature* output = static_cast<Feature*>(motion.output) + batch * channels * motion.voxels;
    const uint32_t first_voxel = blockIdx.x * width + first_column;
    for (uint32_t item = threadIdx.x; item < count * kVoxels; item += kMotionThreads) {
        const uint32_t column = item % kVoxels;
        const uint32_t number = item / kVoxels;
        if (column >= columns) {
            continue;
        }
        const uint32_t channel = number * (motion.channels + 1);
        const auto write = [&](uint32_t place, float value) {
            if constexpr (kOutputLast) {
                gathered[column * kStride + place] = from_float<Feature>(value);
            } else {
                output[place * motion.voxels + first_voxel + column] = from_float<Feature>(value);
            }
        };
        const MotionRow& row = rows[number];
        const float x = coordinate_of(first_column + column, motion.width.size);
        const float from_driving = x - row.driving_x;
        const float from_source = x - row.source_x;
        const float driving = expf(motion.exponent * fmaf(from_driving, from_driving, row.driving_distance));
        const float source = expf(motion.exponent * fmaf(from_source, from_source, row.source_distance));
        write(channel, number == 0 ? 0.0f : driving - source);

        const PlainPair along_x = locate_plain_pair(from_driving + row.source_x, motion.width);
        const uint32_t first = row.first + base_of(along_x);
        CornerWeights weights;
#pragma unroll
        for (int line = 0; line < 4; ++line) {
            weights.of[2 * line] = row.weights[line] * along_x.lower;
            weights.of[2 * line + 1] = row.weights[line] * along_x.upper;
        }
        for (uint32_t feature = 0; feature < motion.channels; feature += 4) {
            Quad<Feature> corners[8];
#pragma unroll
            for (int corner = 0; corner < 8; ++corner) {
                const uint32_t line = (corner & 4 ? height * width : 0) + (corner & 2 ? width : 0);
                corners[corner] =
                    read_quad<Feature, kInputLast>(volume, first + line + (corner & 1), feature, motion);
            }
#pragma unroll
            for (uint32_t lane = 0; lane < 4; ++lane) {
                if (feature + lane < motion.channels) {
                    write(channel + 1 + feature + lane, sum_pairs(weights, [&](int z, int y, int x_step) {
                              return to_float(corners[z * 4 + y * 2 + x_step].of[lane]);
                          }));
                }
            }
        }
    }
    if constexpr (kOutputLast) {
        __syncthreads();
        const uint32_t chunks = channels / 8;
        uint4* vectors = reinterpret_cast<uint4*>(output + first_voxel * channels);
        for (uint32_t index = threadIdx.x; index < columns * chunks; index += kMotionThreads) {
            const uint32_t* words = reinterpret_cast<const uint32_t*>(gathered + index / chunks * kStride) +
                                    index % chunks * 4;
            vectors[index] = {words[0], words[1], words[2], words[3]};
        }
    }
}

}  // namespace sadtrt
