// What a block of threads works with: vectors of 16 bytes, shared memory, clusters of blocks.
//
// A host compiler takes these functions from elsewhere (tests/plugin/cuda_on_host).
#pragma once

#include "../common/device.cuh"

namespace sadtrt {

// Neighbouring elements that are read or written by one access.
template <typename Feature, int kWidth>
struct alignas(kWidth * sizeof(Feature)) Vector {
    Feature of[kWidth];
};

#if defined(__CUDACC__)

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define SADTRT_HAS_CLUSTERS 1
#endif

__device__ __forceinline__ unsigned char* shared_memory() {
    extern __shared__ __align__(16) unsigned char memory[];
    return memory;
}

__device__ __forceinline__ float of_lane_xor(float value, int mask) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

// A vector that is read once: it does not stay in the first-level cache.
template <typename V>
__device__ __forceinline__ V read_once(const V* address) {
    if constexpr (sizeof(V) == 16) {
        uint4 bits;
        asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
                     : "l"(address));
        return *reinterpret_cast<V*>(&bits);
    } else {
        return *address;
    }
}

#if defined(SADTRT_HAS_CLUSTERS)

// Begins a copy to shared memory, which has arrived for this thread after copies_arrived().
template <typename V>
__device__ __forceinline__ void begin_copy(V* shared, const V* address) {
    if constexpr (sizeof(V) == 16) {
        const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(address) : "memory");
    } else {
        *shared = *address;
    }
}
__device__ __forceinline__ void copies_arrived() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// All threads of a cluster meet: none leaves cluster_wait before all have called cluster_arrive, and what they wrote
// before that, in each other's shared memory too, is seen.
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

// Writes a float where block `rank` of the cluster has what `shared` is here.
__device__ __forceinline__ void write_to_block(float* shared, int rank, float value) {
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(address), "r"(rank));
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

#endif
#endif

}  // namespace sadtrt
