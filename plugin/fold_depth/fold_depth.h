/* FoldDepth's C interface: one launch described by one struct, for the TensorRT adaptors and ctypes. */
#ifndef SADTRT_FOLD_DEPTH_H
#define SADTRT_FOLD_DEPTH_H

#include "../common/library.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A volume (N, C, D, H, W), or its maps (N * D, C, H, W), as a map (N, D * C, H, W): feature c at depth d becomes
 * channel d * C + c. All tensors are contiguous, or channels last: (N, D, H, W, C) and (N, H, W, D * C), TensorRT's
 * kDHWC8 or kHWC8: 16-byte aligned, C a multiple of 8, fp16 or bf16. */
typedef struct {
    const void* input;
    void* output;
    int64_t batch, channels, depth, height, width; /* of the input */
    int32_t feature_type;                          /* of the input and the output: SADTRT_FLOAT32, ... */
    int32_t channels_last;                         /* 0 or 1: of the input and the output */
    int32_t of_maps;                               /* 0 or 1: whether the input is maps */
} SadtrtFoldDepth;

/* Launches on a CUDA stream (a cudaStream_t; NULL is the default stream) and returns at once: no allocation, no
 * synchronisation, capturable. Returns 0, or another number with a sentence in message (cut to message_size bytes). */
SADTRT_EXPORT int32_t sadtrt_fold_depth(const SadtrtFoldDepth* problem, void* stream, char* message,
                                        int64_t message_size);

#ifdef __cplusplus
}
#endif
#endif
