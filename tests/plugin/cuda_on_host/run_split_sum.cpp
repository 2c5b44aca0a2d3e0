// SplitSum's launcher and kernels for the host.
#include "fibers.h"

#include "../../../plugin/split_sum/split_sum.cu"

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
    return fibers::run<sadtrt::SplitSum>(config, kernel, arguments);
}
