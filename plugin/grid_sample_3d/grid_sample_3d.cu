// Chooses and launches the GridSample3D kernel for one problem: the C interface of grid_sample_3d.h.
#include "../common/launch.h"
#include "packed_volume.cuh"
#include "problem_check.h"

namespace sadtrt {
namespace {

// Enough threads to fill the largest GPU there is (132 multiprocessors of 2048): with fewer, channels are split more.
constexpr int64_t kThreadsToFill = 132 * 2048;
constexpr int64_t kLargestGridYZ = 65535;  // CUDA's limit for the second and third axis of a launch

using Kernel = void (*)(Sampling);

bool is_nearest(const SadtrtGridSample3D& problem) {
    return problem.interpolation == static_cast<int32_t>(Interpolation::kNearest);
}

// The kernels of one problem: `pack` is null unless the volume is packed first.
struct Way {
    Kernel pack, sample;
};

// How the problem is split into threads.
struct Split {
    int channels_a_thread;  // in linear layout
    bool packs;
};

template <typename Feature, typename Addressing, int kWidth>
Way packed_way() {
    return {pack_volume<Feature, Addressing, kWidth>, trilinear_packed<Feature, Addressing, kWidth>};
}

template <typename Feature, typename Addressing>
Way choose_way(const SadtrtGridSample3D& problem, const Split& split) {
    if (problem.layout == SADTRT_CHANNELS_LAST) {
        return {nullptr, is_nearest(problem) ? nearest_channels_last<Feature, Addressing>
                                             : trilinear_channels_last<Feature, Addressing>};
    }
    if (is_nearest(problem)) {
        return {nullptr, nearest_linear<Feature, Addressing>};
    }
    if (split.packs) {
        if constexpr (sizeof(Feature) == 2) {
            if (split.channels_a_thread == 8) {
                return packed_way<Feature, Addressing, 8>();
            }
        }
        return packed_way<Feature, Addressing, 4>();
    }
    switch (split.channels_a_thread) {
        case 4: return {nullptr, trilinear_linear<Feature, Addressing, 4>};
        case 8: return {nullptr, trilinear_linear<Feature, Addressing, 8>};
        default: return {nullptr, trilinear_linear<Feature, Addressing, 16>};
    }
}

template <typename Addressing>
Way choose_way(const SadtrtGridSample3D& problem, const Split& split) {
    switch (problem.feature_type) {
        case SADTRT_FLOAT16: return choose_way<__half, Addressing>(problem, split);
        case SADTRT_BFLOAT16: return choose_way<__nv_bfloat16, Addressing>(problem, split);
        default: return choose_way<float, Addressing>(problem, split);
    }
}

int choose_channels_a_thread(const SadtrtGridSample3D& problem, int64_t points) {
    if (problem.channels_per_thread != 0) {
        return problem.channels_per_thread;
    }
    const bool eight_fill = divide_up(problem.channels, 8) * points * problem.grid_batch >= kThreadsToFill * 3 / 4;
    return problem.channels >= 8 && eight_fill ? 8 : 4;
}

// Channels side by side in a packed volume: vectors of 16 bytes hold four of two voxels, or eight of one.
int packed_width(const SadtrtGridSample3D& problem) {
    return problem.feature_type != SADTRT_FLOAT32 && problem.channels > 4 ? 8 : 4;
}

// Measured on an H200: four side by side pay where many points read each voxel, eight where one does.
bool packing_pays(const SadtrtGridSample3D& problem, int64_t points, int64_t voxels) {
    if (problem.packing != 0) {
        return problem.packing == 2;
    }
    const int64_t points_a_voxel = points * problem.grid_batch / (voxels * problem.volume_batch);
    return points_a_voxel >= 4 ? problem.channels >= 3
                               : points_a_voxel >= 1 && problem.channels % packed_width(problem) == 0 &&
                                     packed_width(problem) == 8;
}

int32_t refuse_launch(int64_t channels, int64_t points, const char* what, char* message, int64_t message_size) {
    return refuse(message, message_size, "GridSample3D: %lld channels of %lld %s are more than one launch can hold",
                  static_cast<long long>(channels), static_cast<long long>(points), what);
}

}  // namespace
}  // namespace sadtrt

extern "C" int64_t sadtrt_grid_sample_3d_workspace(const SadtrtGridSample3D* problem) {
    using namespace sadtrt;
    if (problem == nullptr || problem->layout != SADTRT_LINEAR || is_nearest(*problem) || problem->channels < 2) {
        return 0;
    }
    // Nothing of the grid: TensorRT asks with the largest shapes, which need not go together.
    const double elements = static_cast<double>(problem->volume_batch) * (problem->channels + 8.0) * problem->depth *
                            problem->height * problem->width;
    if (!(elements > 0.0 && elements < kMostElements)) {
        return 0;
    }
    const int64_t voxels = problem->depth * problem->height * problem->width * problem->volume_batch;
    return divide_up(problem->channels, packed_width(*problem)) * voxels * 16;
}

