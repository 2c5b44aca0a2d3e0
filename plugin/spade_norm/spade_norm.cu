// Chooses and launches the kernels of SpadeNorm for one problem: the C interface of spade_norm.h.
#include "../common/launch.h"
#include "problem_check.h"
#include "spade_norm.cuh"

namespace sadtrt {
namespace {

constexpr const char* kName = "SpadeNorm";
constexpr int64_t kBlocksToFill = 132;  // of two kernels: one for each multiprocessor of an H100 or H200
constexpr int64_t kLineVectors = 8;     // of 16 bytes, in a line of the caches
constexpr int32_t kOnCluster = 1;
constexpr int32_t kTwoKernels = 2;

using Kernel = void (*)(Norm);

// What the current GPU can do; without clusters where `cluster_bytes` is 0.
struct Device {
    int64_t processors;
    int64_t cluster_bytes;  // of shared memory, at most, for a block of a cluster
};

Device current_device() {
    int device = 0;
    int major = 0;
    int processors = 0;
    int bytes = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) {
        return {1, 0};
    }
    return {processors, major >= 9 ? bytes : 0};
}

// The kernels of one layout and type, and how it counts.
struct Way {
    Kernel on_cluster, partial, from_parts;
    int64_t rows;  // of a slice of y
    int64_t lanes, channels_a_slice, vector_bytes, memory_bytes;
};

template <typename Layout>
Way way_of(int64_t rows, bool adds, bool doubles = false) {
    return {adds ? norm_on_cluster<Layout, true> : norm_on_cluster<Layout, false>,
            adds ? partial_moments<Layout, true> : partial_moments<Layout, false>,
            doubles ? norm_from_parts<Layout, true> : norm_from_parts<Layout, false>,
            rows,
            Layout::kLanes,
            Layout::kChannels,
            static_cast<int64_t>(sizeof(VectorOf<Layout>)),
            static_cast<int64_t>(sizeof(BlockMemory<Layout>))};
}

bool aligned(const SadtrtSpadeNorm& problem) {
    for (const void* address : {problem.x, problem.residual, problem.modulation,
                                static_cast<const void*>(problem.sum), static_cast<const void*>(problem.y)}) {
        if (reinterpret_cast<uintptr_t>(address) % 16 != 0) {
            return false;
        }
    }
    return true;
}

template <typename T>
Way channels_last_way(const SadtrtSpadeNorm& problem) {
    const int64_t pixels = problem.height * problem.width;
    const bool adds = problem.residual != nullptr;
    if (problem.channels % (kLineVectors * 8) == 0) {
        return way_of<ChannelsLast<T, kLineVectors>>(pixels, adds, problem.upsample == 2);
    }
    return way_of<ChannelsLast<T, 2>>(pixels, adds, problem.upsample == 2);
}

template <typename T>
Way linear_way(const SadtrtSpadeNorm& problem) {
    constexpr int kPixels = 16 / sizeof(T);
    const int64_t pixels = problem.height * problem.width;
    const bool adds = problem.residual != nullptr;
    if (pixels % kPixels == 0 && aligned(problem) && problem.upsample == 1) {
        return way_of<Linear<T, kPixels>>(pixels / kPixels, adds);
    }
    return way_of<Linear<T, 1>>(pixels, adds, problem.upsample == 2);
}

Way choose_way(const SadtrtSpadeNorm& problem) {
    const bool last = problem.layout == SADTRT_CHANNELS_LAST;
    switch (problem.feature_type) {
        case SADTRT_FLOAT16:
            return last ? channels_last_way<__half>(problem) : linear_way<__half>(problem);
        case SADTRT_BFLOAT16:
            return last ? channels_last_way<__nv_bfloat16>(problem) : linear_way<__nv_bfloat16>(problem);
        default: return linear_way<float>(problem);
    }
}

// How a slice's rows are split among blocks: splits is 0 where they cannot be.
struct Split {
    int64_t splits, rows_a_block, threads;
};

Split split_of(const Way& way, int64_t splits, int64_t most_threads) {
    const int64_t rows_a_block = divide_up(way.rows, splits);
    int64_t threads = most_threads;
    while (threads > kWarp && threads * kBatch > rows_a_block * way.lanes) {
        threads /= 2;
    }
    return {divide_up(way.rows, rows_a_block), rows_a_block, threads};
}

int64_t kept_bytes(const Way& way, const Split& split) {
    const int64_t vectors_a_thread = divide_up(split.rows_a_block * way.lanes, split.threads);
    return way.memory_bytes + vectors_a_thread * split.threads * way.vector_bytes;
}

// Clusters as large as fill the GPU, or larger where a block's memory does not hold its part of the slice.
Split split_on_cluster(const Way& way, int64_t slices, const Device& device) {
    for (int64_t blocks = 1; blocks <= kMostCluster; blocks *= 2) {
        const Split split = split_of(way, blocks, kMostThreads);
        const bool fills = blocks == kMostCluster || slices * blocks * 3 >= device.processors * 2;
        // A cluster has exactly `blocks` blocks, the last of which may have no rows.
        if (fills && kept_bytes(way, split) <= device.cluster_bytes) {
            return {blocks, split.rows_a_block, split.threads};
        }
    }
    return {0, 0, 0};
}

Split split_of_two(const Way& way, int64_t slices) {
    // Rounded down: a few blocks more than multiprocessors would take twice as long.
    const int64_t wanted = slices < kBlocksToFill ? kBlocksToFill / slices : 1;
    const int64_t most = divide_up(way.rows * way.lanes, kWarp * kBatch);
    return split_of(way, wanted < most ? wanted : most, kMostThreads);
}

// Whether the GPU can run such a cluster at all: one of more than kPortableCluster blocks need not fit anywhere.
bool can_run(const Launch<Norm>& launch) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = launch.cluster;
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = launch.grid;
    config.blockDim = launch.block;
    config.dynamicSmemBytes = launch.shared_bytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int clusters = 0;
    const bool answered =
        permit(launch) == cudaSuccess &&
        cudaOccupancyMaxActiveClusters(&clusters, reinterpret_cast<const void*>(launch.kernel), &config) ==
            cudaSuccess;
    cudaGetLastError();  // whoever calls next must not find this question's error
    return answered && clusters > 0;
}

