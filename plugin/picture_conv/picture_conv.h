/* PictureConv's C interface: one launch described by one struct, for the TensorRT adaptors and ctypes. */
#ifndef SADTRT_PICTURE_CONV_H
#define SADTRT_PICTURE_CONV_H

#include "../common/library.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A 3x3 convolution of a map into a picture: stride 1, a border of zeros one wide, a sigmoid behind it. Products, sums
 * and the sigmoid are fp32 whatever the map's type is. Contiguous tensors: input (N, C, H, W), or channels last (N, H, W,
 * C), TensorRT's kHWC8: 16-byte aligned, C a multiple of 8, fp16 or bf16; weights (3, C, 3, 3), bias (3) and output
 * (N, 3, H, W) are fp32. */
typedef struct {
    const void* input;
    const float* weights;
    const float* bias;
    float* output;
    int64_t batch, channels, height, width;
    int32_t feature_type;  /* of the input: SADTRT_FLOAT32, ... */
    int32_t channels_last; /* 0 or 1: of the input */
} SadtrtPictureConv;

/* Launches on a CUDA stream (a cudaStream_t; NULL is the default stream) and returns at once: no allocation, no
 * synchronisation, capturable. Returns 0, or another number with a sentence in message (cut to message_size bytes). */
SADTRT_EXPORT int32_t sadtrt_picture_conv(const SadtrtPictureConv* problem, void* stream, char* message,
                                          int64_t message_size);

#ifdef __cplusplus
}
#endif
#endif
