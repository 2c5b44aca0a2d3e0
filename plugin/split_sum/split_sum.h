/* SplitSum's C interface: one launch described by one struct, for the TensorRT adaptors and ctypes. */
#ifndef SADTRT_SPLIT_SUM_H
#define SADTRT_SPLIT_SUM_H

#include "../common/library.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The second half of a split convolution. x has O outputs for every tap, (maps, Td * Th * Tw * Q * Q * O, h, w), its
 * channels in the order tap along depth, height, width, phase along height, width, output. `depth` maps that follow one
 * another are the depths of a volume. A wider x may serve several sums: this one's channels begin at `first_channel`.
 * y has those of every place added up:
 *
 *     y[m, o, r, c] = act(bias[o] + sum over taps of x[m + td - Td / 2, tap, phase, o, r + th - Th / 2, c + tw - Tw / 2])
 *
 * where x counts as zero outside of its volume and its map. With a `scale` s above 1 the output (r, c) of the upsampled
 * map is at x's window (r / s, c / s), one further for the last of s, and Q = min(s, 3) phases along each axis are those
 * of the first, those in the middle and the last of s; Q is 1 else. With `pool` y is the means of 2x2, an odd last row or
 * column left out. What `skip` (maps, S, rows, columns) holds comes behind the O channels of y.
 *
 * All tensors are contiguous: linear (maps, C, rows, columns), or channels last (maps, rows, columns, C rounded up to
 * 8), TensorRT's kHWC8: 16-byte aligned, fp16 or bf16; y and skip only where O, S and first_channel are multiples of 8,
 * and x is too. */
typedef struct {
    const void* x;
    const float* bias; /* O */
    const void* skip;  /* or NULL */
    void* y;
    int64_t maps, outputs, skip_channels;  /* maps a multiple of depth; O; S */
    int64_t x_channels, first_channel;     /* of x; 0 <= first_channel <= x_channels - those of this sum */
    int64_t height, width;                 /* of x, less 1 where scale is above 1 */
    int64_t depth;                         /* 1 for maps that are no volumes */
    int64_t taps_depth, taps_height, taps_width; /* odd; the last two are 1 where scale is above 1 */
    int64_t scale;
    float slope;             /* of the leaky ReLU: 1 leaves its input as it is, 0 is a ReLU */
    int32_t pool;            /* 0 or 1; 0 where scale is above 1 */
    int32_t feature_type;    /* of x, skip and y: SADTRT_FLOAT32, ... */
    int32_t x_channels_last; /* 0 or 1 */
    int32_t y_channels_last; /* 0 or 1: of y and skip */
} SadtrtSplitSum;

/* Launches on a CUDA stream (a cudaStream_t; NULL is the default stream) and returns at once: no allocation, no
 * synchronisation, capturable. Returns 0, or another number with a sentence in message (cut to message_size bytes). */
SADTRT_EXPORT int32_t sadtrt_split_sum(const SadtrtSplitSum* problem, void* stream, char* message,
                                       int64_t message_size);

#ifdef __cplusplus
}
#endif
#endif
