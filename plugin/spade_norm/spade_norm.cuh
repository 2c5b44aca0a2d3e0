// The kernels of SpadeNorm: one that keeps its slice of x on the chip, and two that read x a second time.
#pragma once

#include "statistics.cuh"

namespace sadtrt {

// Gamma and beta of a batch of vectors.
template <typename Layout>
struct Modulation {
    VectorOf<Layout> gamma[kBatch];
    VectorOf<Layout> beta[kBatch];
};

template <typename Layout>
__device__ __forceinline__ void read_modulation(const Norm& norm, const Walk& walk, int first,
                                                Modulation<Layout>& batch) {
#pragma unroll
    for (int index = 0; index < kBatch; ++index) {
        if (first + index < walk.count) {
            const int64_t gamma = walk.gamma + (first + index) * walk.modulation_step;
            batch.gamma[index] = read_once(vector_at<Layout>(norm.modulation, gamma));
            batch.beta[index] = read_once(vector_at<Layout>(norm.modulation, gamma + walk.beta));
        }
    }
}

// What ONNX's QuantizeLinear makes of a vector, its zero point 0.
template <typename Feature, int kWidth>
__device__ __forceinline__ void write_int8(int8_t* address, const Vector<Feature, kWidth>& y, float scale) {
    Vector<int8_t, kWidth> quantized;
#pragma unroll
    for (int element = 0; element < kWidth; ++element) {
        const float steps = rintf(to_float(y.of[element]) / scale);
        quantized.of[element] = static_cast<int8_t>(fminf(fmaxf(steps, -128.0f), 127.0f));
    }
    *reinterpret_cast<Vector<int8_t, kWidth>*>(address) = quantized;
}

// Writes y of all vectors of a thread. x_of(index, place) gives the vector of that index, the `place`-th of its batch.
// `batch` holds the first gammas and betas, and advance(first) reads those from `first` on.
template <typename Layout, typename X, typename Advance>
__device__ __forceinline__ void write_modulated(const Norm& norm, const Walk& walk,
                                                const float (&pivots)[Layout::kChannelsAThread],
                                                const BlockMemory<Layout>& memory, const Modulation<Layout>& batch,
                                                X x_of, Advance advance) {
    constexpr int kElements = Layout::kWidth / Layout::kChannelsAThread;
    using Feature = typename Layout::Feature;
    const int lane_channel = threadIdx.x % Layout::kLanes * Layout::kChannelsAThread;
    Channel channels[Layout::kChannelsAThread];
#pragma unroll
    for (int index = 0; index < Layout::kChannelsAThread; ++index) {
        channels[index] = {pivots[index], memory.scale[lane_channel + index], memory.shift[lane_channel + index]};
    }
    for (int first = 0; first < walk.count; first += kBatch) {
#pragma unroll
        for (int place = 0; place < kBatch; ++place) {
            if (first + place < walk.count) {
                const VectorOf<Layout> x = x_of(first + place, place);
                VectorOf<Layout> y;
#pragma unroll
                for (int element = 0; element < Layout::kWidth; ++element) {
                    const float value =
                        modulated(to_float(x.of[element]), channels[element / kElements],
                                  to_float(batch.gamma[place].of[element]), to_float(batch.beta[place].of[element]),
                                  norm.slope);
                    y.of[element] = from_float<Feature>(value);
                }
                const int64_t offset = walk.y + (first + place) * walk.y_step;
                if (norm.scale > 0.0f) {
                    write_int8(static_cast<int8_t*>(norm.y) + offset, y, norm.scale);
                } else {
                    *vector_at<Layout>(norm.y, offset) = y;
                }
            }
        }
        advance(first + kBatch);
    }
}

// Pivots and moments of a thread's vectors of x; with a residual it writes their sum. read(index) gives a vector of x,
// keep(index, vector) gets one that is normalised.
template <typename Layout, bool kAdds, typename Read, typename Keep>
__device__ __forceinline__ float thread_moments(const Norm& norm, const Walk& walk,
                                                float (&pivots)[Layout::kChannelsAThread],
                                                Moments (&moments)[Layout::kChannelsAThread], Read read, Keep keep) {
    VectorOf<Layout> batch[kBatch];
    VectorOf<Layout> residual[kBatch];
    const auto read_batch = [&](int first) {
#pragma unroll
        for (int place = 0; place < kBatch; ++place) {
            if (first + place < walk.count) {
                batch[place] = read(first + place);
                if constexpr (kAdds) {
                    const int64_t offset = walk.x + (first + place) * walk.x_step;
                    residual[place] = read_once(vector_at<Layout>(norm.residual, offset));
                }
            }
        }
    };
    read_batch(0);
    read_pivots<Layout, kAdds>(norm, walk, pivots);  // waited for with the first batch
    float seen = 0.0f;
    for (int first = 0; first < walk.count; first += kBatch) {
        if constexpr (kAdds) {
#pragma unroll
            for (int place = 0; place < kBatch; ++place) {
                if (first + place < walk.count) {
                    batch[place] = sum_of(batch[place], residual[place]);
                    *vector_at<Layout>(norm.sum, walk.x + (first + place) * walk.x_step) = batch[place];
                    keep(first + place, batch[place]);
                }
            }
        }
        const int left = walk.count - first;
        add_batch<Layout>(batch, left < kBatch ? left : kBatch, pivots, moments, seen);
        read_batch(first + kBatch);
    }
    return seen;
}

// One slice a cluster, its rows split among the cluster's blocks, each of which keeps its own in shared memory: every
// byte is read or written once. The first gammas and betas are on their way while the statistics are taken.
template <typename Layout, bool kAdds>
__global__ void __launch_bounds__(kMostThreads) norm_on_cluster(const __grid_constant__ Norm norm) {
#if defined(SADTRT_HAS_CLUSTERS)
    cluster_arrive();  // no block writes to another before that one has begun
    BlockMemory<Layout>& memory = *reinterpret_cast<BlockMemory<Layout>*>(shared_memory());
    VectorOf<Layout>* kept = reinterpret_cast<VectorOf<Layout>*>(&memory + 1) + threadIdx.x;
    const int splits = norm.of_x.splits;
    const int split = static_cast<int>(blockIdx.x % splits);
    const Walk walk = walk_of<Layout>(norm, norm.of_x, static_cast<int>(blockIdx.x / splits), split);
    const auto x_at = [&](int index) { return vector_at<Layout>(norm.x, walk.x + index * walk.x_step); };
    const auto kept_at = [&](int index) { return kept[index * blockDim.x]; };
    wait_for_previous_kernel();
    let_next_kernel_begin();

    float pivots[Layout::kChannelsAThread];
    Moments moments[Layout::kChannelsAThread] = {};
    Modulation<Layout> batch;
    float seen;
    if constexpr (kAdds) {
        read_modulation<Layout>(norm, walk, 0, batch);
        const auto keep = [&](int index, const VectorOf<Layout>& sum) { kept[index * blockDim.x] = sum; };
        const auto read = [&](int index) { return read_once(x_at(index)); };
        seen = thread_moments<Layout, kAdds>(norm, walk, pivots, moments, read, keep);
    } else {
        for (int index = 0; index < walk.count; ++index) {
            begin_copy(kept + index * blockDim.x, x_at(index));
        }
        read_modulation<Layout>(norm, walk, 0, batch);
        copies_arrived();
        const auto keep = [](int, const VectorOf<Layout>&) {};
        seen = thread_moments<Layout, kAdds>(norm, walk, pivots, moments, kept_at, keep);
    }
    gather_warps<Layout>(moments, seen, memory);
    merge_warps<Layout>(memory, [&](int channel, const Part& part) { memory.blocks[split][channel] = part; });
    __syncthreads();

    cluster_wait();
    for (int index = threadIdx.x; index < splits * Layout::kChannels; index += blockDim.x) {
        const int rank = index / Layout::kChannels;
        Part& part = memory.blocks[split][index % Layout::kChannels];
        if (rank != split) {
            write_to_block(&part.count, rank, part.count);
            write_to_block(&part.mean, rank, part.mean);
            write_to_block(&part.squares, rank, part.squares);
        }
    }
    cluster_arrive();
    cluster_wait();
    finish_statistics<Layout>(memory, norm.epsilon, splits,
                              [&](int block, int channel) { return memory.blocks[block][channel]; });
    write_modulated<Layout>(
        norm, walk, pivots, memory, batch, [&](int index, int) { return kept_at(index); },
        [&](int first) { read_modulation<Layout>(norm, walk, first, batch); });
#endif
}

// Of two kernels the first: moments of each block's rows, and the sum of x and the residual.
template <typename Layout, bool kAdds>
__global__ void __launch_bounds__(kMostThreads) partial_moments(const __grid_constant__ Norm norm) {
    BlockMemory<Layout>& memory = *reinterpret_cast<BlockMemory<Layout>*>(shared_memory());
    const int split = static_cast<int>(blockIdx.x % norm.of_x.splits);
    const Walk walk = walk_of<Layout>(norm, norm.of_x, static_cast<int>(blockIdx.x / norm.of_x.splits), split);
    wait_for_previous_kernel();
    let_next_kernel_begin();
    const auto read = [&](int index) { return *vector_at<Layout>(norm.x, walk.x + index * walk.x_step); };
    const auto keep = [](int, const VectorOf<Layout>&) {};
    float pivots[Layout::kChannelsAThread];
    Moments moments[Layout::kChannelsAThread] = {};
    const float seen = thread_moments<Layout, kAdds>(norm, walk, pivots, moments, read, keep);
    gather_warps<Layout>(moments, seen, memory);
    Part* parts = norm.parts + static_cast<int64_t>(blockIdx.x) * Layout::kChannels;
    merge_warps<Layout>(memory, [&](int channel, const Part& part) { parts[channel] = part; });
}

// The second: every block merges its slice's parts and writes its rows of y. It begins with the rows that were read
// last, which the second-level cache still has. `norm.x` is the sum where there is one. kDoubles: y has twice the
// height and width of x, each of whose elements is four of the upsampled map, which has the same moments.
template <typename Layout, bool kDoubles>
__global__ void __launch_bounds__(kMostThreads) norm_from_parts(const __grid_constant__ Norm norm) {
    BlockMemory<Layout>& memory = *reinterpret_cast<BlockMemory<Layout>*>(shared_memory());
    const unsigned block = gridDim.x - 1 - blockIdx.x;
    const int slice = static_cast<int>(block / norm.of_y.splits);
    Walk walk = walk_of<Layout>(norm, norm.of_y, slice, static_cast<int>(block % norm.of_y.splits));
    walk.pivot = start_of<Layout>(norm, norm.of_x.pixels, slice);
    const auto x_at = [&](int index) {
        if constexpr (kDoubles) {
            const uint32_t pixel = static_cast<uint32_t>(walk.row + index * walk.rows_a_step);
            const uint32_t line = pixel / norm.width;
            const uint32_t from = line / 2 * (norm.width / 2) + (pixel - line * norm.width) / 2;
            return walk.pivot + static_cast<int64_t>(from) * (Layout::kLanes > 1 ? norm.channels : 1);
        } else {
            return walk.x + index * walk.x_step;
        }
    };
    // The modulation was there before the first kernel let this one begin.
    Modulation<Layout> batch;
    read_modulation<Layout>(norm, walk, 0, batch);
    wait_for_previous_kernel();
    let_next_kernel_begin();
    VectorOf<Layout> x[kBatch];
    const auto read_x = [&](int first) {
#pragma unroll
        for (int place = 0; place < kBatch; ++place) {
            if (first + place < walk.count) {
                x[place] = *vector_at<Layout>(norm.x, x_at(first + place));
            }
        }
    };
    read_x(0);
    float pivots[Layout::kChannelsAThread];
    read_pivots<Layout, false>(norm, walk, pivots);

    const Part* parts = norm.parts + static_cast<int64_t>(slice) * norm.of_x.splits * Layout::kChannels;
    finish_statistics<Layout>(memory, norm.epsilon, norm.of_x.splits,
                              [&](int split, int channel) { return parts[split * Layout::kChannels + channel]; });
    write_modulated<Layout>(
        norm, walk, pivots, memory, batch, [&](int, int place) { return x[place]; },
        [&](int first) {
            read_x(first);
            read_modulation<Layout>(norm, walk, first, batch);
        });
}

}  // namespace sadtrt
