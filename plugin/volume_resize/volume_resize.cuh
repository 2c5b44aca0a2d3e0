// The CUDA kernels of VolumeResize and VolumeJoinDouble, templated over feature type and layout; means are fp32.
//
// Both layouts are planes of vectors: linear ones N * C * D planes of scalars, channels-last ones N * D planes of C / 8
// vectors a voxel, 16 bytes each. A thread takes one vector of the smaller tensor and its four of the larger.
#pragma once

#include "../common/device.cuh"

namespace sadtrt {

constexpr int kResizeThreads = 256;

struct Resize {
    const void* input;
    const void* second;  // joined behind the input
    void* output;
    uint32_t rows, columns;              // of the smaller tensor
    uint32_t large_rows, large_columns;  // of the larger one
    uint32_t vectors;                    // of a voxel
    uint32_t total;                      // vectors of the smaller tensor, both inputs together
    uint32_t run, second_run;            // as many vectors of either input follow one another; 0: there is no second
};

template <typename Feature, int kLanes>
struct alignas(sizeof(Feature) * kLanes) Lanes {
    Feature of[kLanes];
};

// Where the first of the four vectors is in the larger tensor.
__device__ __forceinline__ uint32_t first_of_four(uint32_t index, const Resize& resize) {
    const uint32_t vector = index % resize.vectors;
    const uint32_t voxel = index / resize.vectors;
    const uint32_t column = voxel % resize.columns;
    const uint32_t line = voxel / resize.columns;
    const uint32_t row = line % resize.rows;
    const uint32_t plane = line / resize.rows;
    return ((plane * resize.large_rows + 2 * row) * resize.large_columns + 2 * column) * resize.vectors + vector;
}

template <typename Feature, int kLanes>
__global__ void __launch_bounds__(kResizeThreads) halve_volume(const __grid_constant__ Resize resize) {
    const uint32_t index = blockIdx.x * kResizeThreads + threadIdx.x;
    if (index >= resize.total) {
        return;
    }
    const uint32_t next_row = resize.large_columns * resize.vectors;
    const uint32_t first = first_of_four(index, resize);
    wait_for_previous_kernel();
    let_next_kernel_begin();
    using Vector = Lanes<Feature, kLanes>;
    const Vector* input = static_cast<const Vector*>(resize.input) + first;
    const Vector four[] = {input[0], input[resize.vectors], input[next_row], input[next_row + resize.vectors]};
    Vector mean;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
        const float upper = to_float(four[0].of[lane]) + to_float(four[1].of[lane]);
        const float lower = to_float(four[2].of[lane]) + to_float(four[3].of[lane]);
        mean.of[lane] = from_float<Feature>(0.25f * (upper + lower));
    }
    static_cast<Vector*>(resize.output)[index] = mean;
}

// Where a vector of the smaller tensor, the inputs joined, lies in one of them.
template <typename Vector>
__device__ __forceinline__ const Vector* joined_at(uint32_t index, const Resize& resize) {
    if (resize.second_run == 0) {
        return static_cast<const Vector*>(resize.input) + index;
    }
    const uint32_t both = resize.run + resize.second_run;
    const uint32_t runs = index / both;
    const uint32_t within = index % both;
    if (within < resize.run) {
        return static_cast<const Vector*>(resize.input) + runs * resize.run + within;
    }
    return static_cast<const Vector*>(resize.second) + runs * resize.second_run + within - resize.run;
}

template <typename Feature, int kLanes>
__global__ void __launch_bounds__(kResizeThreads) double_volume(const __grid_constant__ Resize resize) {
    const uint32_t index = blockIdx.x * kResizeThreads + threadIdx.x;
    if (index >= resize.total) {
        return;
    }
    const uint32_t next_row = resize.large_columns * resize.vectors;
    const uint32_t first = first_of_four(index, resize);
    using Vector = Lanes<Feature, kLanes>;
    const Vector* source = joined_at<Vector>(index, resize);
    wait_for_previous_kernel();
    let_next_kernel_begin();
    const Vector value = *source;
    Vector* output = static_cast<Vector*>(resize.output) + first;
    output[0] = value;
    output[resize.vectors] = value;
    output[next_row] = value;
    output[next_row + resize.vectors] = value;
}

}  // namespace sadtrt
