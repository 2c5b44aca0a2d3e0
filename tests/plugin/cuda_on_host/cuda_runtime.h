// Enough of CUDA to compile the kernel source with a host compiler and run it thread by thread: for tests only.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __device__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned first = 1, unsigned second = 1, unsigned third = 1) : x(first), y(second), z(third) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
template <typename T>
T __ldg(const T* address) {
    return *address;
}

inline uint32_t __umulhi(uint32_t first, uint32_t second) {
    return static_cast<uint32_t>(static_cast<uint64_t>(first) * second >> 32);
}

struct __half {
    uint16_t bits;
};
inline float __half2float(__half value) {
    const int exponent = (value.bits >> 10) & 31;
    const int mantissa = value.bits & 1023;
    const float sign = (value.bits & 0x8000) ? -1.0f : 1.0f;
    if (exponent == 31) {
        return mantissa != 0 ? NAN : sign * INFINITY;
    }
    return sign * (exponent == 0 ? ldexpf(static_cast<float>(mantissa), -24)
                                 : ldexpf(static_cast<float>(1024 + mantissa), exponent - 25));
}
inline __half __float2half_rn(float value) {
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const float magnitude = fabsf(value);
    if (std::isnan(value)) {
        return {0x7fff};
    }
    if (magnitude >= 65520.0f) {
        return {static_cast<uint16_t>(sign | 0x7c00)};
    }
    if (magnitude < ldexpf(1.0f, -14)) {
        return {static_cast<uint16_t>(sign | static_cast<uint16_t>(rintf(ldexpf(magnitude, 24))))};
    }
    uint32_t bits;
    std::memcpy(&bits, &magnitude, sizeof(bits));
    bits += 0xfff + ((bits >> 13) & 1);  // round to nearest, ties to even
    return {static_cast<uint16_t>(sign | ((bits >> 13) - (112 << 10)))};
}

struct __nv_bfloat16 {
    uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 value) {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof(result));
    return result;
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
    if (std::isnan(value)) {
        return {0x7fff};
    }
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
inline const char* cudaGetErrorName(cudaError_t) { return ""; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
constexpr int cudaDevAttrMultiProcessorCount = 16;
constexpr int cudaDevAttrComputeCapabilityMajor = 75;
constexpr int cudaDevAttrMaxSharedMemoryPerBlockOptin = 97;
cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int device);
constexpr int cudaLaunchAttributeClusterDimension = 4;
constexpr int cudaLaunchAttributeProgrammaticStreamSerialization = 6;
struct cudaLaunchAttribute {
    int id;
    union {
        struct {
            unsigned x, y, z;
        } clusterDim;
        int programmaticStreamSerializationAllowed;
    } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute* attrs;
    unsigned numAttrs;
};
constexpr int cudaFuncAttributeMaxDynamicSharedMemorySize = 8;
constexpr int cudaFuncAttributeNonPortableClusterSizeAllowed = 13;
inline cudaError_t cudaFuncSetAttribute(const void*, int, int) { return cudaSuccess; }
inline cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void*, const cudaLaunchConfig_t*) {
    return *clusters = 1, cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments);
