/* VolumeResize's C interface: one launch described by one struct, for the TensorRT adaptors and ctypes. */
#ifndef SADTRT_VOLUME_RESIZE_H
#define SADTRT_VOLUME_RESIZE_H

#include "../common/library.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SADTRT_HALVE = 0, /* means of 2x2; an odd last row or column is left out */
    SADTRT_DOUBLE = 1 /* every voxel four times */
};

/* Height and width of a volume halved or doubled, depth as it is. All tensors are contiguous: (N, C, D, H, W), or
 * channels last (N, D, H, W, C), TensorRT's kDHWC8: 16-byte aligned, C a multiple of 8, fp16 or bf16. */
typedef struct {
    const void* input;
    void* output;
    int64_t batch, channels, depth, height, width; /* of the input */
    int32_t feature_type;                          /* of the input and the output: SADTRT_FLOAT32, ... */
    int32_t channels_last;                         /* 0 or 1: of the input and the output */
    int32_t mode;                                  /* SADTRT_HALVE or SADTRT_DOUBLE */
} SadtrtVolumeResize;

/* Two volumes joined along their channels, the first's before the second's, with height and width doubled. Tensors are
 * as above, each with its own channels. */
typedef struct {
    const void* first;
    const void* second;
    void* output;
    int64_t batch, first_channels, second_channels, depth, height, width; /* of the inputs */
    int32_t feature_type;                                                  /* of all three: SADTRT_FLOAT32, ... */
    int32_t channels_last;                                                 /* 0 or 1: of all three */
} SadtrtVolumeJoinDouble;

/* Each launches on a CUDA stream (a cudaStream_t; NULL is the default stream) and returns at once: no allocation, no
 * synchronisation, capturable. Returns 0, or another number with a sentence in message (cut to message_size bytes). */
SADTRT_EXPORT int32_t sadtrt_volume_resize(const SadtrtVolumeResize* problem, void* stream, char* message,
                                           int64_t message_size);
SADTRT_EXPORT int32_t sadtrt_volume_join_double(const SadtrtVolumeJoinDouble* problem, void* stream, char* message,
                                                int64_t message_size);

#ifdef __cplusplus
}
#endif
#endif
