// Launching a kernel of an operator, so that it may begin before the one ahead of it in the stream has ended.
#pragma once

#include <cuda_runtime.h>

#include "refuse.h"

namespace sadtrt {

constexpr int64_t divide_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// 0 where there is a problem of the operator `name` that `check` lets pass.
template <typename Problem>
int32_t check_given(const char* name, const Problem* problem, int32_t (*check)(const Problem&, char*, int64_t),
                    char* message, int64_t message_size) {
    if (problem == nullptr) {
        return refuse(message, message_size, "%s: no problem was given", name);
    }
    return check(*problem, message, message_size);
}

// Whether the kernels can read or write at an address: channels last they do so 16 bytes at a time.
inline bool is_usable(const void* address, bool channels_last) {
    return address != nullptr && (!channels_last || reinterpret_cast<uintptr_t>(address) % 16 == 0);
}

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
    size_t shared_bytes = 0;
    unsigned cluster = 1;  // neighbouring blocks along x that share their memory; more than one needs sm_90
};

constexpr size_t kUsualSharedBytes = 48 * 1024;  // a kernel that wants more has to say so before it is launched
constexpr unsigned kPortableCluster = 8;         // the same of blocks in a cluster

// Lets a kernel have the memory and the cluster that it is to be launched with.
template <typename Argument>
cudaError_t permit(const Launch<Argument>& launch) {
    const void* kernel = reinterpret_cast<const void*>(launch.kernel);
    cudaError_t error = cudaSuccess;
    if (launch.shared_bytes > kUsualSharedBytes) {
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(launch.shared_bytes));
    }
    if (error == cudaSuccess && launch.cluster > kPortableCluster) {
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    }
    return error;
}

// Queues a launch on a stream: 0, or CUDA's error with a sentence that begins with the operator's name.
template <typename Argument>
int32_t queue(const char* name, const Launch<Argument>& launch, Argument& argument, void* stream, char* message,
              int64_t message_size) {
    void* arguments[] = {&argument};
    cudaLaunchAttribute attributes[2] = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = launch.grid;
    config.blockDim = launch.block;
    config.dynamicSmemBytes = launch.shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attributes;
    if (launch.overlaps) {
        cudaLaunchAttribute& overlap = attributes[config.numAttrs++];
        overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        overlap.val.programmaticStreamSerializationAllowed = 1;
    }
    if (launch.cluster > 1) {
        cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
        cluster.id = cudaLaunchAttributeClusterDimension;
        cluster.val.clusterDim.x = launch.cluster;
        cluster.val.clusterDim.y = 1;
        cluster.val.clusterDim.z = 1;
    }
    cudaError_t error = permit(launch);
    if (error == cudaSuccess) {
        error = cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(launch.kernel), arguments);
    }
    if (error == cudaSuccess) {
        return 0;
    }
    cudaGetLastError();  // the error is reported here; it must not surface at somebody else's next call
    refuse(message, message_size, "%s: the kernel could not be launched: %s (%s)", name, cudaGetErrorString(error),
           cudaGetErrorName(error));
    return static_cast<int32_t>(error);
}

}  // namespace sadtrt
