// Marks arithmetic that is compiled for the GPU and, for tests, for the host.
#pragma once

#if defined(__CUDACC__)
#define SADTRT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SADTRT_HOST_DEVICE inline
#endif