int64_t slices_an_image(const SadtrtSpadeNorm& problem, const Way& way) {
    return divide_up(problem.channels, way.channels_a_slice);
}

int32_t refuse_pointers(const SadtrtSpadeNorm& problem, char* message, int64_t message_size) {
    if (problem.x == nullptr || problem.modulation == nullptr || problem.y == nullptr) {
        return refuse(message, message_size, "SpadeNorm: x, modulation or y is a null pointer");
    }
    if ((problem.residual == nullptr) != (problem.sum == nullptr)) {
        return refuse(message, message_size, "SpadeNorm: residual and sum go together, one of them is a null pointer");
    }
    if (problem.layout == SADTRT_CHANNELS_LAST && !aligned(problem)) {
        return refuse(message, message_size, "SpadeNorm: channels-last tensors must be aligned to 16 bytes");
    }
    return 0;
}

Launch<Norm> launch_of(Kernel kernel, int64_t blocks, const Split& split, int64_t shared_bytes, bool overlaps) {
    Launch<Norm> launch = {kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(split.threads)),
                           overlaps};
    launch.shared_bytes = static_cast<size_t>(shared_bytes);
    return launch;
}

}  // namespace
}  // namespace sadtrt

extern "C" int64_t sadtrt_spade_norm_workspace(const SadtrtSpadeNorm* problem) {
    using namespace sadtrt;
    if (problem == nullptr || check_problem(*problem, nullptr, 0) != 0) {
        return 0;
    }
    // At least what split_of_two splits into, and growing with every size: channels-last as if lines were full.
    const int64_t wide = problem->layout == SADTRT_CHANNELS_LAST ? kLineVectors * 8 : 1;
    const int64_t slices = divide_up(problem->channels, wide) * problem->batch;
    return (slices + kBlocksToFill) * wide * static_cast<int64_t>(sizeof(Part));
}

