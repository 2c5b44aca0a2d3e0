// FoldDepth's launcher and kernel for the host.
#include "blocks.h"

#include "../../../plugin/volume_resize/fold_depth.cu"

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
    return blocks::run<sadtrt::Fold>(config, kernel, arguments);
}
