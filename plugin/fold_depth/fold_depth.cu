// Chooses and launches the FoldDepth kernel for one problem: the C interface of fold_depth.h.
#include "../common/launch.h"
#include "fold_depth.cuh"
#include "problem_check.h"

namespace sadtrt {
namespace {

using FoldKernel = void (*)(Fold);

FoldKernel choose_kernel(const SadtrtFoldDepth& problem) {
    if (problem.channels_last != 0) {
        return fold_depth<SixteenBytes>;
    }
    return problem.feature_type == SADTRT_FLOAT32 ? fold_depth<uint32_t> : fold_depth<uint16_t>;
}

}  // namespace
}  // namespace sadtrt

extern "C" int32_t sadtrt_fold_depth(const SadtrtFoldDepth* problem, void* stream, char* message,
                                     int64_t message_size) {
    using namespace sadtrt;
    if (const int32_t refused = check_given("FoldDepth", problem, check_problem, message, message_size)) {
        return refused;
    }
    const bool channels_last = problem->channels_last != 0;
    if (!is_usable(problem->input, channels_last) || !is_usable(problem->output, channels_last)) {
        return refuse(message, message_size,
                      "FoldDepth: input or output is a null pointer, or channels last and not aligned to 16 bytes");
    }
    const int64_t plane = problem->height * problem->width;
    // Maps in linear layout lie as they are wanted: all of a volume is one axis then.
    const bool lies_well = problem->of_maps != 0 && !channels_last;
    const int64_t outer = channels_last ? plane : lies_well ? 1 : problem->depth;
    const int64_t inner = channels_last ? problem->depth : problem->channels * (lies_well ? problem->depth : 1);
    const int64_t run = channels_last ? problem->channels / 8 : plane;
    Fold fold;
    fold.input = problem->input;
    fold.output = problem->output;
    fold.outer = static_cast<uint32_t>(outer);
    fold.inner = static_cast<uint32_t>(inner);
    fold.run = static_cast<uint32_t>(run);
    fold.total = static_cast<uint32_t>(problem->batch * outer * inner * run);
    const Launch<Fold> launch = {choose_kernel(*problem), dim3((fold.total + kFoldThreads - 1) / kFoldThreads),
                                 dim3(kFoldThreads), kernels_may_overlap()};
    return queue("FoldDepth", launch, fold, stream, message, message_size);
}
