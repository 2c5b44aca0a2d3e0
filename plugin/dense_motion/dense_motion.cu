// Chooses and launches the kernels of MotionInput and MotionSum: the C interface of dense_motion.h.
#include "../common/launch.h"
#include "motion_input.cuh"
#include "motion_sum.cuh"

namespace sadtrt {
namespace {

using MotionKernel = void (*)(Motion);

template <typename Feature>
MotionKernel choose_motion_input(const SadtrtDenseMotion& problem) {
    if (problem.input_channels_last != 0) {
        return problem.output_channels_last != 0 ? motion_input<Feature, true, true>
                                                 : motion_input<Feature, true, false>;
    }
    return problem.output_channels_last != 0 ? motion_input<Feature, false, true>
                                             : motion_input<Feature, false, false>;
}

MotionKernel motion_input_kernel(const SadtrtDenseMotion& problem) {
    switch (problem.feature_type) {
        case SADTRT_FLOAT16: return choose_motion_input<__half>(problem);
        case SADTRT_BFLOAT16: return choose_motion_input<__nv_bfloat16>(problem);
        default: return motion_input<float, false, false>;
    }
}

MotionKernel motion_sum_kernel(const SadtrtDenseMotion& problem) {
    const bool channels_last = problem.input_channels_last != 0;
    switch (problem.feature_type) {
        case SADTRT_FLOAT16: return channels_last ? motion_sum<__half, true> : motion_sum<__half, false>;
        case SADTRT_BFLOAT16: return channels_last ? motion_sum<__nv_bfloat16, true> : motion_sum<__nv_bfloat16, false>;
        default: return motion_sum<float, false>;
    }
}

// Refuses pointers that are null, or not aligned where vectors are read or written.
int32_t check_pointers(const char* name, const SadtrtDenseMotion& problem, char* message, int64_t message_size) {
    if (is_usable(problem.input, problem.input_channels_last != 0) &&
        is_usable(problem.output, problem.output_channels_last != 0) && problem.driving != nullptr &&
        problem.source != nullptr) {
        return 0;
    }
    return refuse(message, message_size, "%s: a pointer is null, or that of channels last is not aligned to 16 bytes",
                  name);
}

Motion motion_of(const SadtrtDenseMotion& problem) {
    Motion motion;
    motion.input = problem.input;
    motion.driving = problem.driving;
    motion.source = problem.source;
    motion.output = problem.output;
    motion.depth = make_axis(problem.depth, false, Padding::kZeros);
    motion.height = make_axis(problem.height, false, Padding::kZeros);
    motion.width = make_axis(problem.width, false, Padding::kZeros);
    motion.channels = static_cast<uint32_t>(problem.channels);
    motion.keypoints = static_cast<uint32_t>(problem.keypoints);
    motion.voxels = static_cast<uint32_t>(problem.depth * problem.height * problem.width);
    motion.exponent = problem.exponent;
    motion.floor = problem.floor;
    return motion;
}

// 0, or another number where a problem that was asked for cannot be launched.
int32_t check_launch(const char* name, const SadtrtDenseMotion* problem,
                     int32_t (*check)(const SadtrtDenseMotion&, char*, int64_t), char* message, int64_t message_size) {
    const int32_t refused = check_given(name, problem, check, message, message_size);
    return refused != 0 ? refused : check_pointers(name, *problem, message, message_size);
}

}  // namespace
}  // namespace sadtrt

extern "C" int32_t sadtrt_motion_input(const SadtrtDenseMotion* problem, void* stream, char* message,
                                       int64_t message_size) {
    using namespace sadtrt;
    constexpr const char* kName = "MotionInput";
    if (const int32_t refused = check_launch(kName, problem, check_motion_input, message, message_size)) {
        return refused;
    }
    Motion motion = motion_of(*problem);
    const int64_t rows = problem->depth * divide_up(problem->height, kRows);
    const int64_t columns = divide_up(problem->width, kColumns);
    const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(columns), static_cast<unsigned>(problem->batch));
    const Launch<Motion> launch = {motion_input_kernel(*problem), grid, dim3(kMotionThreads), kernels_may_overlap()};
    return queue(kName, launch, motion, stream, message, message_size);
}

extern "C" int32_t sadtrt_motion_sum(const SadtrtDenseMotion* problem, void* stream, char* message,
                                     int64_t message_size) {
    using namespace sadtrt;
    constexpr const char* kName = "MotionSum";
    if (const int32_t refused = check_launch(kName, problem, check_motion_sum, message, message_size)) {
        return refused;
    }
    Motion motion = motion_of(*problem);
    const dim3 grid((motion.voxels + kMotionThreads - 1) / kMotionThreads, 1, static_cast<unsigned>(problem->batch));
    const Launch<Motion> launch = {motion_sum_kernel(*problem), grid, dim3(kMotionThreads), kernels_may_overlap()};
    return queue(kName, launch, motion, stream, message, message_size);
}
