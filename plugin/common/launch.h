// Launching a kernel of an operator, so that it may begin before the one ahead of it in the stream has ended.
#pragma once

#include <cuda_runtime.h>

#include "refuse.h"

namespace sadtrt {

// Whether a kernel may begin before the one ahead of it has ended, captured CUDA graphs included.
inline bool kernels_may_overlap() {
    int device = 0;
    int major = 0;
    int driver = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9 &&
           cudaDriverGetVersion(&driver) == cudaSuccess && driver >= 12030;
}

template <typename Argument>
struct Launch {
    void (*kernel)(Argument);
    dim3 grid, block;
    bool overlaps;  // it may begin before the kernel ahead of it has ended, and waits for it by itself
};

// Queues a launch on a stream: 0, or CUDA's error with a sentence that begins with the operator's name.
template <typename Argument>
int32_t queue(const char* name, const Launch<Argument>& launch, Argument& argument, void* stream, char* message,
              int64_t message_size) {
    void* arguments[] = {&argument};
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = launch.grid;
    config.blockDim = launch.block;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &attribute;
    config.numAttrs = launch.overlaps ? 1 : 0;
    const cudaError_t error = cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(launch.kernel), arguments);
    if (error == cudaSuccess) {
        return 0;
    }
    cudaGetLastError();  // the error is reported here; it must not surface at somebody else's next call
    refuse(message, message_size, "%s: the kernel could not be launched: %s (%s)", name, cudaGetErrorString(error),
           cudaGetErrorName(error));
    return static_cast<int32_t>(error);
}

}  // namespace sadtrt
