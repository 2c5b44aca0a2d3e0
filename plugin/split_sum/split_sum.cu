// Chooses and launches the kernel of SplitSum for one problem: the C interface of split_sum.h.
#include "split_sum.cuh"

#include "../common/launch.h"
#include "problem_check.h"

namespace sadtrt {
namespace {

constexpr int64_t kMostBlocksAcross = 65535;  // CUDA's limit for the second axis of a launch

using SplitKernel = void (*)(SplitSum);

// Compiled for what a frame has: 1, 3 and 7 taps along depth of vectors, 7 x 7 in the plane of single outputs.
template <typename Feature>
SplitKernel choose_vectors(const SadtrtSplitSum& problem) {
    switch (problem.taps_height * problem.taps_width == 1 ? problem.taps_depth : 0) {
        case 1: return split_sum<Feature, 8, 1, 1>;
        case 3: return split_sum<Feature, 8, 3, 1>;
        case 7: return split_sum<Feature, 8, 7, 1>;
        default: return split_sum<Feature, 8, 0, 0>;
    }
}

template <typename Feature>
SplitKernel choose_elements(const SadtrtSplitSum& problem) {
    const bool sevens = problem.taps_depth == 1 && problem.taps_height == 7 && problem.taps_width == 7;
    return sevens ? split_sum<Feature, 1, 1, 7> : split_sum<Feature, 1, 0, 0>;
}

SplitKernel choose_kernel(const SadtrtSplitSum& problem) {
    const bool vectors = problem.y_channels_last != 0;
    switch (problem.feature_type) {
        case SADTRT_FLOAT16: return vectors ? choose_vectors<__half>(problem) : choose_elements<__half>(problem);
        case SADTRT_BFLOAT16:
            return vectors ? choose_vectors<__nv_bfloat16>(problem) : choose_elements<__nv_bfloat16>(problem);
        default: return choose_elements<float>(problem);
    }
}

Strides strides_of(int64_t channels, int64_t rows, int64_t columns, bool channels_last) {
    const auto stride = [](int64_t elements) { return static_cast<uint32_t>(elements); };
    if (channels_last) {
        const int64_t stored = (channels + 7) / 8 * 8;
        return {stride(rows * columns * stored), 1, stride(columns * stored), stride(stored)};
    }
    return {stride(channels * rows * columns), stride(rows * columns), stride(columns), 1};
}

SplitSum sum_of(const SadtrtSplitSum& problem) {
    const bool y_last = problem.y_channels_last != 0;
    const int64_t border = problem.scale > 1;
    const int64_t rows = problem.pool != 0 ? problem.height / 2 : problem.height * problem.scale;
    const int64_t columns = problem.pool != 0 ? problem.width / 2 : problem.width * problem.scale;
    const int64_t channels = problem.outputs + problem.skip_channels;
    SplitSum sum = {};
    sum.x = problem.x;
    sum.bias = problem.bias;
    sum.skip = problem.skip;
    sum.y = problem.y;
    sum.of_x = strides_of(problem.x_channels, problem.height + border, problem.width + border,
                          problem.x_channels_last != 0);
    sum.of_skip = strides_of(problem.skip_channels, rows, columns, y_last);
    sum.of_y = strides_of(channels, rows, columns, y_last);
    sum.first_channel = static_cast<uint32_t>(problem.first_channel);
    sum.outputs = static_cast<uint32_t>(problem.outputs);
    sum.vectors = static_cast<uint32_t>(y_last ? channels / 8 : channels);
    sum.rows = static_cast<uint32_t>(rows);
    sum.columns = static_cast<uint32_t>(columns);
    sum.height = static_cast<uint32_t>(problem.height + border);
    sum.width = static_cast<uint32_t>(problem.width + border);
    sum.depth = static_cast<uint32_t>(problem.depth);
    sum.taps_depth = static_cast<uint32_t>(problem.taps_depth);
    sum.taps_height = static_cast<uint32_t>(problem.taps_height);
    sum.taps_width = static_cast<uint32_t>(problem.taps_width);
    sum.scale = static_cast<uint32_t>(problem.scale);
    sum.pool = problem.pool != 0;
    sum.slope = problem.slope;
    return sum;
}

}  // namespace
}  // namespace sadtrt

extern "C" int32_t sadtrt_split_sum(const SadtrtSplitSum* problem, void* stream, char* message, int64_t message_size) {
    using namespace sadtrt;
    if (const int32_t refused = check_given("SplitSum", problem, check_problem, message, message_size)) {
        return refused;
    }
    const bool y_last = problem->y_channels_last != 0;
    if (!is_usable(problem->x, problem->x_channels_last != 0) || !is_usable(problem->y, y_last) ||
        !is_usable(problem->bias, y_last) || (problem->skip_channels > 0 && !is_usable(problem->skip, y_last))) {
        return refuse(message, message_size,
                      "SplitSum: a tensor is a null pointer, or channels last and not aligned to 16 bytes");
    }
    SplitSum sum = sum_of(*problem);
    const int64_t lines = problem->maps * sum.rows * (y_last ? 1 : sum.vectors);
    const int64_t items = static_cast<int64_t>(sum.columns) * (y_last ? sum.vectors : 1);
    const int64_t across = divide_up(items, kSplitThreads);
    if (across > kMostBlocksAcross) {
        return refuse(message, message_size, "SplitSum: a row of %lld vectors is too long",
                      static_cast<long long>(items));
    }
    const Launch<SplitSum> launch = {choose_kernel(*problem),
                                     dim3(static_cast<unsigned>(lines), static_cast<unsigned>(across)),
                                     dim3(kSplitThreads), kernels_may_overlap()};
    return queue("SplitSum", launch, sum, stream, message, message_size);
}
