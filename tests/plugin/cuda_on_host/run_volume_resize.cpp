// VolumeResize's launcher and kernels for the host.
#include "fibers.h"

#include "../../../plugin/volume_resize/volume_resize.cu"

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
    return fibers::run<sadtrt::Resize>(config, kernel, arguments);
}