extern "C" int32_t sadtrt_spade_norm(const SadtrtSpadeNorm* problem, void* stream, char* message,
                                     int64_t message_size) {
    using namespace sadtrt;
    if (const int32_t refused = check_given("SpadeNorm", problem, check_problem, message, message_size)) {
        return refused;
    }
    if (const int32_t refused = refuse_pointers(*problem, message, message_size)) {
        return refused;
    }
    const Way way = choose_way(*problem);
    const Device device = current_device();
    const bool overlaps = kernels_may_overlap();
    const int64_t slices = slices_an_image(*problem, way) * problem->batch;
    if (slices > (INT32_MAX - kBlocksToFill) / kMostCluster || way.rows > static_cast<int64_t>(INT32_MAX) * kBatch) {
        return refuse(message, message_size, "SpadeNorm: %lld images of %lld channels are more than one launch holds",
                      static_cast<long long>(problem->batch), static_cast<long long>(problem->channels));
    }
    Norm norm;
    norm.x = problem->x;
    norm.residual = problem->residual;
    norm.modulation = problem->modulation;
    norm.sum = problem->sum;
    norm.y = problem->y;
    norm.parts = static_cast<Part*>(problem->workspace);
    norm.channels = problem->channels;
    norm.width = static_cast<uint32_t>(problem->width);
    norm.slices_an_image = static_cast<int32_t>(slices_an_image(*problem, way));
    norm.epsilon = problem->epsilon;
    norm.slope = problem->slope;
    norm.scale = problem->scale;
    // Of x there are fewer pixels than of y where it is upsampled.
    const int64_t pixels = problem->height * problem->width;
    const int64_t repeats = static_cast<int64_t>(problem->upsample) * problem->upsample;
    Way of_x = way;
    of_x.rows = way.rows / repeats;
    const auto rows_of = [](int64_t pixels, int64_t rows, const Split& split) {
        return Rows{pixels, rows, split.rows_a_block, static_cast<int32_t>(split.splits)};
    };

    const Split on_cluster = split_on_cluster(way, slices, device);
    // Channels-last, two kernels were the faster at every size that was tried.
    const bool wanted = problem->form == kOnCluster || (problem->form != kTwoKernels && way.lanes == 1);
    const bool can = on_cluster.splits > 0 && repeats == 1;
    if (can && wanted) {
        Launch<Norm> launch = launch_of(way.on_cluster, slices * on_cluster.splits, on_cluster,
                                        kept_bytes(way, on_cluster), overlaps);
        launch.cluster = static_cast<unsigned>(on_cluster.splits);
        // Many bytes on few multiprocessors take longer than reading x again on all of them.
        const bool fills = launch.cluster <= kPortableCluster ||
                           slices * on_cluster.splits * 3 >= device.processors * 2 || problem->form == kOnCluster;
        if (fills && (launch.cluster <= kPortableCluster || can_run(launch))) {
            norm.of_x = rows_of(pixels, way.rows, on_cluster);
            return queue(kName, launch, norm, stream, message, message_size);
        }
    }
    if (problem->form == kOnCluster) {
        return refuse(message, message_size, "SpadeNorm: no cluster of this GPU holds a slice of %lld x %lld pixels",
                      static_cast<long long>(problem->height), static_cast<long long>(problem->width));
    }
    const int64_t needed = sadtrt_spade_norm_workspace(problem);
    if (problem->workspace == nullptr || problem->workspace_bytes < needed ||
        reinterpret_cast<uintptr_t>(problem->workspace) % 16 != 0) {
        return refuse(message, message_size, "SpadeNorm: a workspace of %lld bytes, aligned to 16, is needed",
                      static_cast<long long>(needed));
    }
    const Split of_parts = split_of_two(of_x, slices);
    const Split split = split_of_two(way, slices);
    norm.of_x = rows_of(pixels / repeats, of_x.rows, of_parts);
    norm.of_y = rows_of(pixels, way.rows, split);
    const Launch<Norm> first =
        launch_of(way.partial, slices * of_parts.splits, of_parts, way.memory_bytes, overlaps);
    if (const int32_t failed = queue(kName, first, norm, stream, message, message_size)) {
        return failed;
    }
    if (norm.sum != nullptr) {
        norm.x = norm.sum;
    }
    const Launch<Norm> second = launch_of(way.from_parts, slices * split.splits, split, way.memory_bytes, overlaps);
    return queue(kName, second, norm, stream, message, message_size);
}
