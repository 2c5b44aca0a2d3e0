// The CUDA kernels of GridSample3D, templated over feature type, layout and offset width; accumulation is fp32.
//
// A thread owns one sample point and a group of channels: index and weights are computed once for the group. In
// linear layout neighbouring lanes own neighbouring points, so that the loads of a warp fall in few cache lines;
// in channels-last layout they own neighbouring groups of eight channels of a point, read and written 16 bytes at
// a time. The group comes from blockIdx.y and the grid sample from blockIdx.z, so their arithmetic is uniform.
#pragma once

#include "sample_point.cuh"

namespace sadtrt {

// Becomes NaN with the first value that is not finite: one comparison tells for all channels of a thread.
__device__ __forceinline__ float add_unless_finite(float value, float probe) { return fmaf(value, 0.0f, probe); }

// First elements of the four rows of the pairs, counted on from the element start; scale is elements a voxel.
template <typename Offset>
struct Rows {
    Offset of[4];
};

template <typename Offset>
__device__ __forceinline__ Rows<Offset> rows_of(const Point& point, const Sampling& sampling, Offset scale,
                                                Offset start) {
    const Offset row = static_cast<Offset>(sampling.width.size) * scale;
    const Offset slice = static_cast<Offset>(sampling.height.size) * row;
    const Offset first = start + static_cast<Offset>(point.z.base) * slice + static_cast<Offset>(point.y.base) * row +
                         static_cast<Offset>(point.x.base) * scale;
    return {{first, first + row, first + slice, first + slice + row}};
}

// The rare way: some channels of one point, reading no voxel that PyTorch does not read. Kept out of line, and
// starting from the coordinates again, so that it costs the usual way neither registers nor instructions.
template <typename Feature>
__device__ __noinline__ void sample_exactly(const Sampling& sampling, const float* coordinates, const Feature* volume,
                                            int64_t channel_stride, int64_t voxel_stride, Feature* output,
                                            int64_t output_channel_stride, int64_t channels) {
    const Point point = locate(coordinates, sampling);
    const Axis& height = sampling.height;
    const Axis& width = sampling.width;
    for (int64_t channel = 0; channel < channels; ++channel) {
        const float sum = sum_corners(
            point.z, point.y, point.x, sampling.depth, height, width, [&](int z_step, int y_step, int x_step) {
                const int64_t row = static_cast<int64_t>(point.z.base + z_step) * height.size + point.y.base + y_step;
                const int64_t voxel = row * width.size + point.x.base + x_step;
                return to_float(__ldg(volume + channel * channel_stride + voxel * voxel_stride));
            });
        output[channel * output_channel_stride] = from_float<Feature>(sum);
    }
}

// kChannels channels of one point with all loads in flight at once; false when a sum is not finite. Offsets are kept
// apart from the base pointers until the last moment: 32-bit sums are half the instructions of 64-bit ones.
template <typename Feature, typename Offset, int kChannels>
__device__ __forceinline__ bool sample_group(const Sampling& sampling, const Rows<Offset>& rows, Offset output_start,
                                             const CornerWeights& weights) {
    const Feature* volume = static_cast<const Feature*>(sampling.volume);
    Feature* output = static_cast<Feature*>(sampling.output);
    float sums[kChannels];
    float probe = 0.0f;
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
        const Offset channel_start = static_cast<Offset>(channel) * static_cast<Offset>(sampling.voxels);
        sums[channel] = sum_pairs(weights, [&](int z, int y, int x) {
            const Feature* row = volume + static_cast<Offset>(rows.of[z * 2 + y] + channel_start);
            return to_float(__ldg(row + x));
        });
        probe = add_unless_finite(sums[channel], probe);
    }
    if (probe != 0.0f) {
        return false;
    }
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
        const Offset channel_start = static_cast<Offset>(channel) * static_cast<Offset>(sampling.points);
        output[static_cast<Offset>(output_start + channel_start)] = from_float<Feature>(sums[channel]);
    }
    return true;
}

template <typename Feature, typename Offset, int kChannels>
__global__ void __launch_bounds__(kThreads) trilinear_linear(const __grid_constant__ Sampling sampling) {
    wait_for_previous_kernel();
    const Offset index = static_cast<Offset>(blockIdx.x) * kThreads + threadIdx.x;
    const Offset points = static_cast<Offset>(sampling.points);
    const Offset voxels = static_cast<Offset>(sampling.voxels);
    if (index >= points) {
        return;
    }
    const Place<Offset> place = place_of<Offset>(index, sampling);
    const Offset first = static_cast<Offset>(blockIdx.y) * kChannels;
    const Offset left = static_cast<Offset>(sampling.channels) - first;
    const Offset volume_start = place.volume + first * voxels;
    const Offset output_start = place.output + first * points + index;
    Offset done = 0;
    if (sampling.has_pairs) {
        const Point point = locate(place.coordinates, sampling);
        const CornerWeights weights = corner_weights(point.z, point.y, point.x);
        Rows<Offset> rows = rows_of<Offset>(point, sampling, 1, volume_start);
        if (left >= kChannels) {
            if (sample_group<Feature, Offset, kChannels>(sampling, rows, output_start, weights)) {
                return;
            }
        } else {
#pragma unroll 1
            while (done < left &&
                   sample_group<Feature, Offset, 1>(sampling, rows, output_start + done * points, weights)) {
                for (Offset& row : rows.of) {
                    row += voxels;
                }
                ++done;
            }
        }
    }
    const Offset channels = left < kChannels ? left : kChannels;
    if (done < channels) {
        sample_exactly<Feature>(sampling, place.coordinates,
                                static_cast<const Feature*>(sampling.volume) + (volume_start + done * voxels), voxels,
                                1, static_cast<Feature*>(sampling.output) + (output_start + done * points), points,
                                channels - done);
    }
}

