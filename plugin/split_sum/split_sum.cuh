// The CUDA kernel of SplitSum, templated over feature type and layout; sums are fp32.
//
// A block takes part of one row of y. A thread takes one vector of it: eight channels where all tensors are channels
// last, else one element, whose place in x and y their strides tell. Neighbouring threads have neighbouring memory.
#pragma once

#include <cstdint>

#include "../common/device.cuh"

namespace sadtrt {

constexpr int kSplitThreads = 128;

// Elements from one to the next along each axis.
struct Strides {
    uint32_t map, channel, row, column;
};

struct SplitSum {
    const void* x;
    const float* bias;
    const void* skip;
    void* y;
    Strides of_x, of_skip, of_y;
    uint32_t first_channel;  // of x
    uint32_t outputs;        // O
    uint32_t vectors;        // of a place of y, those of the skip among them
    uint32_t rows, columns;  // of y
    uint32_t height, width;  // of x
    uint32_t depth, taps_depth, taps_height, taps_width, scale;
    bool pool;
    float slope;
};

template <typename Feature, int kLanes>
struct alignas(sizeof(Feature) * kLanes) Lanes {
    Feature of[kLanes];
};

// Where an output of an upsampled map is computed along one axis.
struct Phase {
    uint32_t window, number;

    __device__ __forceinline__ Phase(uint32_t place, uint32_t scale) : window(place), number(0) {
        if (scale > 1) {
            const uint32_t within = place % scale;
            const uint32_t last = within == scale - 1;
            window = place / scale + last;
            number = last ? min(scale, 3u) - 1 : within > 0;
        }
    }
};

__device__ __forceinline__ float leaky(float value, float slope) {
    // Without a product for a ReLU, which would make a NaN of minus infinity.
    return value < 0.0f ? (slope == 0.0f ? 0.0f : slope * value) : value;
}

// Adds every tap of output `channel` at one place before pooling to the sums. kDepthTaps and kPlaneTaps are the numbers of
// taps along depth and along both axes of the plane, 0 where they are known at run time only. For a tap beyond the volume
// the first element is read, and not used: without a branch the others are on their way together.
template <typename Feature, int kLanes, int kDepthTaps, int kPlaneTaps>
__device__ __forceinline__ void add_taps(const SplitSum& sum, uint32_t map, uint32_t channel, uint32_t row,
                                         uint32_t column, float (&sums)[kLanes]) {
    using Vector = Lanes<Feature, kLanes>;
    const Phase down(row, sum.scale);
    const Phase across(column, sum.scale);
    const uint32_t phases = min(sum.scale, 3u);
    const uint32_t depth = map % sum.depth;
    const uint32_t taps_depth = kDepthTaps > 0 ? kDepthTaps : sum.taps_depth;
    const uint32_t taps_height = kPlaneTaps > 0 ? kPlaneTaps : sum.taps_height;
    const uint32_t taps_width = kPlaneTaps > 0 ? kPlaneTaps : sum.taps_width;
    const uint32_t tap_channels = phases * phases * sum.outputs;
    const uint32_t phase = down.number * phases + across.number;
    const uint32_t first = sum.first_channel + phase * sum.outputs + channel;
    const Feature* x = static_cast<const Feature*>(sum.x);
#pragma unroll
    for (uint32_t along = 0; along < taps_depth; ++along) {
#pragma unroll
        for (uint32_t tap_row = 0; tap_row < taps_height; ++tap_row) {
#pragma unroll
            for (uint32_t tap_column = 0; tap_column < taps_width; ++tap_column) {
                // Places before the first wrap around and are beyond the last.
                const uint32_t offset = along - taps_depth / 2;
                const uint32_t x_row = down.window + tap_row - taps_height / 2;
                const uint32_t x_column = across.window + tap_column - taps_width / 2;
                const bool inside = depth + offset < sum.depth && x_row < sum.height && x_column < sum.width;
                const uint32_t tap = (along * taps_height + tap_row) * taps_width + tap_column;
                const uint32_t place = (map + offset) * sum.of_x.map + (tap * tap_channels + first) * sum.of_x.channel +
                                       x_row * sum.of_x.row + x_column * sum.of_x.column;
                const Vector read = *reinterpret_cast<const Vector*>(x + (inside ? place : 0));
                const Vector part = inside ? read : Vector();
#pragma unroll
                for (int lane = 0; lane < kLanes; ++lane) {
                    sums[lane] += to_float(part.of[lane]);
                }
            }
        }
    }
}

template <typename Feature, int kLanes, int kDepthTaps, int kPlaneTaps>
__global__ void __launch_bounds__(kSplitThreads) split_sum(const __grid_constant__ SplitSum sum) {
    const uint32_t item = blockIdx.y * kSplitThreads + threadIdx.x;
    const uint32_t row = blockIdx.x % sum.rows;
    const uint32_t line = blockIdx.x / sum.rows;
    const bool channels_last = kLanes > 1;
    const uint32_t vector = channels_last ? item % sum.vectors : line % sum.vectors;
    const uint32_t column = channels_last ? item / sum.vectors : item;
    const uint32_t map = channels_last ? line : line / sum.vectors;
    const uint32_t channel = vector * kLanes;
    if (column >= sum.columns) {
        return;
    }
    using Vector = Lanes<Feature, kLanes>;
    Feature* const y = static_cast<Feature*>(sum.y) + map * sum.of_y.map + channel * sum.of_y.channel +
                       row * sum.of_y.row + column * sum.of_y.column;
    wait_for_previous_kernel();
    let_next_kernel_begin();
    if (channel >= sum.outputs) {
        const Feature* skip = static_cast<const Feature*>(sum.skip) + map * sum.of_skip.map +
                              (channel - sum.outputs) * sum.of_skip.channel + row * sum.of_skip.row +
                              column * sum.of_skip.column;
        *reinterpret_cast<Vector*>(y) = *reinterpret_cast<const Vector*>(skip);
        return;
    }
    constexpr int kFloats = kLanes > 1 ? 4 : 1;  // at a time
    float bias[kLanes];
#pragma unroll
    for (int lane = 0; lane < kLanes; lane += kFloats) {
        const auto part = *reinterpret_cast<const Lanes<float, kFloats>*>(sum.bias + channel + lane);
#pragma unroll
        for (int within = 0; within < kFloats; ++within) {
            bias[lane + within] = part.of[within];
        }
    }
    float means[kLanes] = {};
    const uint32_t side = sum.pool ? 2 : 1;
    for (uint32_t down = 0; down < side; ++down) {
        for (uint32_t across = 0; across < side; ++across) {
            float sums[kLanes];
#pragma unroll
            for (int lane = 0; lane < kLanes; ++lane) {
                sums[lane] = bias[lane];
            }
            add_taps<Feature, kLanes, kDepthTaps, kPlaneTaps>(sum, map, channel, row * side + down,
                                                              column * side + across, sums);
#pragma unroll
            for (int lane = 0; lane < kLanes; ++lane) {
                means[lane] += leaky(sums[lane], sum.slope);
            }
        }
    }
    Vector result;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
        result.of[lane] = from_float<Feature>(sum.pool ? 0.25f * means[lane] : means[lane]);
    }
    *reinterpret_cast<Vector*>(y) = result;
}

}  // namespace sadtrt
