// The CUDA kernels of GridSample3D, templated over feature type, layout and offset width; accumulation is fp32.
//
// A thread owns one sample point and a group of channels: index and weights are computed once for the group. In
// linear layout neighbouring lanes own neighbouring points, so that the loads of a warp fall in few cache lines;
// in channels-last layout they own neighbouring groups of eight channels of a point, read and written 16 bytes at
// a time. The group comes from blockIdx.y and the grid sample from blockIdx.z, so their arithmetic is uniform.
#pragma once

#include "sample_point.cuh"

namespace sadtrt {

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
            point.z, point.y, point.x, sampling.depth, height, width, sampling.in_half,
            [&](int z_step, int y_step, int x_step) {
                const int64_t row = static_cast<int64_t>(point.z.base + z_step) * height.size + point.y.base + y_step;
                const int64_t voxel = row * width.size + point.x.base + x_step;
                return to_float(__ldg(volume + channel * channel_stride + voxel * voxel_stride));
            });
        output[channel * output_channel_stride] = from_float<Feature>(sum);
    }
}

// True when all of them are finite: one comparison for all. False may be wrong, near the largest number of fp32.
template <int kCount>
__device__ __forceinline__ bool all_finite(const float (&sums)[kCount]) {
    float total = sums[0];
#pragma unroll
    for (int index = 1; index < kCount; ++index) {
        total += sums[index];
    }
    return fabsf(total) < INFINITY;
}

// kChannels channels of one point with all loads in flight at once; false when a sum is not finite. `voxel` is the
// first corner in the first channel. Offsets are kept apart from the base pointers until the last moment: 32-bit sums
// are half the instructions of 64-bit ones.
template <typename Feature, int kChannels, typename Offset>
__device__ __forceinline__ bool sample_group(const Sampling& sampling, Offset voxel, Offset output_start,
                                             const CornerWeights& weights) {
    const Feature* volume = static_cast<const Feature*>(sampling.volume);
    Feature* output = static_cast<Feature*>(sampling.output);
    const Offset row = static_cast<Offset>(sampling.width.size);
    const Offset slice = static_cast<Offset>(sampling.slice);
    const Offset rows[] = {voxel, voxel + row, voxel + slice, voxel + slice + row};
    float sums[kChannels];
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
        const Offset channel_start = static_cast<Offset>(channel) * static_cast<Offset>(sampling.voxels);
        sums[channel] = sum_pairs(weights, [&](int z, int y, int x) {
            const Feature* first = volume + static_cast<Offset>(rows[z * 2 + y] + channel_start);
            return to_float(__ldg(first + x));
        });
    }
    if (!all_finite(sums)) {
        return false;
    }
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
        output[output_start] = from_float<Feature>(sums[channel]);
        output_start += static_cast<Offset>(sampling.points);
    }
    return true;
}

