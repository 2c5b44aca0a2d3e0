// How both layouts are walked: a slice is what shares its statistics, or several channels side by side of one image.
#pragma once

#include "moments.h"
#include "on_chip.cuh"

namespace sadtrt {

// The pixels of a slice of one tensor, in rows that are split among blocks.
struct Rows {
    int64_t pixels;
    int64_t rows;
    int64_t rows_a_block;
    int32_t splits;
};

// What a launch needs. Sizes and offsets count elements.
struct Norm {
    const void* x;
    const void* residual;
    const void* modulation;
    void* sum;
    void* y;
    Part* parts;  // of two kernels: (slices, splits of x, channels of a slice)
    int64_t channels;
    Rows of_x;  // also of the residual and the sum
    Rows of_y;  // also of the modulation; the same where x is not upsampled
    uint32_t width;  // of y
    int32_t slices_an_image;
    float epsilon;
    float slope;
    float scale;  // of y in int8, 0 where it is of the tensors' type
};

// Channels that lie side by side in int8 where features are channels-last: TensorRT's kCHW32.
constexpr int kInt8Channels = 32;

// (N, H, W, C): a slice is so many vectors of every pixel of an image, which are a row: as many as a line of the caches
// holds where the channels fill them.
template <typename T, int kRowVectors>
struct ChannelsLast {
    using Feature = T;
    static constexpr int kWidth = 8;             // elements of a vector
    static constexpr int kLanes = kRowVectors;  // vectors of a row, each a thread's
    static constexpr int kChannels = kRowVectors * kWidth;
    static constexpr int kChannelsAThread = kWidth;
};

// (N, C, H, W): a slice is one channel of an image, a row one vector of neighbouring pixels.
template <typename T, int kPixels>
struct Linear {
    using Feature = T;
    static constexpr int kWidth = kPixels;
    static constexpr int kLanes = 1;
    static constexpr int kChannels = 1;
    static constexpr int kChannelsAThread = 1;
};

template <typename Layout>
using VectorOf = Vector<typename Layout::Feature, Layout::kWidth>;

// Where a thread's vectors of one block are; every one but the first is a step from that before it.
struct Walk {
    int64_t x, x_step;  // also of the residual and the sum
    int64_t y, y_step;
    int64_t gamma, modulation_step;
    int64_t beta;   // from a gamma to its beta
    int64_t pivot;  // the slice's first vector in x
    int64_t row, rows_a_step;
    int count;
};

// The first element of a thread's channels in a tensor of so many pixels as x has.
template <typename Layout>
__device__ __forceinline__ int64_t start_of(const Norm& norm, int64_t pixels, int slice) {
    const int64_t image = slice / norm.slices_an_image;
    const int64_t group = slice % norm.slices_an_image;
    if constexpr (Layout::kLanes > 1) {
        return image * pixels * norm.channels + group * Layout::kChannels +
               threadIdx.x % Layout::kLanes * Layout::kWidth;
    } else {
        return (image * norm.channels + group) * pixels;
    }
}

template <typename Layout>
__device__ __forceinline__ Walk walk_of(const Norm& norm, const Rows& rows, int slice, int split) {
    const int64_t image = slice / norm.slices_an_image;
    const int64_t group = slice % norm.slices_an_image;
    const int rows_a_step = blockDim.x / Layout::kLanes;
    const int64_t first_row = split * rows.rows_a_block;
    const int64_t row = first_row + threadIdx.x / Layout::kLanes;
    const int64_t end = first_row + rows.rows_a_block < rows.rows ? first_row + rows.rows_a_block : rows.rows;
    const int count = row < end ? static_cast<int>((end - row + rows_a_step - 1) / rows_a_step) : 0;
    Walk walk;
    walk.row = row;
    walk.rows_a_step = rows_a_step;
    walk.pivot = start_of<Layout>(norm, rows.pixels, slice);
    if constexpr (Layout::kLanes > 1) {
        const int64_t channel = group * Layout::kChannels + threadIdx.x % Layout::kLanes * Layout::kWidth;
        walk.x = walk.pivot + row * norm.channels;
        walk.x_step = rows_a_step * norm.channels;
        walk.gamma = (image * rows.pixels + row) * norm.channels * 2 + channel;
        walk.modulation_step = walk.x_step * 2;
        walk.beta = norm.channels;
        walk.count = channel < norm.channels ? count : 0;  // the last slice may have fewer vectors a row
        walk.y = walk.x;
        walk.y_step = walk.x_step;
        if (norm.scale > 0.0f) {
            walk.y = (image * norm.channels + channel / kInt8Channels * kInt8Channels) * rows.pixels +
                     row * kInt8Channels + channel % kInt8Channels;
            walk.y_step = static_cast<int64_t>(rows_a_step) * kInt8Channels;
        }
    } else {
        walk.x = walk.pivot + row * Layout::kWidth;
        walk.x_step = static_cast<int64_t>(rows_a_step) * Layout::kWidth;
        walk.gamma = (image * 2 * norm.channels + group) * rows.pixels + row * Layout::kWidth;
        walk.modulation_step = walk.x_step;
        walk.beta = norm.channels * rows.pixels;
        walk.count = count;
        walk.y = walk.x;
        walk.y_step = walk.x_step;
    }
    return walk;
}

// The address of a vector of a tensor.
template <typename Layout>
__device__ __forceinline__ const VectorOf<Layout>* vector_at(const void* tensor, int64_t offset) {
    return reinterpret_cast<const VectorOf<Layout>*>(static_cast<const typename Layout::Feature*>(tensor) + offset);
}
template <typename Layout>
__device__ __forceinline__ VectorOf<Layout>* vector_at(void* tensor, int64_t offset) {
    return reinterpret_cast<VectorOf<Layout>*>(static_cast<typename Layout::Feature*>(tensor) + offset);
}

template <typename Feature, int kWidth>
__device__ __forceinline__ Vector<Feature, kWidth> sum_of(const Vector<Feature, kWidth>& first,
                                                          const Vector<Feature, kWidth>& second) {
    Vector<Feature, kWidth> sum;
#pragma unroll
    for (int index = 0; index < kWidth; ++index) {
        sum.of[index] = from_float<Feature>(to_float(first.of[index]) + to_float(second.of[index]));
    }
    return sum;
}

// The first element of each of a thread's channels, which its statistics are taken relative to.
template <typename Layout, bool kAdds>
__device__ __forceinline__ void read_pivots(const Norm& norm, const Walk& walk,
                                            float (&pivots)[Layout::kChannelsAThread]) {
    using Feature = typename Layout::Feature;
    using First = Vector<Feature, Layout::kChannelsAThread>;
    First first = {};
    if (walk.count > 0) {
        first = *reinterpret_cast<const First*>(static_cast<const Feature*>(norm.x) + walk.pivot);
        if constexpr (kAdds) {
            first = sum_of(first, *reinterpret_cast<const First*>(static_cast<const Feature*>(norm.residual) +
                                                                  walk.pivot));
        }
    }
#pragma unroll
    for (int channel = 0; channel < Layout::kChannelsAThread; ++channel) {
        pivots[channel] = to_float(first.of[channel]);
    }
}

}  // namespace sadtrt
