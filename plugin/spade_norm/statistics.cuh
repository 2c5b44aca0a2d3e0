// Moments of a slice's channels: of each thread's vectors, then of a warp, a block, and all blocks of the slice.
#pragma once

#include "slice.cuh"

namespace sadtrt {

constexpr int kMostThreads = 512;
constexpr int kWarp = 32;
constexpr int kMostWarps = kMostThreads / kWarp;
constexpr int kMostCluster = 16;
constexpr int kBatch = 4;    // vectors that a thread reads at once
constexpr int kMergers = 8;  // lanes that merge one channel's parts

// A block's shared memory; what a slice keeps of x lies behind it.
template <typename Layout>
struct alignas(16) BlockMemory {
    Part warps[kMostWarps][Layout::kChannels];
    Part blocks[kMostCluster][Layout::kChannels];
    float scale[Layout::kChannels];
    float shift[Layout::kChannels];
};

// Adds the first `valid` vectors of a batch to what a thread has seen, `seen` elements of each of its channels.
template <typename Layout>
__device__ __forceinline__ void add_batch(const VectorOf<Layout> (&batch)[kBatch], int valid,
                                          const float (&pivots)[Layout::kChannelsAThread],
                                          Moments (&moments)[Layout::kChannelsAThread], float& seen) {
    constexpr int kElements = Layout::kWidth / Layout::kChannelsAThread;  // of a channel in a vector
    const float added = static_cast<float>(valid * kElements);
    const float reciprocal = 1.0f / added;
    const Merging how = merging_of(seen, added);
#pragma unroll
    for (int channel = 0; channel < Layout::kChannelsAThread; ++channel) {
        float total = 0.0f;
#pragma unroll
        for (int index = 0; index < kBatch * kElements; ++index) {
            if (index / kElements < valid) {
                const auto element = batch[index / kElements].of[channel * kElements + index % kElements];
                total += to_float(element) - pivots[channel];
            }
        }
        Moments here = {total * reciprocal, 0.0f};
#pragma unroll
        for (int index = 0; index < kBatch * kElements; ++index) {
            if (index / kElements < valid) {
                const auto element = batch[index / kElements].of[channel * kElements + index % kElements];
                const float difference = to_float(element) - pivots[channel] - here.mean;
                here.squares = fmaf(difference, difference, here.squares);
            }
        }
        moments[channel] = merged(moments[channel], here, how);
    }
    seen += added;
}

// Merges over the lanes that have the same channels. Of several channels each step hands half of them over, so that
// a lane ends with few of them (first_channel_of_lane, channels_left) and few values are exchanged.
template <int kHeld, int kStride, int kLanes, int kChannels>
__device__ __forceinline__ void merge_lanes(Moments (&moments)[kChannels], float& seen) {
    if constexpr (kStride >= kLanes) {
        constexpr int kKept = kHeld > 1 ? kHeld / 2 : 1;
        const bool upper = (threadIdx.x & kStride) != 0;
        const float others = of_lane_xor(seen, kStride);
        const Merging how = merging_of(seen, others);
#pragma unroll
        for (int channel = 0; channel < kKept; ++channel) {
            const Moments low = moments[channel];
            const Moments high = moments[channel + kHeld - kKept];
            const Moments sent = upper ? low : high;
            const Moments got = {of_lane_xor(sent.mean, kStride), of_lane_xor(sent.squares, kStride)};
            moments[channel] = merged(upper ? high : low, got, how);
        }
        seen += others;
        merge_lanes<kKept, kStride / 2, kLanes>(moments, seen);
    }
}

// How many channels a lane ends with.
template <typename Layout>
SADTRT_HOST_DEVICE constexpr int channels_left() {
    int held = Layout::kChannelsAThread;
    for (int stride = kWarp / 2; stride >= Layout::kLanes; stride /= 2) {
        held = held > 1 ? held / 2 : 1;
    }
    return held;
}

// The first of them in the slice, or -1 for a lane that has the same as another.
template <typename Layout>
__device__ __forceinline__ int first_channel_of_lane(int lane) {
    int channel = lane % Layout::kLanes * Layout::kChannelsAThread;
    int held = Layout::kChannelsAThread;
#pragma unroll
    for (int stride = kWarp / 2; stride >= Layout::kLanes; stride /= 2) {
        const bool upper = (lane & stride) != 0;
        if (held > 1) {
            held /= 2;
            channel += upper ? held : 0;
        } else if (upper) {
            return -1;
        }
    }
    return channel;
}

// Puts the moments of each warp where every thread of the block can read them.
template <typename Layout>
__device__ __forceinline__ void gather_warps(Moments (&moments)[Layout::kChannelsAThread], float seen,
                                             BlockMemory<Layout>& memory) {
    merge_lanes<Layout::kChannelsAThread, kWarp / 2, Layout::kLanes>(moments, seen);
    const int first = first_channel_of_lane<Layout>(threadIdx.x % kWarp);
    if (first >= 0) {
#pragma unroll
        for (int index = 0; index < channels_left<Layout>(); ++index) {
            memory.warps[threadIdx.x / kWarp][first + index] = {seen, moments[index].mean, moments[index].squares};
        }
    }
    __syncthreads();
}

// Merges the `count` parts of every channel of the slice, in an order that only `count` decides: read(part, channel)
// gives one, keep(channel, whole) is called by one thread for each channel.
template <typename Layout, typename Read, typename Keep>
__device__ __forceinline__ void merge_channels(int count, Read read, Keep keep) {
    constexpr int kChannelsAWarp = kWarp / kMergers;
    const int merger = threadIdx.x % kWarp / kChannelsAWarp;
    const int warp = threadIdx.x / kWarp;
    for (int first = warp * kChannelsAWarp; first < Layout::kChannels; first += blockDim.x / kMergers) {
        const int channel = first + threadIdx.x % kChannelsAWarp;
        Part whole = {};
        for (int part = merger; part < count; part += kMergers * kBatch) {
            Part batch[kBatch] = {};
#pragma unroll
            for (int place = 0; place < kBatch; ++place) {
                if (part + place * kMergers < count && channel < Layout::kChannels) {
                    batch[place] = read(part + place * kMergers, channel);
                }
            }
#pragma unroll
            for (int place = 0; place < kBatch; ++place) {
                whole = merged(whole, batch[place]);
            }
        }
#pragma unroll
        for (int stride = kWarp / 2; stride >= kChannelsAWarp; stride /= 2) {
            const Part other = {of_lane_xor(whole.count, stride), of_lane_xor(whole.mean, stride),
                                of_lane_xor(whole.squares, stride)};
            whole = merged(whole, other);
        }
        if (channel < Layout::kChannels && merger == 0) {
            keep(channel, whole);
        }
    }
}

// The same over the block's warps, after gather_warps.
template <typename Layout, typename Keep>
__device__ __forceinline__ void merge_warps(const BlockMemory<Layout>& memory, Keep keep) {
    merge_channels<Layout>(
        blockDim.x / kWarp, [&](int warp, int channel) { return memory.warps[warp][channel]; }, keep);
}

// Scale and shift of every channel of the slice, from its parts, where every thread can read them.
template <typename Layout, typename Read>
__device__ __forceinline__ void finish_statistics(BlockMemory<Layout>& memory, float epsilon, int count, Read read) {
    merge_channels<Layout>(count, read, [&](int channel, const Part& whole) {
        const float scale = scale_of(whole, epsilon);
        memory.scale[channel] = scale;
        memory.shift[channel] = -whole.mean * scale;
    });
    __syncthreads();
}

}  // namespace sadtrt
