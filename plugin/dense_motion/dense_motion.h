/* The C interface of MotionInput and MotionSum: one launch described by one struct. */
#ifndef SADTRT_DENSE_MOTION_H
#define SADTRT_DENSE_MOTION_H

#include "../common/library.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The K keypoints give K + 1 motions: motion 0 stands still, motion k moves a coordinate g to
 * g - driving[k - 1] + source[k - 1]. g runs over -1..1 inclusive along each axis. All tensors are contiguous. Channels
 * last is (N, D, H, W, C rounded up to 8), TensorRT's kDHWC8, or kHWC8 of the N * D maps: 16-byte aligned, fp16 or
 * bf16. */
typedef struct {
    const void* input;    /* MotionInput: features (N, C, D, H, W); MotionSum: logits (N * D, K + 1, H, W) */
    const float* driving; /* (N, K, 3), last axis x, y, z */
    const float* source;  /* (N, K, 3) */
    void* output;         /* MotionInput: (N * D, (K + 1) * (1 + C), H, W); MotionSum: fp32 (N, D, H, W, 3) */
    int64_t batch, channels, depth, height, width; /* of the volume */
    int64_t keypoints;                             /* K */
    int32_t feature_type;                          /* of the input, and of MotionInput's output */
    int32_t input_channels_last;                   /* 0 or 1 */
    int32_t output_channels_last;                  /* 0 or 1, for MotionInput */
    float exponent;                                /* of a heat map exp(exponent * squared distance), for MotionInput */
    float floor;                                   /* smaller masks count as zero, for MotionSum */
} SadtrtDenseMotion;

/* Launch on a CUDA stream (a cudaStream_t; NULL is the default stream) and return at once: no allocation, no
 * synchronisation, capturable. Return 0, or another number with a sentence in message (cut to message_size bytes). */
SADTRT_EXPORT int32_t sadtrt_motion_input(const SadtrtDenseMotion* problem, void* stream, char* message,
                                          int64_t message_size);
SADTRT_EXPORT int32_t sadtrt_motion_sum(const SadtrtDenseMotion* problem, void* stream, char* message,
                                        int64_t message_size);

#ifdef __cplusplus
}
#endif
#endif
