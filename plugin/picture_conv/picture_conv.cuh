// The CUDA kernel of PictureConv, templated over feature type and layout.
//
// A block makes a tile of the picture. It takes the map's channels in slabs: the slab of the tile and of a border one
// wide goes to shared memory, with the weights of these channels beside it, and every thread adds what one vector of
// its channels gives to two pixels, one below the other, whose windows overlap. The vectors' sums are added up last.
#pragma once

#include "../common/device.cuh"

namespace sadtrt {

constexpr int kTileWidth = 32;
constexpr int kThreadRows = 4;
constexpr int kPixels = 2;  // of a thread
constexpr int kTileHeight = kThreadRows * kPixels;
constexpr int kTaps = 3;
constexpr int kColours = 3;
constexpr int kVectorBytes = 16;
constexpr int kSlabBytes = 64;  // of a pixel's channels
constexpr int kVectors = kSlabBytes / kVectorBytes;
constexpr int kVectorThreads = kTileWidth * kThreadRows;  // of one vector
constexpr int kPictureThreads = kVectorThreads * kVectors;
constexpr int kPixelBytes = kSlabBytes + kVectorBytes;  // apart in shared memory: neighbours are in other banks
constexpr int kHaloWidth = kTileWidth + kTaps - 1;
constexpr int kHaloHeight = kTileHeight + kTaps - 1;

struct PictureConv {
    const void* input;
    const float* weights;
    const float* bias;
    float* output;
    int channels, height, width;
};

template <typename Element, int kCount>
struct alignas(kCount * sizeof(Element)) Several {
    Element of[kCount];
};

// At least two blocks of a multiprocessor, so that one reads while the other computes.
template <typename Feature, bool kChannelsLast>
__global__ void __launch_bounds__(kPictureThreads, 2) convolve_to_picture(const __grid_constant__ PictureConv problem) {
    constexpr int kLanes = kVectorBytes / sizeof(Feature);
    constexpr int kSlab = kLanes * kVectors;
    constexpr int kPixelStride = kPixelBytes / sizeof(Feature);
    using Vector = Several<Feature, kLanes>;
    using Weights = Several<float, kLanes>;
    __shared__ Vector tile[kHaloHeight * kHaloWidth * kPixelBytes / kVectorBytes];
    __shared__ Weights weights[kVectors * kTaps * kTaps * kColours];  // vector, column, row, colour
    Feature* scalars = reinterpret_cast<Feature*>(tile);
    float* flat_weights = reinterpret_cast<float*>(weights);

    const int thread = threadIdx.x;
    const int x = thread % kTileWidth;
    const int y = thread / kTileWidth % kThreadRows * kPixels;
    const int vector = thread / kVectorThreads;
    const int left = static_cast<int>(blockIdx.x) * kTileWidth;
    const int top = static_cast<int>(blockIdx.y) * kTileHeight;
    const int64_t plane = static_cast<int64_t>(problem.height) * problem.width;
    const Feature* map = static_cast<const Feature*>(problem.input) + blockIdx.z * plane * problem.channels;
    float sums[kPixels][kColours] = {};

    for (int first = 0; first < problem.channels; first += kSlab) {
        for (int i = thread; i < kSlab * kTaps * kTaps * kColours; i += kPictureThreads) {
            const int lane = i % kLanes;
            const int colour = i / kLanes % kColours;
            const int row = i / (kLanes * kColours) % kTaps;
            const int column = i / (kLanes * kColours * kTaps) % kTaps;
            const int channel = first + i / (kLanes * kColours * kTaps * kTaps) * kLanes + lane;
            const int64_t at = ((static_cast<int64_t>(colour) * problem.channels + channel) * kTaps + row) * kTaps;
            flat_weights[i] = channel < problem.channels ? problem.weights[at + column] : 0.0f;
        }
        if (first == 0) {
            wait_for_previous_kernel();
        }
        if constexpr (kChannelsLast) {
            for (int i = thread; i < kHaloHeight * kHaloWidth * kVectors; i += kPictureThreads) {
                const int of_pixel = i % kVectors;
                const int pixel = i / kVectors;
                const int row = top + pixel / kHaloWidth - 1;
                const int column = left + pixel % kHaloWidth - 1;
                const int channel = first + of_pixel * kLanes;
                const bool inside = row >= 0 && row < problem.height && column >= 0 && column < problem.width;
                Vector value = {};
                if (inside && channel < problem.channels) {
                    const int64_t at = (static_cast<int64_t>(row) * problem.width + column) * problem.channels + channel;
                    value = *reinterpret_cast<const Vector*>(map + at);
                }
                tile[pixel * (kPixelBytes / kVectorBytes) + of_pixel] = value;
            }
        } else {
            for (int i = thread; i < kHaloHeight * kHaloWidth * kSlab; i += kPictureThreads) {
                const int pixel = i % (kHaloHeight * kHaloWidth);
                const int lane = i / (kHaloHeight * kHaloWidth);
                const int row = top + pixel / kHaloWidth - 1;
                const int column = left + pixel % kHaloWidth - 1;
                const bool inside = row >= 0 && row < problem.height && column >= 0 && column < problem.width;
                Feature value = from_float<Feature>(0.0f);
                if (inside && first + lane < problem.channels) {
                    value = map[(first + lane) * plane + static_cast<int64_t>(row) * problem.width + column];
                }
                scalars[pixel * kPixelStride + lane] = value;
            }
        }
        __syncthreads();
        for (int column = 0; column < kTaps; ++column) {
            const Weights* own = weights + (vector * kTaps + column) * kTaps * kColours;
            Weights taps[kTaps * kColours];
#pragma unroll
            for (int i = 0; i < kTaps * kColours; ++i) {
                taps[i] = own[i];
            }
#pragma unroll
            for (int row = 0; row < kPixels + kTaps - 1; ++row) {
                const int pixel = (y + row) * kHaloWidth + x + column;
                const Vector value = tile[pixel * (kPixelBytes / kVectorBytes) + vector];
#pragma unroll
                for (int lane = 0; lane < kLanes; ++lane) {
                    const float feature = to_float(value.of[lane]);
#pragma unroll
                    for (int own_row = 0; own_row < kPixels; ++own_row) {
                        const int tap = row - own_row;
                        if (tap >= 0 && tap < kTaps) {
#pragma unroll
                            for (int colour = 0; colour < kColours; ++colour) {
                                sums[own_row][colour] += feature * taps[tap * kColours + colour].of[lane];
                            }
                        }
                    }
                }
            }
        }
        __syncthreads();
    }
    let_next_kernel_begin();
    // Of every vector: pixel of a thread, colour, thread.
    float* const partial = reinterpret_cast<float*>(tile);
    constexpr int kSums = kPixels * kColours * kVectorThreads;
    static_assert(kVectors * kSums * sizeof(float) <= sizeof(tile), "the sums take the tile's place");
#pragma unroll
    for (int i = 0; i < kPixels * kColours; ++i) {
        partial[vector * kSums + i * kVectorThreads + thread % kVectorThreads] = sums[i / kColours][i % kColours];
    }
    __syncthreads();
    for (int i = thread; i < kSums; i += kPictureThreads) {
        const int colour = i / kVectorThreads % kColours;
        const int row = top + i % kVectorThreads / kTileWidth * kPixels + i / (kVectorThreads * kColours);
        const int column = left + i % kTileWidth;
        if (row < problem.height && column < problem.width) {
            float sum = problem.bias[colour];
#pragma unroll
            for (int part = 0; part < kVectors; ++part) {
                sum += partial[part * kSums + i];
            }
            const int64_t at = static_cast<int64_t>(row) * problem.width + column;
            problem.output[(blockIdx.z * kColours + colour) * plane + at] = 1.0f / (1.0f + expf(-sum));
        }
    }
}

}  // namespace sadtrt
