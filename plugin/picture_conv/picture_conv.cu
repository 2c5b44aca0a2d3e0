// Chooses and launches the kernel of one PictureConv: the C interface of picture_conv.h.
#include "picture_conv.cuh"

#include "../common/launch.h"
#include "problem_check.h"

namespace sadtrt {
namespace {

using PictureKernel = void (*)(PictureConv);

PictureKernel choose_kernel(const SadtrtPictureConv& problem) {
    const bool channels_last = problem.channels_last != 0;
    switch (problem.feature_type) {
        case SADTRT_FLOAT16: return channels_last ? convolve_to_picture<__half, true> : convolve_to_picture<__half, false>;
        case SADTRT_BFLOAT16:
            return channels_last ? convolve_to_picture<__nv_bfloat16, true> : convolve_to_picture<__nv_bfloat16, false>;
        default: return convolve_to_picture<float, false>;
    }
}

}  // namespace
}  // namespace sadtrt

extern "C" int32_t sadtrt_picture_conv(const SadtrtPictureConv* problem, void* stream, char* message,
                                       int64_t message_size) {
    using namespace sadtrt;
    if (const int32_t refused = check_given("PictureConv", problem, check_problem, message, message_size)) {
        return refused;
    }
    if (!is_usable(problem->input, problem->channels_last != 0) || problem->weights == nullptr ||
        problem->bias == nullptr || problem->output == nullptr) {
        return refuse(message, message_size,
                      "PictureConv: a tensor is a null pointer, or channels last and not aligned to 16 bytes");
    }
    PictureConv argument = {problem->input,
                            problem->weights,
                            problem->bias,
                            problem->output,
                            static_cast<int>(problem->channels),
                            static_cast<int>(problem->height),
                            static_cast<int>(problem->width)};
    const dim3 grid(static_cast<unsigned>(divide_up(problem->width, kTileWidth)),
                    static_cast<unsigned>(divide_up(problem->height, kTileHeight)),
                    static_cast<unsigned>(problem->batch));
    const Launch<PictureConv> launch = {choose_kernel(*problem), grid, dim3(kPictureThreads), kernels_may_overlap()};
    return queue("PictureConv", launch, argument, stream, message, message_size);
}
