// What a thread of the GridSample3D kernels starts from: its launch's parameters and its sample point.
#pragma once

#include "../common/device.cuh"
#include "sampling_math.h"

namespace sadtrt {

constexpr int kThreads = 256;
constexpr int kChunk = 8;  // channels of one channels-last access

// What one launch needs. Strides and sizes count elements.
struct Sampling {
    const void* volume;
    const float* grid;
    void* output;
    void* workspace;  // where the packed volume is, for kernels that read one
    Axis depth, height, width;
    int64_t channels;         // linear: channels; channels-last: channels rounded up to chunks
    int64_t slice;            // height * width
    int64_t voxels;           // depth * height * width
    int64_t points;           // sample points of one grid sample
    int64_t volume_stride;    // from one volume of the batch to the next
    uint32_t first_sample;    // grid sample of blockIdx.z == 0
    uint32_t grids_a_volume;  // grid samples that share one volume
    uint32_t volumes_a_grid;  // plain problems: its reciprocal times 2^32, rounded down; 0 where there is one volume
    uint32_t origin_bits;     // what voxel 0 is in the bits of three plain pairs
    Padding padding;
    bool in_half;    // positions and weights
    bool has_pairs;  // every axis has at least two voxels
};

// How a kernel counts: Offset holds every element of every tensor. kPlain stands for what the renderer does: trilinear,
// zeros padding, every axis of 2 to kLargestPlainSize voxels; it is then known at compile time.
template <typename OffsetType, bool kPlainProblem>
struct Addressing {
    using Offset = OffsetType;
    static constexpr bool kPlain = kPlainProblem;
};
using Plain = Addressing<uint32_t, true>;
using Narrow = Addressing<uint32_t, false>;
using Wide = Addressing<int64_t, false>;

// The volume that a grid sample reads.
template <typename Addressing>
__device__ __forceinline__ uint32_t volume_of(uint32_t sample, const Sampling& sampling) {
    if constexpr (Addressing::kPlain) {
        // sample / grids_a_volume, exactly while (sample + 1) * grids_a_volume is at most 2^32.
        return __umulhi(sample + 1, sampling.volumes_a_grid);
    } else {
        return sampling.volume_stride == 0 ? 0 : sample / sampling.grids_a_volume;
    }
}

// One sample point: its three coordinates, the grid sample it belongs to and the volume that is read.
template <typename Offset>
struct Place {
    const float* coordinates;
    Offset volume;  // first element of the volume
    Offset output;  // first element of the grid sample's output
};

template <typename Addressing, typename Offset = typename Addressing::Offset>
__device__ __forceinline__ Place<Offset> place_of(Offset index, const Sampling& sampling) {
    const uint32_t sample = sampling.first_sample + blockIdx.z;
    const Offset volume = static_cast<Offset>(volume_of<Addressing>(sample, sampling));
    const Offset points = static_cast<Offset>(sampling.points);
    return {sampling.grid + (static_cast<Offset>(sample) * points + index) * 3,
            volume * static_cast<Offset>(sampling.volume_stride),
            static_cast<Offset>(sample) * static_cast<Offset>(sampling.channels) * points};
}

struct Point {
    Pair z, y, x;
};

template <Padding kPadding>
__device__ __forceinline__ Point locate_with(float x, float y, float z, const Sampling& sampling) {
    return {locate_pair<kPadding>(z, sampling.depth), locate_pair<kPadding>(y, sampling.height),
            locate_pair<kPadding>(x, sampling.width)};
}

__device__ __forceinline__ Point locate(const float* coordinates, const Sampling& sampling) {
    const float x = __ldg(coordinates);
    const float y = __ldg(coordinates + 1);
    const float z = __ldg(coordinates + 2);
    if (sampling.in_half) {
        return {locate_half_pair(z, sampling.depth), locate_half_pair(y, sampling.height),
                locate_half_pair(x, sampling.width)};
    }
    switch (sampling.padding) {
        case Padding::kZeros: return locate_with<Padding::kZeros>(x, y, z, sampling);
        case Padding::kBorder: return locate_with<Padding::kBorder>(x, y, z, sampling);
        default: return locate_with<Padding::kReflection>(x, y, z, sampling);
    }
}

// The weights of a point's eight voxels, and the first of these voxels.
template <typename Offset>
struct Corners {
    CornerWeights weights;
    Offset voxel;
};

template <typename Addressing>
__device__ __forceinline__ Corners<typename Addressing::Offset> locate_corners(const float* coordinates,
                                                                               const Sampling& sampling) {
    using Offset = typename Addressing::Offset;
    const Offset row = static_cast<Offset>(sampling.width.size);
    const Offset slice = static_cast<Offset>(sampling.slice);
    if constexpr (Addressing::kPlain) {
        const PlainPair x = locate_plain_pair(__ldg(coordinates), sampling.width);
        const PlainPair y = locate_plain_pair(__ldg(coordinates + 1), sampling.height);
        const PlainPair z = locate_plain_pair(__ldg(coordinates + 2), sampling.depth);
        // Modulo 2^32; twice the voxel is below it.
        return {corner_weights(z, y, x), (z.bits * slice + y.bits * row + x.bits - sampling.origin_bits) >> 1};
    } else {
        const Point at = locate(coordinates, sampling);
        return {corner_weights(at.z, at.y, at.x, sampling.in_half), static_cast<Offset>(at.z.base) * slice +
                                                                        static_cast<Offset>(at.y.base) * row +
                                                                        static_cast<Offset>(at.x.base)};
    }
}

// The voxel nearest to a point, or -1 where the sample is zero.
template <typename Offset, Padding kPadding>
__device__ __forceinline__ int64_t nearest_with(float x, float y, float z, const Sampling& sampling) {
    const int32_t column = locate_nearest<kPadding>(x, sampling.width);
    const int32_t row = locate_nearest<kPadding>(y, sampling.height);
    const int32_t slice = locate_nearest<kPadding>(z, sampling.depth);
    const bool inside = column >= 0 && column < sampling.width.size && row >= 0 && row < sampling.height.size &&
                        slice >= 0 && slice < sampling.depth.size;
    const Offset voxel = (static_cast<Offset>(slice) * sampling.height.size + row) * sampling.width.size + column;
    return inside ? static_cast<int64_t>(voxel) : -1;
}

template <typename Offset>
__device__ __forceinline__ int64_t nearest_voxel(const float* coordinates, const Sampling& sampling) {
    const float x = __ldg(coordinates);
    const float y = __ldg(coordinates + 1);
    const float z = __ldg(coordinates + 2);
    switch (sampling.padding) {
        case Padding::kZeros: return nearest_with<Offset, Padding::kZeros>(x, y, z, sampling);
        case Padding::kBorder: return nearest_with<Offset, Padding::kBorder>(x, y, z, sampling);
        default: return nearest_with<Offset, Padding::kReflection>(x, y, z, sampling);
    }
}

}  // namespace sadtrt
