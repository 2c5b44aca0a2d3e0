// What kernels of every operator use: overlapping launches and conversions between float and the feature types.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "host_device.h"

namespace sadtrt {

// On sm_90 and later a kernel may begin while the one before it in the stream still runs, and waits for it by itself
// before it touches what that one reads or writes. Only then does it let the next one begin, which may thus rely on all
// that came before. Elsewhere, and without that launch attribute, both do nothing.
__device__ __forceinline__ void let_next_kernel_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename Feature>
__device__ __forceinline__ Feature from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
    return value;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float value) {
    return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
    return __float2bfloat16_rn(value);
}

}  // namespace sadtrt
