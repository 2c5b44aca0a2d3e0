// SpadeNorm's launcher with its kernels for the host, on a GPU as large as the test says.
#include "fibers.h"

#include "../../../plugin/spade_norm/spade_norm.cu"

namespace {
int the_processors = 132;
int the_shared_bytes = 232448;
}  // namespace

extern "C" void set_device(int processors, int shared_bytes) {
    the_processors = processors;
    the_shared_bytes = shared_bytes;
}

cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case cudaDevAttrMultiProcessorCount: *value = the_processors; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = the_shared_bytes; break;
        default: *value = 9;
    }
    return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
    unsigned cluster = 1;
    for (unsigned index = 0; index < config->numAttrs; ++index) {
        if (config->attrs[index].id == cudaLaunchAttributeClusterDimension) {
            cluster = config->attrs[index].val.clusterDim.x;
        }
    }
    gridDim = config->gridDim;
    blockDim = config->blockDim;
    const auto function = reinterpret_cast<sadtrt::Kernel>(const_cast<void*>(kernel));
    fibers::the_kernel = [=] { function(*static_cast<sadtrt::Norm*>(arguments[0])); };
    for (unsigned first = 0; first < gridDim.x; first += cluster) {
        fibers::run_cluster(first, cluster, config->dynamicSmemBytes);
    }
    return cudaSuccess;
}