template <typename Feature, typename Offset>
__global__ void __launch_bounds__(kThreads) nearest_linear(const __grid_constant__ Sampling sampling) {
    wait_for_previous_kernel();
    const Offset index = static_cast<Offset>(blockIdx.x) * kThreads + threadIdx.x;
    const Offset points = static_cast<Offset>(sampling.points);
    const Offset voxels = static_cast<Offset>(sampling.voxels);
    if (index >= points) {
        return;
    }
    const Place<Offset> place = place_of<Offset>(index, sampling);
    const int64_t voxel = nearest_voxel<Offset>(place.coordinates, sampling);
    const Feature* volume = static_cast<const Feature*>(sampling.volume) + place.volume;
    Feature* output = static_cast<Feature*>(sampling.output) + (place.output + index);
#pragma unroll 4
    for (Offset channel = blockIdx.y; channel < static_cast<Offset>(sampling.channels); channel += gridDim.y) {
        output[channel * points] =
            voxel >= 0 ? __ldg(volume + (channel * voxels + static_cast<Offset>(voxel))) : from_float<Feature>(0.0f);
    }
}

// Eight channels of one voxel: one 16-byte access, two for fp32.
template <typename Feature>
struct alignas(16) Chunk {
    Feature of[kChunk];
};

template <typename Feature>
__device__ __forceinline__ Chunk<Feature> read_chunk(const Feature* address) {
    Chunk<Feature> chunk;
    constexpr int kVectors = sizeof(chunk) / sizeof(uint4);
#pragma unroll
    for (int vector = 0; vector < kVectors; ++vector) {
        reinterpret_cast<uint4*>(&chunk)[vector] = __ldg(reinterpret_cast<const uint4*>(address) + vector);
    }
    return chunk;
}

// blockDim.x lanes walk the chunks of a point, blockDim.y points make a block.
template <typename Feature, typename Offset>
__global__ void __launch_bounds__(kThreads) trilinear_channels_last(const __grid_constant__ Sampling sampling) {
    wait_for_previous_kernel();
    const Offset index = static_cast<Offset>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (index >= static_cast<Offset>(sampling.points)) {
        return;
    }
    const Offset channels = static_cast<Offset>(sampling.channels);
    const Place<Offset> place = place_of<Offset>(index, sampling);
    const Point point = locate(place.coordinates, sampling);
    const CornerWeights weights = corner_weights(point.z, point.y, point.x);
    const Rows<Offset> rows = rows_of<Offset>(point, sampling, channels, 0);
    const Feature* volume = static_cast<const Feature*>(sampling.volume) + place.volume;
    Feature* output = static_cast<Feature*>(sampling.output) + (place.output + index * channels);
    for (Offset channel = threadIdx.x * kChunk; channel < channels; channel += blockDim.x * kChunk) {
        const Feature* first_voxel = volume + channel;
        bool done = false;
        if (sampling.has_pairs) {
            Chunk<Feature> corners[8];
#pragma unroll
            for (int corner = 0; corner < 8; ++corner) {
                corners[corner] = read_chunk(first_voxel + (rows.of[corner >> 1] + (corner & 1) * channels));
            }
            Chunk<Feature> result;
            float probe = 0.0f;
#pragma unroll
            for (int lane = 0; lane < kChunk; ++lane) {
                const float sum = sum_pairs(
                    weights, [&](int z, int y, int x) { return to_float(corners[z * 4 + y * 2 + x].of[lane]); });
                probe = add_unless_finite(sum, probe);
                result.of[lane] = from_float<Feature>(sum);
            }
            done = probe == 0.0f;
            if (done) {
                *reinterpret_cast<Chunk<Feature>*>(output + channel) = result;
            }
        }
        if (!done) {
            sample_exactly<Feature>(sampling, place.coordinates, first_voxel, 1, channels, output + channel, 1, kChunk);
        }
    }
}

template <typename Feature, typename Offset>
__global__ void __launch_bounds__(kThreads) nearest_channels_last(const __grid_constant__ Sampling sampling) {
    wait_for_previous_kernel();
    const Offset index = static_cast<Offset>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (index >= static_cast<Offset>(sampling.points)) {
        return;
    }
    const Offset channels = static_cast<Offset>(sampling.channels);
    const Place<Offset> place = place_of<Offset>(index, sampling);
    const int64_t voxel = nearest_voxel<Offset>(place.coordinates, sampling);
    const Feature* volume = static_cast<const Feature*>(sampling.volume) + place.volume;
    Feature* output = static_cast<Feature*>(sampling.output) + (place.output + index * channels);
    for (Offset channel = threadIdx.x * kChunk; channel < channels; channel += blockDim.x * kChunk) {
        Chunk<Feature> result = {};
        if (voxel >= 0) {
            result = read_chunk(volume + (static_cast<Offset>(voxel) * channels + channel));
        }
        *reinterpret_cast<Chunk<Feature>*>(output + channel) = result;
    }
}

}  // namespace sadtrt
