// SpadeNorm's launcher and kernels for the host.
#include "fibers.h"

#include "../../../plugin/spade_norm/spade_norm.cu"

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
    return fibers::run<sadtrt::Norm>(config, kernel, arguments);
}
