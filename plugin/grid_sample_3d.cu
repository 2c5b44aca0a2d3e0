// Chooses and launches the GridSample3D kernel for one problem: the C interface of grid_sample_3d.h.
#include "grid_sample_3d.cuh"

#include <cuda_runtime.h>

#include "problem_check.h"

namespace sadtrt {
namespace {

// Enough threads to fill the largest GPU there is (132 multiprocessors of 2048): with fewer, channels are split further.
constexpr int64_t kThreadsToFill = 132 * 2048;
constexpr int64_t kLargestGridYZ = 65535;  // CUDA's limit for the second and third axis of a launch

using Kernel = void (*)(Sampling);

int64_t divide_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

template <typename Feature, typename Offset>
Kernel choose_kernel(const SadtrtGridSample3D& problem, int channels_a_thread) {
    const bool nearest = problem.interpolation == static_cast<int32_t>(Interpolation::kNearest);
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

}  // namespace
}  // namespace sadtrt

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
    const bool nearest = problem->interpolation == static_cast<int32_t>(Interpolation::kNearest);
    const int64_t channels = channels_last ? divide_up(problem->channels, kChunk) * kChunk : problem->channels;
    Sampling sampling;
    sampling.volume = problem->volume;
    sampling.grid = problem->grid;
    sampling.output = problem->output;
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

    // 32-bit offsets while every tensor, rounded up to whole blocks and groups, stays below 2^31 elements.
    const int64_t most_elements = (channels + 16 > 3 ? channels + 16 : 3) * (points + kThreads) * problem->grid_batch;
    const bool narrow = most_elements <= INT32_MAX && channels * sampling.voxels * problem->volume_batch <= INT32_MAX;

    const int channels_a_thread = choose_channels_a_thread(*problem, points);
    const int64_t groups = divide_up(channels, nearest ? 4 : channels_a_thread);
    dim3 block(kThreads);
    dim3 grid;
    if (channels_last) {
        block.x = static_cast<unsigned>(channels < 32 * kChunk ? channels / kChunk : 32);
        block.y = kThreads / block.x;
    } else {
        if (groups > kLargestGridYZ) {
            return refuse(message, message_size, "GridSample3D: %lld channels are more than one launch can hold",
                          static_cast<long long>(channels));
        }
        grid.y = static_cast<unsigned>(groups);
    }
    const int64_t blocks = divide_up(points, channels_last ? block.y : kThreads);
    if (blocks > INT32_MAX) {
        return refuse(message, message_size, "GridSample3D: %lld sample points are more than one launch can hold",
                      static_cast<long long>(points));
    }
    grid.x = static_cast<unsigned>(blocks);

    const Kernel kernel = choose_kernel(*problem, channels_a_thread, narrow);
    for (int64_t first = 0; first < problem->grid_batch; first += kLargestGridYZ) {
        const int64_t samples = problem->grid_batch - first;
        sampling.first_sample = static_cast<uint32_t>(first);
        grid.z = static_cast<unsigned>(samples < kLargestGridYZ ? samples : kLargestGridYZ);
        void* arguments[] = {&sampling};
        const cudaError_t error = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, arguments, 0,
                                                   static_cast<cudaStream_t>(stream));
        if (error != cudaSuccess) {
            cudaGetLastError();  // the error is reported here; it must not surface at somebody else's next call
            refuse(message, message_size, "GridSample3D: the kernel could not be launched: %s (%s)",
                   cudaGetErrorString(error), cudaGetErrorName(error));
            return static_cast<int32_t>(error);
        }
    }
    return 0;
}
