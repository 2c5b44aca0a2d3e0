// For tests: the threads of a cluster as fibers of one host thread, for kernels whose threads wait for each other.
#pragma once

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "cuda_runtime.h"

#define SADTRT_HAS_CLUSTERS 1

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
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    dim3 thread, block;
    unsigned rank = 0;           // of its block in the cluster
    unsigned cluster_round = 0;  // that it arrived in
    bool ended = false;
};

ucontext_t the_scheduler;
Fiber* the_fiber = nullptr;
std::vector<Block> the_blocks;
Meeting the_cluster;
std::function<void()> the_kernel;

void yield() { swapcontext(&the_fiber->context, &the_scheduler); }
void wait_for(const Meeting& meeting, unsigned round) {
    while (meeting.round == round) {
        yield();
    }
}
Block& own_block() { return the_blocks[the_fiber->rank]; }

void begin() {
    the_kernel();
    the_fiber->ended = true;
    yield();
}

// Runs one cluster, whose first block is `first`, to its end.
void run_cluster(unsigned first, unsigned blocks, size_t shared_bytes) {
    the_blocks.assign(blocks, {});
    the_cluster = {};
    the_cluster.members = blocks * blockDim.x;
    std::vector<Fiber> fibers(blocks * blockDim.x);
    for (Block& block : the_blocks) {
        block.memory.assign(shared_bytes + kGuardBytes, 0xff);  // NaN, until it is written
        block.meeting.members = blockDim.x;
        block.warps.resize(blockDim.x / kWarp);
        for (Warp& warp : block.warps) {
            warp.meeting.members = kWarp;
        }
    }
    for (unsigned index = 0; index < fibers.size(); ++index) {
        Fiber& fiber = fibers[index];
        fiber.rank = index / blockDim.x;
        fiber.thread = dim3(index % blockDim.x, 0, 0);
        fiber.block = dim3(first + fiber.rank, 0, 0);
        fiber.stack = std::make_unique<char[]>(kStackBytes);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStackBytes;
        makecontext(&fiber.context, begin, 0);
    }
    for (bool running = true; running;) {
        running = false;
        for (Fiber& fiber : fibers) {
            if (!fiber.ended) {
                the_fiber = &fiber;
                threadIdx = fiber.thread;
                blockIdx = fiber.block;
                swapcontext(&the_scheduler, &fiber.context);
                running = true;
            }
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

}  // namespace fibers

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
