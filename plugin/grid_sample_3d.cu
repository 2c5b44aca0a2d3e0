// Chooses and launches the GridSample3D kernel for one problem: the C interface of grid_sample_3d.h.
#include <cuda_runtime.h>

#include "packed_volume.cuh"
#include "problem_check.h"

namespace sadtrt {
namespace {

// Enough threads to fill the largest GPU there is (132 multiprocessors of 2048): with fewer, channels are split further.
constexpr int64_t kThreadsToFill = 132 * 2048;
constexpr int64_t kLargestGridYZ = 65535;  // CUDA's limit for the second and third axis of a launch

using Kernel = void (*)(Sampling);

int64_t divide_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

bool is_nearest(const SadtrtGridSample3D& problem) {
    return problem.interpolation == static_cast<int32_t>(Interpolation::kNearest);
}

template <typename Feature, typename Offset>
Kernel choose_kernel(const SadtrtGridSample3D& problem, int channels_a_thread) {
    const bool nearest = is_nearest(problem);
    if (problem.layout == SADTRT_CHANNELS_LAST) {
        return nearest ? nearest_channels_last<Feature, Offset> : trilinear_channels_last<Feature, Offset>;
    }
    if (nearest) {
        return nearest_linear<Feature, Offset>;
    }
    switch (channels_a_thread) {
        case 4: return trilinear_linear<Feature, Offset, 4>;
        case 8: return trilinear_linear<Feature, Offset, 8>;
        default: return trilinear_linear<Feature, Offset, 16>;
    }
}

template <typename Feature>
Kernel choose_kernel(const SadtrtGridSample3D& problem, int channels_a_thread, bool narrow) {
    return narrow ? choose_kernel<Feature, uint32_t>(problem, channels_a_thread)
                  : choose_kernel<Feature, int64_t>(problem, channels_a_thread);
}

Kernel choose_kernel(const SadtrtGridSample3D& problem, int channels_a_thread, bool narrow) {
    switch (problem.feature_type) {
        case SADTRT_FLOAT16: return choose_kernel<__half>(problem, channels_a_thread, narrow);
        case SADTRT_BFLOAT16: return choose_kernel<__nv_bfloat16>(problem, channels_a_thread, narrow);
        default: return choose_kernel<float>(problem, channels_a_thread, narrow);
    }
}

int choose_channels_a_thread(const SadtrtGridSample3D& problem, int64_t points) {
    if (problem.channels_per_thread != 0) {
        return problem.channels_per_thread;
    }
    const bool eight_fill = divide_up(problem.channels, 8) * points * problem.grid_batch >= kThreadsToFill * 3 / 4;
    return problem.channels >= 8 && eight_fill ? 8 : 4;
}

// Two kernels, the first of which packs the volume, and what they need to know.
struct PackedWay {
    Kernel pack, sample;
    int width, points_steps, samples;
};

template <typename Feature, typename Offset, int kWidth, int kVoxels, int kSteps, bool kAcross, int kRounds = 1,
          int kBlocks = 1>
PackedWay packed_way() {
    return {pack_volume<Feature, Offset, kWidth, kVoxels>,
            trilinear_packed<Feature, Offset, kWidth, kVoxels, kSteps, kAcross, kRounds, kBlocks>, kWidth,
            kAcross ? 1 : kSteps, kRounds * (kAcross ? kSteps : 1)};
}

template <typename Feature>
PackedWay choose_packed_way(int32_t variant, bool narrow) {
    if (!narrow) {
        return packed_way<Feature, int64_t, 4, 1, 1, false>();
    }
    constexpr int kPair = sizeof(Feature) == 2 ? 2 : 1;
    switch (variant) {
        case 11: return packed_way<Feature, uint32_t, 4, 1, 2, false>();
        case 12: return packed_way<Feature, uint32_t, 4, 1, 4, false>();
        case 13: return packed_way<Feature, uint32_t, 4, 1, 2, true>();
        case 14: return packed_way<Feature, uint32_t, 4, 1, 4, true>();
        case 15: return packed_way<Feature, uint32_t, 4, 1, 1, false, 1, 5>();
        case 16: return packed_way<Feature, uint32_t, 4, 1, 1, false, 4>();
        case 17: return packed_way<Feature, uint32_t, 4, 1, 1, false, 4, 5>();
        case 18: return packed_way<Feature, uint32_t, 4, 1, 1, false, 1, 6>();
        case 25: return packed_way<Feature, uint32_t, 4, kPair, 1, false, 1, 5>();
        case 26: return packed_way<Feature, uint32_t, 4, kPair, 1, false, 4>();
        case 27: return packed_way<Feature, uint32_t, 4, kPair, 1, false, 4, 5>();
        case 28: return packed_way<Feature, uint32_t, 4, kPair, 1, false, 1, 6>();
        case 20: return packed_way<Feature, uint32_t, 4, kPair, 1, false>();
        case 21: return packed_way<Feature, uint32_t, 4, kPair, 2, false>();
        case 23: return packed_way<Feature, uint32_t, 4, kPair, 2, true>();
        case 30: return packed_way<Feature, uint32_t, 8, 1, 1, false>();
        case 31: return packed_way<Feature, uint32_t, 8, 1, 2, false>();
        default: return packed_way<Feature, uint32_t, 4, 1, 1, false>();
    }
}

PackedWay choose_packed_way(const SadtrtGridSample3D& problem, bool narrow) {
    const int32_t variant = problem.variant % 100;
    switch (problem.feature_type) {
        case SADTRT_FLOAT16: return choose_packed_way<__half>(variant, narrow);
        case SADTRT_BFLOAT16: return choose_packed_way<__nv_bfloat16>(variant, narrow);
        default: return choose_packed_way<float>(variant, narrow);
    }
}

// Whether a kernel may begin before the one ahead of it has ended, captured CUDA graphs included.
bool kernels_may_overlap() {
    int device = 0;
    int major = 0;
    int driver = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9 &&
           cudaDriverGetVersion(&driver) == cudaSuccess && driver >= 12030;
}

struct Launch {
    Kernel kernel;
    dim3 grid, block;
    bool overlaps = false;  // it may begin before the kernel ahead of it has ended, and waits for it by itself
};

int32_t queue(const Launch& launch, Sampling& sampling, void* stream, char* message, int64_t message_size) {
    void* arguments[] = {&sampling};
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = launch.grid;
    config.blockDim = launch.block;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &attribute;
    config.numAttrs = launch.overlaps ? 1 : 0;
    const cudaError_t error =
        cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(launch.kernel), arguments);
    if (error == cudaSuccess) {
        return 0;
    }
    cudaGetLastError();  // the error is reported here; it must not surface at somebody else's next call
    refuse(message, message_size, "GridSample3D: the kernel could not be launched: %s (%s)",
           cudaGetErrorString(error), cudaGetErrorName(error));
    return static_cast<int32_t>(error);
}

// Packing pays where many samples read each voxel, or wide vectors at least as many.
bool packing_pays(const SadtrtGridSample3D& problem, int64_t points, int64_t voxels) {
    if (problem.packing != 0) {
        return problem.packing == 2;
    }
    if (problem.variant != 0) {
        return problem.variant % 100 != 1;
    }
    return problem.channels >= 3 && points * problem.grid_batch >= 4 * voxels * problem.volume_batch;
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
    const int64_t feature_bytes = problem->feature_type == SADTRT_FLOAT32 ? 4 : 2;
    const int64_t voxels = problem->depth * problem->height * problem->width * problem->volume_batch;
    return divide_up(problem->channels, 8) * 8 * voxels * feature_bytes * (problem->variant != 0 ? 2 : 1);
}

extern "C" int32_t sadtrt_grid_sample_3d(const SadtrtGridSample3D* problem, void* stream, char* message,
                                         int64_t message_size) {
    using namespace sadtrt;
    if (problem == nullptr) {
        return refuse(message, message_size, "GridSample3D: no problem was given");
    }
    if (const int32_t refused = check_problem(*problem, message, message_size)) {
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
    sampling.voxels = problem->depth * problem->height * problem->width;
    sampling.points = points;
    sampling.volume_stride = problem->volume_batch == 1 ? 0 : channels * sampling.voxels;
    sampling.output_stride = channels * points;
    // One volume for all grids needs no division in the kernel: with a stride of zero any index reads it.
    sampling.grids_a_volume =
        problem->volume_batch == 1 ? 1 : static_cast<uint32_t>(problem->grid_batch / problem->volume_batch);
    sampling.padding = padding;
    sampling.has_pairs = problem->depth >= 2 && problem->height >= 2 && problem->width >= 2;
    sampling.first_sample = 0;

    // 32-bit offsets while every tensor, rounded up to whole blocks and groups, stays below 2^31 elements.
    const int64_t most_elements =
        (channels + 16 > 3 ? channels + 16 : 3) * (points + 4 * kThreads) * problem->grid_batch;
    const bool narrow = !problem->wide_offsets && most_elements <= INT32_MAX &&
                        (channels + 8) * (sampling.voxels + kThreads) * problem->volume_batch <= INT32_MAX;

    const int channels_a_thread = choose_channels_a_thread(*problem, points);
    Launch launch = {choose_kernel(*problem, channels_a_thread, narrow), dim3(), dim3(kThreads)};
    int64_t points_a_block = kThreads;
    int64_t samples_a_block = 1;
    int64_t groups = 1;
    const int64_t needed = sadtrt_grid_sample_3d_workspace(problem);
    const bool packs = needed > 0 && problem->workspace != nullptr && problem->workspace_bytes >= needed &&
                       !misaligned(problem->workspace) && sampling.has_pairs &&
                       problem->volume_batch <= kLargestGridYZ && packing_pays(*problem, points, sampling.voxels);
    if (packs) {
        const PackedWay way = choose_packed_way(*problem, narrow);
        groups = divide_up(channels, way.width);
        points_a_block = kThreads * way.points_steps;
        samples_a_block = way.samples;
        if (problem->grid_batch / problem->volume_batch % samples_a_block != 0) {
            return refuse(message, message_size, "variant %d does not fit", problem->variant);
        }
        launch.kernel = way.sample;
        launch.overlaps = problem->variant / 100 != 1 && kernels_may_overlap();
        Launch pack = {way.pack, dim3(), dim3(kThreads), problem->variant / 100 == 2 && kernels_may_overlap()};
        const int64_t blocks = divide_up(sampling.voxels, kThreads);
        if (groups > kLargestGridYZ || blocks > INT32_MAX) {
            return refuse(message, message_size, "GridSample3D: %lld channels of %lld voxels are more than one launch can hold",
                          static_cast<long long>(channels), static_cast<long long>(sampling.voxels));
        }
        pack.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(groups),
                         static_cast<unsigned>(problem->volume_batch));
        if (const int32_t failed = queue(pack, sampling, stream, message, message_size)) {
            return failed;
        }
    } else {
        launch.overlaps = problem->variant / 100 == 2 && kernels_may_overlap();
    }
    if (packs) {
    } else if (channels_last) {
        launch.block.x = static_cast<unsigned>(channels < 32 * kChunk ? channels / kChunk : 32);
        launch.block.y = kThreads / launch.block.x;
        points_a_block = launch.block.y;
    } else {
        groups = divide_up(channels, is_nearest(*problem) ? 4 : channels_a_thread);
    }
    const int64_t blocks = divide_up(points, points_a_block);
    if (groups > kLargestGridYZ || blocks > INT32_MAX) {
        return refuse(message, message_size,
                      "GridSample3D: %lld channels of %lld sample points are more than one launch can hold",
                      static_cast<long long>(channels), static_cast<long long>(points));
    }
    launch.grid.x = static_cast<unsigned>(blocks);
    launch.grid.y = static_cast<unsigned>(groups);
    const int64_t samples_a_launch = kLargestGridYZ * samples_a_block;
    for (int64_t first = 0; first < problem->grid_batch; first += samples_a_launch) {
        const int64_t samples = problem->grid_batch - first;
        sampling.first_sample = static_cast<uint32_t>(first);
        launch.grid.z = static_cast<unsigned>((samples < samples_a_launch ? samples : samples_a_launch) / samples_a_block);
        if (const int32_t failed = queue(launch, sampling, stream, message, message_size)) {
            return failed;
        }
        launch.overlaps = false;
    }
    return 0;
}
