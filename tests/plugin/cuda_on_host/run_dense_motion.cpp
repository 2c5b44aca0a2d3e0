// The launcher and kernels of MotionInput and MotionSum for the host.
#include "fibers.h"

#include "../../../plugin/dense_motion/dense_motion.cu"

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
    return fibers::run<sadtrt::Motion>(config, kernel, arguments);
}
