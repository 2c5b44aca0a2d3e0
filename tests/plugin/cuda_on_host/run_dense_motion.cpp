// The launcher and kernels of MotionInput and MotionSum for the host.
#include "blocks.h"

#include "../../../plugin/dense_motion/dense_motion.cu"

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
    return blocks::run<sadtrt::Motion>(config, kernel, arguments);
}
