// Sampling a linear volume through a copy of it whose voxels hold several channels side by side.
//
// In linear layout a sample reads every channel's eight voxels one by one, and the number of those reads bounds it, not
// their bytes. So where the points are as many as the voxels, the volume is first copied into the workspace as
// (N, groups, D, H, W, kWidth): one wide read then brings kWidth channels of a voxel. The output stays linear.
#pragma once

#include "grid_sample_3d.cuh"

namespace sadtrt {

// kWidth channels of kVoxels voxels that follow each other along x.
template <typename Feature, int kWidth, int kVoxels>
struct alignas(sizeof(Feature) * kWidth * kVoxels < 16 ? sizeof(Feature) * kWidth * kVoxels : 16) Packed {
    Feature of[kVoxels * kWidth];
};

template <int kBytes>
struct Access {
    using Type = uint4;
};
template <>
struct Access<8> {
    using Type = uint2;
};

// Copies a vector by the widest accesses. Not by __ldg: the workspace may change until the kernel before has ended.
template <typename Vector>
__device__ __forceinline__ void copy_vector(Vector* to, const Vector* from) {
    using Type = typename Access<sizeof(Vector)>::Type;
#pragma unroll
    for (int part = 0; part < static_cast<int>(sizeof(Vector) / sizeof(Type)); ++part) {
        reinterpret_cast<Type*>(to)[part] = reinterpret_cast<const Type*>(from)[part];
    }
}

// blockIdx.y is the group of channels, blockIdx.z the volume. Channels beyond the last are filled with zeros.
template <typename Feature, typename Offset, int kWidth, int kVoxels>
__global__ void __launch_bounds__(kThreads) pack_volume(const __grid_constant__ Sampling sampling) {
    wait_for_previous_kernel();
    let_next_kernel_begin();  // not before: it reads the grid, which the kernel before this one may have written
    const Offset voxel = static_cast<Offset>(blockIdx.x) * kThreads + threadIdx.x;
    const Offset voxels = static_cast<Offset>(sampling.voxels);
    if (voxel >= voxels) {
        return;
    }
    const Offset first = static_cast<Offset>(blockIdx.y) * kWidth;
    const Offset left = static_cast<Offset>(sampling.channels) - first;
    const Feature* volume = static_cast<const Feature*>(sampling.volume) +
                            (static_cast<Offset>(blockIdx.z) * static_cast<Offset>(sampling.volume_stride) +
                             first * voxels + voxel);
    Packed<Feature, kWidth, kVoxels> packed;
#pragma unroll
    for (int step = 0; step < kVoxels; ++step) {
        const bool exists = voxel + step < voxels;
#pragma unroll
        for (int channel = 0; channel < kWidth; ++channel) {
            packed.of[step * kWidth + channel] =
                exists && channel < left ? __ldg(volume + (static_cast<Offset>(channel) * voxels + step))
                                         : from_float<Feature>(0.0f);
        }
    }
    const Offset groups = static_cast<Offset>(gridDim.y);
    auto* workspace = static_cast<Packed<Feature, kWidth, kVoxels>*>(sampling.workspace);
    copy_vector(workspace + ((static_cast<Offset>(blockIdx.z) * groups + blockIdx.y) * voxels + voxel), &packed);
}

// A block takes kThreads points of kSteps grid samples (kAcross) or kSteps * kThreads points of one.
template <typename Feature, typename Offset, int kWidth, int kVoxels, int kSteps, bool kAcross>
__device__ __forceinline__ void sample_packed(const Sampling& sampling, uint32_t first_sample) {
    const Offset points = static_cast<Offset>(sampling.points);
    const Offset voxels = static_cast<Offset>(sampling.voxels);
    const Offset start = static_cast<Offset>(blockIdx.x) * (kAcross ? kThreads : kThreads * kSteps) + threadIdx.x;
    const uint32_t volume_index =
        sampling.volume_stride == 0 ? 0 : first_sample / sampling.grids_a_volume;
    const auto step_sample = [&](int step) { return static_cast<Offset>(first_sample + (kAcross ? step : 0)); };
    const auto step_index = [&](int step) { return kAcross ? start : start + static_cast<Offset>(step * kThreads); };

    CornerWeights weights[kSteps];
    Offset corner[kSteps];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
        if (step_index(step) < points) {
            const Point point =
                locate(sampling.grid + (step_sample(step) * points + step_index(step)) * 3, sampling);
            weights[step] = corner_weights(point.z, point.y, point.x);
            corner[step] = rows_of<Offset>(point, sampling, 1, 0).of[0];
        } else {
            weights[step] = {};
            corner[step] = 0;
        }
    }
    wait_for_previous_kernel();
    using Vector = Packed<Feature, kWidth, kVoxels>;
    const Offset groups = static_cast<Offset>(gridDim.y);
    const Vector* packed = static_cast<const Vector*>(sampling.workspace) +
                           (static_cast<Offset>(volume_index) * groups + blockIdx.y) * voxels;
    const Offset row = static_cast<Offset>(sampling.width.size);
    const Offset slice = static_cast<Offset>(sampling.height.size) * row;
    const Offset first = static_cast<Offset>(blockIdx.y) * kWidth;
    const Offset left = static_cast<Offset>(sampling.channels) - first;
    Vector corners[kSteps][8 / kVoxels];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
            const Vector* address = packed + static_cast<Offset>(corner[step] + (pair & 1 ? row : 0) +
                                                                 (pair & 2 ? slice : 0));
#pragma unroll
            for (int x = 0; x < 2 / kVoxels; ++x) {
                copy_vector(&corners[step][pair * (2 / kVoxels) + x], address + x);
            }
        }
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
        if (step_index(step) >= points) {
            return;
        }
        float sums[kWidth];
        float probe = 0.0f;
