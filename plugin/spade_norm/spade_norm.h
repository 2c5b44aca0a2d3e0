/* SpadeNorm's C interface: one launch described by one struct, for the TensorRT adaptors and ctypes. */
#ifndef SADTRT_SPADE_NORM_H
#define SADTRT_SPADE_NORM_H

#include "../common/library.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y = leaky((s - mean) / sqrt(variance + epsilon) * (1 + gamma) + beta) with s = x, or s = x + residual rounded to the
 * tensor's type; mean and variance over height and width of each channel of each image. With `upsample` 2, x, residual
 * and sum have half of `height` and `width`, and s is upsampled (nearest) before it is normalised. The first `channels`
 * channels of the modulation are gamma, the others beta. All tensors are contiguous and of one type and layout: linear
 * (N, C, H, W), or channels-last (N, H, W, C) with 16-byte aligned addresses, C a multiple of 8 and 16-bit types.
 *
 * With a `scale` y is int8: what it would be in the tensors' type, divided by the scale in fp32, rounded to nearest
 * even and saturated, as ONNX's QuantizeLinear has it; not a number is -128. Where the others are channels-last it lies
 * as (N, C / 32, H, W, 32), and C is a multiple of 32. */
typedef struct {
    const void* x;
    const void* residual; /* or NULL */
    const void* modulation;
    void* sum; /* x + residual; NULL where there is no residual */
    void* y;
    void* workspace;         /* device memory aligned to 16 bytes, or NULL */
    int64_t workspace_bytes; /* sadtrt_spade_norm_workspace says how many are needed where a slice is too large */
    int64_t batch, channels, height, width;
    float epsilon;
    float slope;          /* of the leaky ReLU: 1 leaves its input as it is */
    int32_t feature_type; /* SADTRT_FLOAT32, ... */
    int32_t layout;       /* SADTRT_LINEAR, ... */
    int32_t form;         /* 0 lets the launcher choose, 1 one kernel on clusters, 2 two kernels: for tests */
    int32_t upsample;     /* 1 or 2 */
    float scale;          /* of y in int8; 0 leaves it of the tensors' type */
} SadtrtSpadeNorm;

/* Launches on a CUDA stream (a cudaStream_t; NULL is the default stream) and returns at once: no allocation, no
 * synchronisation, capturable. Returns 0, or another number with a sentence in message (cut to message_size bytes). */
SADTRT_EXPORT int32_t sadtrt_spade_norm(const SadtrtSpadeNorm* problem, void* stream, char* message,
                                        int64_t message_size);

/* Bytes of workspace that the form of two kernels needs; never less for larger sizes of the same type and layout.
 * Pointers are not looked at. A workspace serves one launch at a time. */
SADTRT_EXPORT int64_t sadtrt_spade_norm_workspace(const SadtrtSpadeNorm* problem);

#ifdef __cplusplus
}
#endif
#endif
