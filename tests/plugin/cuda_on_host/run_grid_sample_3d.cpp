// GridSample3D's launcher and kernels for the host: its threads do not wait for each other, so each runs to its end.
#include "cuda_runtime.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

#include "../../../plugin/grid_sample_3d/grid_sample_3d.cu"
#include "../../../plugin/common/version.cpp"

cudaError_t cudaDeviceGetAttribute(int* value, int, int) { return *value = 9, cudaSuccess; }

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
    const dim3 grid = config->gridDim;
    const dim3 block = config->blockDim;
    const auto function = reinterpret_cast<sadtrt::Kernel>(const_cast<void*>(kernel));
    gridDim = grid;
    blockDim = block;
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
                for (threadIdx.y = 0; threadIdx.y < block.y; ++threadIdx.y) {
                    for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x) {
                        function(*static_cast<sadtrt::Sampling*>(arguments[0]));
                    }
                }
            }
        }
    }
    return cudaSuccess;
}