template <typename Feature, typename Addressing, int kChannels>
__global__ void __launch_bounds__(kThreads) trilinear_linear(const __grid_constant__ Sampling sampling) {
    using Offset = typename Addressing::Offset;
    const Offset index = static_cast<Offset>(blockIdx.x) * kThreads + threadIdx.x;
    const Offset points = static_cast<Offset>(sampling.points);
    const Offset voxels = static_cast<Offset>(sampling.voxels);
    if (index >= points) {
        return;
    }
    wait_for_previous_kernel();
    let_next_kernel_begin();
    const Place<Offset> place = place_of<Addressing>(index, sampling);
    const Offset first = static_cast<Offset>(blockIdx.y) * kChannels;
    const Offset left = static_cast<Offset>(sampling.channels) - first;
    const Offset volume_start = place.volume + first * voxels;
    const Offset output_start = place.output + first * points + index;
    Offset done = 0;
    if (Addressing::kPlain || sampling.has_pairs) {
        const Corners<Offset> at = locate_corners<Addressing>(place.coordinates, sampling);
        const Offset voxel = volume_start + at.voxel;
        if (left >= kChannels) {
            if (sample_group<Feature, kChannels>(sampling, voxel, output_start, at.weights)) {
                return;
            }
        } else {
#pragma unroll 1
            while (done < left &&
                   sample_group<Feature, 1>(sampling, static_cast<Offset>(voxel + done * voxels),
                                            static_cast<Offset>(output_start + done * points), at.weights)) {
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

template <typename Feature, typename Addressing>
__global__ void __launch_bounds__(kThreads) nearest_linear(const __grid_constant__ Sampling sampling) {
    using Offset = typename Addressing::Offset;
    const Offset index = static_cast<Offset>(blockIdx.x) * kThreads + threadIdx.x;
    const Offset points = static_cast<Offset>(sampling.points);
    const Offset voxels = static_cast<Offset>(sampling.voxels);
    if (index >= points) {
        return;
    }
    wait_for_previous_kernel();
    let_next_kernel_begin();
    const Place<Offset> place = place_of<Addressing>(index, sampling);
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
template <typename Feature, typename Addressing>
__global__ void __launch_bounds__(kThreads) trilinear_channels_last(const __grid_constant__ Sampling sampling) {
    using Offset = typename Addressing::Offset;
    const Offset index = static_cast<Offset>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (index >= static_cast<Offset>(sampling.points)) {
        return;
    }
    wait_for_previous_kernel();
    let_next_kernel_begin();
    const Offset channels = static_cast<Offset>(sampling.channels);
    const Place<Offset> place = place_of<Addressing>(index, sampling);
    const Corners<Offset> at = locate_corners<Addressing>(place.coordinates, sampling);
    const Offset row = static_cast<Offset>(sampling.width.size) * channels;
    const Offset slice = static_cast<Offset>(sampling.slice) * channels;
    const Feature* volume = static_cast<const Feature*>(sampling.volume);
    Feature* output = static_cast<Feature*>(sampling.output) + (place.output + index * channels);
    for (Offset channel = threadIdx.x * kChunk; channel < channels; channel += blockDim.x * kChunk) {
        bool done = false;
        if (Addressing::kPlain || sampling.has_pairs) {
            const Offset corner = place.volume + at.voxel * channels + channel;
            Chunk<Feature> corners[8];
#pragma unroll
            for (int pair = 0; pair < 4; ++pair) {
                const Offset first = corner + (pair & 2 ? slice : 0) + (pair & 1 ? row : 0);
                corners[pair * 2] = read_chunk(volume + first);
                corners[pair * 2 + 1] = read_chunk(volume + static_cast<Offset>(first + channels));
            }
            float sums[kChunk];
            Chunk<Feature> result;
#pragma unroll
            for (int lane = 0; lane < kChunk; ++lane) {
                sums[lane] = sum_pairs(at.weights, [&](int z, int y, int x) {
                    return to_float(corners[z * 4 + y * 2 + x].of[lane]);
                });
                result.of[lane] = from_float<Feature>(sums[lane]);
            }
            done = all_finite(sums);
            if (done) {
                *reinterpret_cast<Chunk<Feature>*>(output + channel) = result;
            }
        }
        if (!done) {
            sample_exactly<Feature>(sampling, place.coordinates, volume + (place.volume + channel), 1, channels,
                                    output + channel, 1, kChunk);
        }
    }
}

template <typename Feature, typename Addressing>
__global__ void __launch_bounds__(kThreads) nearest_channels_last(const __grid_constant__ Sampling sampling) {
    using Offset = typename Addressing::Offset;
    const Offset index = static_cast<Offset>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (index >= static_cast<Offset>(sampling.points)) {
        return;
    }
    wait_for_previous_kernel();
    let_next_kernel_begin();
    const Offset channels = static_cast<Offset>(sampling.channels);
    const Place<Offset> place = place_of<Addressing>(index, sampling);
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
