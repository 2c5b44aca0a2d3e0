/* GridSample3D's C interface: one launch described by one struct, for the TensorRT adaptors, ctypes and pycuda. */
#ifndef SADTRT_GRID_SAMPLE_3D_H
#define SADTRT_GRID_SAMPLE_3D_H

#include "../common/library.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All tensors are contiguous: in linear layout the volume is (N, C, D, H, W) and the output (N*k, C, Do, Ho, Wo), in
 * channels-last layout both are (N, D, H, W, C rounded up to 8), 16-byte aligned: TensorRT's kDHWC8. Grid sample i
 * reads volume i / (grid_batch / volume_batch). */
typedef struct {
    const void* volume;
    const float* grid; /* (grid_batch, out_depth, out_height, out_width, 3), last axis x, y, z */
    void* output;
    void* workspace;         /* device memory aligned to 16 bytes, or NULL: then sampling may be slower */
    int64_t workspace_bytes; /* sadtrt_grid_sample_3d_workspace says how many are of use; with fewer none is used */
    int64_t volume_batch, channels, depth, height, width;
    int64_t grid_batch, out_depth, out_height, out_width;
    int32_t feature_type;        /* of the volume and the output: SADTRT_FLOAT32, ... */
    int32_t layout;              /* of the volume and the output: SADTRT_LINEAR, ... */
    int32_t interpolation;       /* 0 trilinear, 1 nearest */
    int32_t padding;             /* 0 zeros, 1 border, 2 reflection */
    int32_t align_corners;       /* 0 or 1 */
    int32_t channels_per_thread; /* linear, not packed: 4, 8 or 16; 0 lets the launcher choose */
    int32_t wide_offsets;        /* 1: offsets of 64 bits even where 32 would do, for tests; 0 else */
    int32_t packing;             /* 0 lets the launcher choose, 1 never, 2 wherever it can be done: for tests */
    int32_t half_coordinates;    /* 1: positions, floor and weights in half; trilinear, zeros, align_corners 0 only */
} SadtrtGridSample3D;

/* Launches on a CUDA stream (a cudaStream_t; NULL is the default stream) and returns at once: no allocation, no
 * synchronisation, capturable. Returns 0, or another number with a sentence in message (cut to message_size bytes). */
SADTRT_EXPORT int32_t sadtrt_grid_sample_3d(const SadtrtGridSample3D* problem, void* stream, char* message,
                                            int64_t message_size);

/* Bytes of workspace that can make this problem faster, 0 when none can; never less for larger sizes of the same
 * channels, type, layout and modes. Pointers are not looked at. A workspace serves one launch at a time. */
SADTRT_EXPORT int64_t sadtrt_grid_sample_3d_workspace(const SadtrtGridSample3D* problem);

/* The same, computed here and now by the host for fp32 in linear layout: only in the host reference library. */
SADTRT_EXPORT int32_t sadtrt_grid_sample_3d_host(const SadtrtGridSample3D* problem, char* message,
                                                 int64_t message_size);

#ifdef __cplusplus
}
#endif
#endif
