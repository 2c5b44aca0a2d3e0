// For tests: the threads of a cluster as fibers of one host thread, because a kernel's threads wait for each other.
#pragma once

#undef _FORTIFY_SOURCE  // which takes a jump to another stack for a mistake

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "cuda_runtime.h"

#define SADTRT_HAS_CLUSTERS 1
#define __shared__ static  // of kernels without clusters: one block runs to its end before the next begins

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace fibers {

constexpr size_t kStackBytes = 64 * 1024;
constexpr size_t kGuardBytes = 64;  // behind a block's shared memory; nothing may be written there
constexpr unsigned kWarp = 32;

// Where a number of fibers meet; one that has arrived may wait later.
struct Meeting {
    unsigned members = 0, arrived = 0, round = 0;

    unsigned arrive() {
        const unsigned mine = round;
        if (++arrived == members) {
            arrived = 0;
            ++round;
        }
        return mine;
    }
};

struct Warp {
    Meeting meeting;
    float values[kWarp];
};

struct Block {
    std::vector<unsigned char> memory;
    Meeting meeting;
    std::vector<Warp> warps;
};

struct Fiber {
    ucontext_t context;  // that it begins in
    jmp_buf place;       // where it waits
    dim3 thread, block;
    unsigned rank = 0;                 // of its block in the cluster
    unsigned cluster_round = 0;        // that it arrived in
    const Meeting* meeting = nullptr;  // that it waits for
    unsigned round = 0;                // of that meeting
    bool begun = false, ended = false;

    bool waits() const { return meeting != nullptr && meeting->round == round; }
};

jmp_buf the_scheduler;
Fiber* the_fiber = nullptr;
std::vector<Block> the_blocks;
std::vector<std::unique_ptr<char[]>> the_stacks;
Meeting the_cluster;
std::function<void()> the_kernel;

// Jumps, because changing contexts asks the operating system each time.
void wait_for(const Meeting& meeting, unsigned round) {
    the_fiber->meeting = &meeting;
    the_fiber->round = round;
    if (the_fiber->waits() && _setjmp(the_fiber->place) == 0) {
        _longjmp(the_scheduler, 1);
    }
}
Block& own_block() { return the_blocks[the_fiber->rank]; }

void begin() {
    the_kernel();
    the_fiber->ended = true;
    _longjmp(the_scheduler, 1);
}

// Runs a fiber until it waits or has ended.
void resume(Fiber& fiber) {
    the_fiber = &fiber;
    threadIdx = fiber.thread;
    blockIdx = fiber.block;
    if (_setjmp(the_scheduler) == 0) {
        if (fiber.begun) {
            _longjmp(fiber.place, 1);
        }
        fiber.begun = true;
        setcontext(&fiber.context);
    }
}

// Runs one cluster of blocks, whose first is `first`, to its end.
void run_cluster(dim3 first, unsigned blocks, size_t shared_bytes) {
    const unsigned threads = blockDim.x * blockDim.y;
    the_blocks.assign(blocks, {});
    the_cluster = {};
    the_cluster.members = blocks * threads;
    std::vector<Fiber> fibers(blocks * threads);
    while (the_stacks.size() < fibers.size()) {
        the_stacks.emplace_back(new char[kStackBytes]);
    }
    for (Block& block : the_blocks) {
        block.memory.assign(shared_bytes + kGuardBytes, 0xff);  // NaN, until it is written
        block.meeting.members = threads;
        block.warps.resize(threads / kWarp);
        for (Warp& warp : block.warps) {
            warp.meeting.members = kWarp;
        }
    }
    for (unsigned index = 0; index < fibers.size(); ++index) {
        Fiber& fiber = fibers[index];
        fiber.rank = index / threads;
        fiber.thread = dim3(index % blockDim.x, index % threads / blockDim.x, 0);
        fiber.block = dim3(first.x + fiber.rank, first.y, first.z);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = the_stacks[index].get();
        fiber.context.uc_stack.ss_size = kStackBytes;
        makecontext(&fiber.context, begin, 0);
    }
    for (bool running = true; running;) {
        running = false;
        for (Fiber& fiber : fibers) {
            if (!fiber.ended && !fiber.waits()) {
                resume(fiber);
                running = true;
            }
        }
    }
    for (const Fiber& fiber : fibers) {
        if (!fiber.ended) {
            std::fprintf(stderr, "a kernel's threads wait for each other for ever\n");
            std::abort();
        }
    }
    for (const Block& block : the_blocks) {
        for (size_t index = shared_bytes; index < block.memory.size(); ++index) {
            if (block.memory[index] != 0xff) {
                std::fprintf(stderr, "a kernel wrote beyond its shared memory\n");
                std::abort();
            }
        }
    }
}

// What cudaLaunchKernelExC does, for kernels of one argument.
template <typename Argument>
cudaError_t run(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
    const auto function = reinterpret_cast<void (*)(Argument)>(const_cast<void*>(kernel));
    the_kernel = [=] { function(*static_cast<const Argument*>(arguments[0])); };
    unsigned cluster = 1;
    for (unsigned index = 0; index < config->numAttrs; ++index) {
        if (config->attrs[index].id == cudaLaunchAttributeClusterDimension) {
            cluster = config->attrs[index].val.clusterDim.x;
        }
    }
    gridDim = config->gridDim;
    blockDim = config->blockDim;
    for (unsigned z = 0; z < gridDim.z; ++z) {
        for (unsigned y = 0; y < gridDim.y; ++y) {
            for (unsigned x = 0; x < gridDim.x; x += cluster) {
                run_cluster(dim3(x, y, z), cluster, config->dynamicSmemBytes);
            }
        }
    }
    return cudaSuccess;
}

// The GPU that launchers see.
int the_processors = 132;
int the_shared_bytes = 232448;

}  // namespace fibers

extern "C" void set_device(int processors, int shared_bytes) {
    fibers::the_processors = processors;
    fibers::the_shared_bytes = shared_bytes;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case cudaDevAttrMultiProcessorCount: *value = fibers::the_processors; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = fibers::the_shared_bytes; break;
        default: *value = 9;
    }
    return cudaSuccess;
}

inline unsigned min(unsigned first, unsigned second) { return first < second ? first : second; }

inline void __syncthreads() { fibers::wait_for(fibers::own_block().meeting, fibers::own_block().meeting.arrive()); }

namespace sadtrt {

inline unsigned char* shared_memory() { return fibers::own_block().memory.data(); }

inline float of_lane_xor(float value, int mask) {
    fibers::Warp& warp = fibers::own_block().warps[threadIdx.x / fibers::kWarp];
    const unsigned lane = threadIdx.x % fibers::kWarp;
    warp.values[lane] = value;
    fibers::wait_for(warp.meeting, warp.meeting.arrive());
    const float other = warp.values[lane ^ static_cast<unsigned>(mask)];
    fibers::wait_for(warp.meeting, warp.meeting.arrive());
    return other;
}

template <typename V>
V read_once(const V* address) {
    return *address;
}
template <typename V>
void begin_copy(V* shared, const V* address) {
    *shared = *address;
}
inline void copies_arrived() {}

inline void cluster_arrive() { fibers::the_fiber->cluster_round = fibers::the_cluster.arrive(); }
inline void cluster_wait() { fibers::wait_for(fibers::the_cluster, fibers::the_fiber->cluster_round); }
inline void write_to_block(float* shared, int rank, float value) {
    const auto offset = reinterpret_cast<unsigned char*>(shared) - shared_memory();
    *reinterpret_cast<float*>(fibers::the_blocks[static_cast<size_t>(rank)].memory.data() + offset) = value;
}

}  // namespace sadtrt
