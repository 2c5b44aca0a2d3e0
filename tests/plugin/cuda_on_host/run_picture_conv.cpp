// PictureConv's launcher and kernel for the host.
#include "fibers.h"

#include "../../../plugin/picture_conv/picture_conv.cu"

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
    return fibers::run<sadtrt::PictureConv>(config, kernel, arguments);
}
