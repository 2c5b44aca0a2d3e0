// FoldDepth's launcher and kernel for the host.
#include "fibers.h"

#include "../../../plugin/fold_depth/fold_depth.cu"

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
    return fibers::run<sadtrt::Fold>(config, kernel, arguments);
}
