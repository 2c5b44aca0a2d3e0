// The CUDA kernel of FoldDepth, which moves words and knows nothing of their type.
//
// In both layouts two axes change places and what is within them stays together. Linear: (N, C, D) runs of H * W
// features become (N, D, C), which maps are already. Channels last: (N, D, H * W) runs of C / 8 vectors of 16 bytes become (N, H * W, D). A
// thread moves one word.
#pragma once

#include <cstdint>

#include "../common/device.cuh"

namespace sadtrt {

constexpr int kFoldThreads = 256;

struct Fold {
    const void* input;
    void* output;
    uint32_t outer, inner;  // the two axes as they are in the output
    uint32_t run;           // words within them
    uint32_t total;         // words of a tensor
};

struct alignas(16) SixteenBytes {
    uint32_t of[4];
};

template <typename Word>
__global__ void __launch_bounds__(kFoldThreads) fold_depth(const __grid_constant__ Fold fold) {
    const uint32_t index = blockIdx.x * kFoldThreads + threadIdx.x;
    if (index >= fold.total) {
        return;
    }
    const uint32_t place = index / fold.run;
    const uint32_t within = index % fold.run;
    const uint32_t inner = place % fold.inner;
    const uint32_t outer = place / fold.inner % fold.outer;
    const uint32_t batch = place / fold.inner / fold.outer;
    const uint32_t source = ((batch * fold.inner + inner) * fold.outer + outer) * fold.run + within;
    wait_for_previous_kernel();
    let_next_kernel_begin();
    static_cast<Word*>(fold.output)[index] = static_cast<const Word*>(fold.input)[source];
}

}  // namespace sadtrt