extern "C" int32_t sadtrt_grid_sample_3d(const SadtrtGridSample3D* problem, void* stream, char* message,
                                         int64_t message_size) {
    using namespace sadtrt;
    if (const int32_t refused = check_given("GridSample3D", problem, check_problem, message, message_size)) {
        return refused;
    }
    const int64_t points = problem->out_depth * problem->out_height * problem->out_width;
    if (points == 0 || problem->grid_batch == 0) {
        return 0;
    }
    const bool channels_last = problem->layout == SADTRT_CHANNELS_LAST;
    const auto misaligned = [](const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 != 0; };
    if (problem->volume == nullptr || problem->grid == nullptr || problem->output == nullptr) {
        return refuse(message, message_size, "GridSample3D: volume, grid or output is a null pointer");
    }
    if (channels_last && (misaligned(problem->volume) || misaligned(problem->output))) {
        return refuse(message, message_size,
                      "GridSample3D: channels-last volume and output must be aligned to 16 bytes");
    }

    const Padding padding = static_cast<Padding>(problem->padding);
    const bool align_corners = problem->align_corners != 0;
    const int64_t channels = channels_last ? divide_up(problem->channels, kChunk) * kChunk : problem->channels;
    Sampling sampling;
    sampling.volume = problem->volume;
    sampling.grid = problem->grid;
    sampling.output = problem->output;
    sampling.workspace = problem->workspace;
    sampling.depth = make_axis(problem->depth, align_corners, padding);
    sampling.height = make_axis(problem->height, align_corners, padding);
    sampling.width = make_axis(problem->width, align_corners, padding);
    sampling.channels = channels;
    sampling.slice = problem->height * problem->width;
    sampling.voxels = problem->depth * sampling.slice;
    sampling.points = points;
    sampling.volume_stride = problem->volume_batch == 1 ? 0 : channels * sampling.voxels;
    const int64_t grids_a_volume = problem->grid_batch / problem->volume_batch;
    sampling.grids_a_volume = static_cast<uint32_t>(grids_a_volume);
    sampling.volumes_a_grid = problem->volume_batch == 1 ? 0 : static_cast<uint32_t>(UINT32_MAX / grids_a_volume);
    sampling.padding = padding;
    sampling.in_half = problem->half_coordinates != 0;
    sampling.has_pairs = problem->depth >= 2 && problem->height >= 2 && problem->width >= 2;
    sampling.origin_bits = kOriginBits * static_cast<uint32_t>(sampling.slice + problem->width + 1);
    sampling.first_sample = 0;

    // 32-bit offsets while every tensor, rounded up to whole blocks and groups, stays below 2^31 elements.
    const int64_t most_elements =
        (channels + 16 > 3 ? channels + 16 : 3) * (points + 4 * kThreads) * problem->grid_batch;
    const bool narrow = !problem->wide_offsets && most_elements <= INT32_MAX &&
                        (channels + 8) * (sampling.voxels + kThreads) * problem->volume_batch <= INT32_MAX;

    const bool plain = narrow && sampling.has_pairs && !sampling.in_half && padding == Padding::kZeros &&
                       problem->depth <= kLargestPlainSize && problem->height <= kLargestPlainSize &&
                       problem->width <= kLargestPlainSize && problem->grid_batch * grids_a_volume <= INT32_MAX;

    const int64_t useful = sadtrt_grid_sample_3d_workspace(problem);
    const bool packs = useful > 0 && problem->workspace != nullptr && problem->workspace_bytes >= useful &&
                       !misaligned(problem->workspace) && sampling.has_pairs &&
                       problem->volume_batch <= kLargestGridYZ && packing_pays(*problem, points, sampling.voxels);
    const int channels_a_thread = is_nearest(*problem) ? 4
                                  : packs              ? packed_width(*problem)
                                                       : choose_channels_a_thread(*problem, points);
    const Split split = {channels_a_thread, packs};
    const Way way = plain    ? choose_way<Plain>(*problem, split)
                    : narrow ? choose_way<Narrow>(*problem, split)
                             : choose_way<Wide>(*problem, split);

    const bool overlaps = kernels_may_overlap();
    const int64_t groups = channels_last ? 1 : divide_up(channels, channels_a_thread);
    if (packs) {
        const int64_t blocks = divide_up(sampling.voxels, kThreads);
        if (groups > kLargestGridYZ || blocks > INT32_MAX) {
            return refuse_launch(channels, sampling.voxels, "voxels", message, message_size);
        }
        const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(groups),
                        static_cast<unsigned>(problem->volume_batch));
        const Launch<Sampling> pack = {way.pack, grid, dim3(kThreads), overlaps};
        if (const int32_t failed = queue("GridSample3D", pack, sampling, stream, message, message_size)) {
            return failed;
        }
    }
    Launch<Sampling> launch = {way.sample, dim3(), dim3(kThreads), overlaps};
    if (channels_last) {
        launch.block.x = static_cast<unsigned>(channels < 32 * kChunk ? channels / kChunk : 32);
        launch.block.y = kThreads / launch.block.x;
    }
    const int64_t blocks = divide_up(points, channels_last ? launch.block.y : kThreads);
    if (groups > kLargestGridYZ || blocks > INT32_MAX) {
        return refuse_launch(channels, points, "sample points", message, message_size);
    }
    launch.grid.x = static_cast<unsigned>(blocks);
    launch.grid.y = static_cast<unsigned>(groups);
    for (int64_t first = 0; first < problem->grid_batch; first += kLargestGridYZ) {
        const int64_t samples = problem->grid_batch - first;
        sampling.first_sample = static_cast<uint32_t>(first);
        launch.grid.z = static_cast<unsigned>(samples < kLargestGridYZ ? samples : kLargestGridYZ);
        if (const int32_t failed = queue("GridSample3D", launch, sampling, stream, message, message_size)) {
            return failed;
        }
    }
    return 0;
}