#pragma unroll
        for (int channel = 0; channel < kWidth; ++channel) {
            sums[channel] = sum_pairs(weights[step], [&](int z, int y, int x) {
                return to_float(corners[step][(z * 2 + y) * (2 / kVoxels) + (kVoxels == 2 ? 0 : x)]
                                    .of[(kVoxels == 2 ? x * kWidth : 0) + channel]);
            });
            probe = add_unless_finite(sums[channel], probe);
        }
        const Offset output_start = step_sample(step) * static_cast<Offset>(sampling.output_stride) +
                                    (first * points + step_index(step));
        Feature* output = static_cast<Feature*>(sampling.output);
        if (probe == 0.0f) {
#pragma unroll
            for (int channel = 0; channel < kWidth; ++channel) {
                if (channel < left) {
                    output[output_start + static_cast<Offset>(channel) * points] = from_float<Feature>(sums[channel]);
                }
            }
        } else {
            const Feature* volume =
                static_cast<const Feature*>(sampling.volume) +
                (static_cast<Offset>(volume_index) * static_cast<Offset>(sampling.volume_stride) + first * voxels);
            sample_exactly<Feature>(sampling,
                                    sampling.grid + (step_sample(step) * points + step_index(step)) * 3, volume,
                                    voxels, 1, output + output_start, points, left < kWidth ? left : kWidth);
        }
    }
}

// kRounds grid samples one after the other, so that what the first read of the volume is still in L1 for the next.
template <typename Feature, typename Offset, int kWidth, int kVoxels, int kSteps, bool kAcross, int kRounds, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks) trilinear_packed(const __grid_constant__ Sampling sampling) {
    const uint32_t first = sampling.first_sample + blockIdx.z * (kAcross ? kSteps : 1) * kRounds;
#pragma unroll 1
    for (int round = 0; round < kRounds; ++round) {
        sample_packed<Feature, Offset, kWidth, kVoxels, kSteps, kAcross>(sampling, first + round * (kAcross ? kSteps : 1));
    }
}

}  // namespace sadtrt
