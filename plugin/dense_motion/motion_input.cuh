// MotionInput: for every motion a difference of heat maps and the sampled features, from keypoints, without a grid.
//
// A block takes a tile of kColumns voxels along x and kRows along y, and all motions of these. A thread takes one column
// and one motion and goes from row to row: what it has interpolated along z and x in one line of the volume serves two
// rows. What does not depend on the column, the pairs of voxels along y and z and the factors of the heat maps there, is
// computed once and lies in shared memory. In linear layout neighbouring lanes write neighbouring voxels; in
// channels-last layout a row of the tile is one stretch of memory, gathered in shared memory and written 16 bytes a lane.
#pragma once

#include "dense_motion.cuh"

namespace sadtrt {

constexpr uint32_t kColumns = 32;
constexpr uint32_t kRows = 4;

// What the voxels of one row of the tile share, for one motion.
struct MotionRow {
    uint32_t line;  // along y: the first of two lines of voxels, and what both weigh
    float lower, upper;
    float driving, source;  // factors of the heat maps along y and z
};

// What all voxels of the tile share, for one motion.
struct MotionSlice {
    uint32_t first;  // along z: voxel 0 of the first of two slices, and what both weigh
    float lower, upper;
    float driving_x, source_x;
};

// exp(exponent * (first^2 + second^2)).
__device__ __forceinline__ float gaussian(float exponent, float first, float second) {
    return expf(exponent * fmaf(first, first, second * second));
}

__device__ __forceinline__ MotionRow row_of(const Motion& motion, const Translation& keypoint, float y, float z) {
    const PlainPair along_y = locate_plain_pair(moved(y, keypoint, 1), motion.height);
    return {base_of(along_y), along_y.lower, along_y.upper,
            gaussian(motion.exponent, y - keypoint.driving[1], z - keypoint.driving[2]),
            gaussian(motion.exponent, y - keypoint.source[1], z - keypoint.source[2])};
}

__device__ __forceinline__ MotionSlice slice_of(const Motion& motion, const Translation& keypoint, float z) {
    const PlainPair along_z = locate_plain_pair(moved(z, keypoint, 2), motion.depth);
    const uint32_t slice = motion.height.size * motion.width.size;
    return {base_of(along_z) * slice, along_z.lower, along_z.upper, keypoint.driving[0], keypoint.source[0]};
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
        return *reinterpret_cast<const Quad<Feature>*>(volume + (voxel * stride + channel));
    } else {
        Quad<Feature> quad = {};
#pragma unroll
        for (uint32_t lane = 0; lane < 4; ++lane) {
            if (channel + lane < motion.channels) {
                quad.of[lane] = __ldg(volume + ((channel + lane) * motion.voxels + voxel));
            }
        }
        return quad;
    }
}

// The pairs of voxels along z and x of one motion and one column, and the four channels that are interpolated there.
template <typename Feature, bool kChannelsLast>
struct Lines {
    const Feature* volume;
    uint32_t first, next_slice;  // voxel of line 0, and from one slice to the next
    uint32_t channel;
    float weights[4];  // lower z lower x, lower z upper x, ...

    __device__ __forceinline__ void interpolate(uint32_t line, const Motion& motion, float (&sums)[4]) const {
        const uint32_t voxel = first + line * motion.width.size;
        Quad<Feature> corners[4];
#pragma unroll
        for (uint32_t corner = 0; corner < 4; ++corner) {
            const uint32_t step = (corner & 2 ? next_slice : 0) + (corner & 1);
            corners[corner] = read_quad<Feature, kChannelsLast>(volume, voxel + step, channel, motion);
        }
#pragma unroll
        for (int lane = 0; lane < 4; ++lane) {
            sums[lane] = weights[0] * to_float(corners[0].of[lane]);
#pragma unroll
            for (int corner = 1; corner < 4; ++corner) {
                sums[lane] = fmaf(weights[corner], to_float(corners[corner].of[lane]), sums[lane]);
            }
        }
    }
};

