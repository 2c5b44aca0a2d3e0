// Sampling a linear volume through a copy of it whose voxels hold several channels side by side.
//
// In linear layout a sample reads every channel's eight voxels one by one, and the number of those reads bounds it,
// not their bytes. So where that pays the volume is first copied into the workspace as vectors of 16 bytes,
// (N, groups, D, H, W) of them: kWidth channels of a voxel and, where there is room, of the next one along x too.
// The output stays linear. Four blocks or six a multiprocessor: more warps hid more latency than registers did.
#pragma once

#include "grid_sample_3d.cuh"

namespace sadtrt {

template <typename Feature, int kWidth>
struct alignas(16) Packed {
    static constexpr int kVoxels = 16 / (sizeof(Feature) * kWidth);  // 1 or 2
    Feature of[kVoxels * kWidth];
};

// In one access. Not by __ldg: the workspace may change until the kernel before has ended.
template <typename Vector>
__device__ __forceinline__ void copy_vector(Vector* to, const Vector* from) {
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
}

// blockIdx.y is the group of channels, blockIdx.z the volume. Channels beyond the last are filled with zeros.
template <typename Feature, typename Addressing, int kWidth>
__global__ void __launch_bounds__(kThreads) pack_volume(const __grid_constant__ Sampling sampling) {
    using Offset = typename Addressing::Offset;
    const Offset voxel = static_cast<Offset>(blockIdx.x) * kThreads + threadIdx.x;
    const Offset voxels = static_cast<Offset>(sampling.voxels);
    if (voxel >= voxels) {
        return;
    }
    wait_for_previous_kernel();
    let_next_kernel_begin();
    const Offset first = static_cast<Offset>(blockIdx.y) * kWidth;
    const Offset left = static_cast<Offset>(sampling.channels) - first;
    const Feature* volume = static_cast<const Feature*>(sampling.volume) +
                            (static_cast<Offset>(blockIdx.z) * static_cast<Offset>(sampling.volume_stride) +
                             first * voxels + voxel);
    Packed<Feature, kWidth> packed;
#pragma unroll
    for (int step = 0; step < packed.kVoxels; ++step) {
        const bool exists = voxel + step < voxels;
#pragma unroll
        for (int channel = 0; channel < kWidth; ++channel) {
            packed.of[step * kWidth + channel] =
                exists && channel < left ? __ldg(volume + (static_cast<Offset>(channel) * voxels + step))
                                         : from_float<Feature>(0.0f);
        }
    }
    const Offset group = static_cast<Offset>(blockIdx.z) * gridDim.y + blockIdx.y;
    copy_vector(static_cast<Packed<Feature, kWidth>*>(sampling.workspace) + (group * voxels + voxel), &packed);
}

// A thread owns one sample point and one group of channels. The grid is read, and the voxels are found, while the
// volume is still being packed; what packs it has by then waited for the kernel that may have written the grid.
template <typename Feature, typename Addressing, int kWidth>
__global__ void __launch_bounds__(kThreads, kWidth == 4 ? 6 : 4)
    trilinear_packed(const __grid_constant__ Sampling sampling) {
    using Offset = typename Addressing::Offset;
    using Vector = Packed<Feature, kWidth>;
    const Offset index = static_cast<Offset>(blockIdx.x) * kThreads + threadIdx.x;
    const Offset points = static_cast<Offset>(sampling.points);
    const Offset voxels = static_cast<Offset>(sampling.voxels);
    if (index >= points) {
        return;
    }
    const uint32_t sample = sampling.first_sample + blockIdx.z;
    const float* coordinates = sampling.grid + (static_cast<Offset>(sample) * points + index) * 3;
    const Corners<Offset> at = locate_corners<Addressing>(coordinates, sampling);
    if (at.voxel >= voxels) {
        return;  // never: a branch on what was read keeps the compiler from putting the reads after the wait
    }
    const uint32_t volume = volume_of<Addressing>(sample, sampling);
    const Offset group = static_cast<Offset>(volume) * gridDim.y + blockIdx.y;
    const Offset first = group * voxels + at.voxel;
    const Offset row = static_cast<Offset>(sampling.width.size);
    const Offset slice = static_cast<Offset>(sampling.slice);

    wait_for_previous_kernel();
    let_next_kernel_begin();
    const Vector* packed = static_cast<const Vector*>(sampling.workspace);
    Vector corners[8 / Vector::kVoxels];
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
        const Vector* address = packed + static_cast<Offset>(first + (pair & 2 ? slice : 0) + (pair & 1 ? row : 0));
#pragma unroll
        for (int x = 0; x < 2; x += Vector::kVoxels) {
            copy_vector(&corners[(pair * 2 + x) / Vector::kVoxels], address + x);
        }
    }
    float sums[kWidth];
#pragma unroll
    for (int channel = 0; channel < kWidth; ++channel) {
        sums[channel] = sum_pairs(at.weights, [&](int z, int y, int x) {
            const int voxel = z * 4 + y * 2 + x;
            return to_float(corners[voxel / Vector::kVoxels].of[voxel % Vector::kVoxels * kWidth + channel]);
        });
    }
    const Offset first_channel = static_cast<Offset>(blockIdx.y) * kWidth;
    const Offset channels = static_cast<Offset>(sampling.channels);
    Offset place = (static_cast<Offset>(sample) * channels + first_channel) * points + index;
    Feature* output = static_cast<Feature*>(sampling.output);
    if (!all_finite(sums)) {
        const Feature* features = static_cast<const Feature*>(sampling.volume) +
                                  (static_cast<Offset>(volume) * static_cast<Offset>(sampling.volume_stride) +
                                   first_channel * voxels);
        const Offset left = channels - first_channel;
        sample_exactly<Feature>(sampling, coordinates, features, voxels, 1, output + place, points,
                                left < kWidth ? left : kWidth);
    } else if (first_channel + kWidth <= channels) {
#pragma unroll
        for (int channel = 0; channel < kWidth; ++channel) {
            output[place] = from_float<Feature>(sums[channel]);
            place += points;
        }
    } else {
#pragma unroll
        for (int channel = 0; channel < kWidth - 1; ++channel) {
            if (first_channel + channel < channels) {
                output[place] = from_float<Feature>(sums[channel]);
                place += points;
            }
        }
    }
}

}  // namespace sadtrt