template <typename Feature, bool kInputLast, bool kOutputLast>
__global__ void __launch_bounds__(kMotionThreads) motion_input(const __grid_constant__ Motion motion) {
    // Two more than channels, so that neighbouring voxels begin in different banks.
    constexpr uint32_t kStride = kOutputLast ? kMostMotionChannels + 2 : 1;
    __shared__ Translation motions[kMostMotions];
    __shared__ MotionSlice slices[kMostMotions];
    __shared__ MotionRow rows[kRows][kMostMotions];
    alignas(4) __shared__ Feature gathered[kRows * kColumns * kStride];

    const uint32_t width = motion.width.size;
    const uint32_t height = motion.height.size;
    const uint32_t tiles = (height + kRows - 1) / kRows;
    const uint32_t slice = blockIdx.x / tiles;
    const uint32_t first_row = blockIdx.x % tiles * kRows;
    const uint32_t first_column = blockIdx.y * kColumns;
    const uint32_t row_count = min(kRows, height - first_row);
    const uint32_t column_count = min(kColumns, width - first_column);
    const uint32_t count = motion.keypoints + 1;
    wait_for_previous_kernel();
    let_next_kernel_begin();
    read_motions(motion, blockIdx.z, motions);
    __syncthreads();
    if (threadIdx.x < kRows * kMostMotions) {
        const uint32_t row = threadIdx.x / kMostMotions;
        const uint32_t number = threadIdx.x % kMostMotions;
        if (number < count) {
            const float y = coordinate_of(first_row + row, motion.height.size);
            const float z = coordinate_of(slice, motion.depth.size);
            rows[row][number] = row_of(motion, motions[number], y, z);
            if (row == 0) {
                slices[number] = slice_of(motion, motions[number], z);
            }
        }
    }
    __syncthreads();

    const uint32_t stored = kInputLast ? (motion.channels + 7) / 8 * 8 : motion.channels;
    const uint32_t channels = count * (motion.channels + 1);
    const uint32_t first_voxel = (slice * height + first_row) * width + first_column;
    Feature* output = static_cast<Feature*>(motion.output) + blockIdx.z * channels * motion.voxels;
    // In linear layout: a slice is a map, whose channels follow one another.
    const uint32_t plane = height * width;
    const uint32_t first_of_map = slice * channels * plane + first_row * width + first_column;
    Lines<Feature, kInputLast> lines;
    lines.volume = static_cast<const Feature*>(motion.input) + blockIdx.z * stored * motion.voxels;
    lines.next_slice = plane;
    const uint32_t column = threadIdx.x % kColumns;
    const float x = coordinate_of(first_column + column, motion.width.size);
    const auto write = [&](uint32_t row, uint32_t channel, float value) {
        if constexpr (kOutputLast) {
            gathered[(row * kColumns + column) * kStride + channel] = from_float<Feature>(value);
        } else {
            output[first_of_map + channel * plane + row * width + column] = from_float<Feature>(value);
        }
    };
    for (uint32_t number = threadIdx.x / kColumns; number < count; number += kMotionThreads / kColumns) {
        if (column >= column_count) {
            break;
        }
        const uint32_t first_channel = number * (motion.channels + 1);
        const MotionSlice& along_z = slices[number];
        const float from_driving = x - along_z.driving_x;
        const float driving = gaussian(motion.exponent, from_driving, 0.0f);
        const float source = gaussian(motion.exponent, x - along_z.source_x, 0.0f);
#pragma unroll
        for (uint32_t row = 0; row < kRows; ++row) {
            const MotionRow& along_y = rows[row][number];
            const float difference = driving * along_y.driving - source * along_y.source;
            if (row < row_count) {
                write(row, first_channel, number == 0 ? 0.0f : difference);
            }
        }

        const PlainPair along_x = locate_plain_pair(from_driving + along_z.source_x, motion.width);
        lines.first = along_z.first + base_of(along_x);
        lines.weights[0] = along_z.lower * along_x.lower;
        lines.weights[1] = along_z.lower * along_x.upper;
        lines.weights[2] = along_z.upper * along_x.lower;
        lines.weights[3] = along_z.upper * along_x.upper;
        for (lines.channel = 0; lines.channel < motion.channels; lines.channel += 4) {
            float lower[4], upper[4];
            uint32_t held = UINT32_MAX - 1;  // the line that `lower` is of, none at first
            for (uint32_t row = 0; row < row_count; ++row) {
                // All lanes of a warp have the same motion and row, so they take the same way.
                const MotionRow& along_y = rows[row][number];
                if (along_y.line != held) {
                    if (along_y.line == held + 1) {
#pragma unroll
                        for (int lane = 0; lane < 4; ++lane) {
                            lower[lane] = upper[lane];
                        }
                    } else {
                        lines.interpolate(along_y.line, motion, lower);
                    }
                    lines.interpolate(along_y.line + 1, motion, upper);
                    held = along_y.line;
                }
#pragma unroll
                for (uint32_t lane = 0; lane < 4; ++lane) {
                    if (lines.channel + lane < motion.channels) {
                        const float sum = fmaf(along_y.upper, upper[lane], along_y.lower * lower[lane]);
                        write(row, first_channel + 1 + lines.channel + lane, sum);
                    }
                }
            }
        }
    }
    if constexpr (kOutputLast) {
        __syncthreads();
        // Neighbouring lanes write neighbouring chunks of eight channels; lanes beyond whole voxels do nothing.
        const uint32_t chunks = channels / 8;
        const uint32_t chunk = threadIdx.x % chunks;
        const uint32_t voxels = kMotionThreads / chunks;  // at a time
        for (uint32_t voxel = threadIdx.x / chunks; voxel < row_count * kColumns; voxel += voxels) {
            const uint32_t row = voxel / kColumns;
            if (threadIdx.x >= voxels * chunks || voxel % kColumns >= column_count) {
                continue;
            }
            const uint32_t* words = reinterpret_cast<const uint32_t*>(gathered + voxel * kStride) + chunk * 4;
            const uint32_t place = first_voxel + row * width + voxel % kColumns;
            reinterpret_cast<uint4*>(output + place * channels)[chunk] = {words[0], words[1], words[2], words[3]};
        }
    }
}

}  // namespace sadtrt
