// Where a volumetric sample lies and what each voxel weighs: the one source of it, for the GPU kernel and the host.
//
// Conventions are those of torch.nn.functional.grid_sample on CUDA. A coordinate x becomes the voxel position
//     p = x * scale + shift,   scale = size / 2 (or (size - 1) / 2 with align_corners),   shift = (size - 1) / 2,
// which equals ((x + 1) * size - 1) / 2 but needs one rounding where that needs three. Both constants are exact in
// fp32 for every size below 2^23. Corners outside the volume count nothing.
//
// Two things make this cheaper than the textbook form, and more exact.
//   * The pair of voxels read along an axis is kept inside the volume, base in [0, size - 2]; what is outside gets
//     the weight zero from the tent max(0, 1 - |p - voxel|). One address serves all eight corners, with no
//     predicate on any load, and NaN or infinite coordinates end in the weight zero by themselves.
//   * p - base is computed by one fused multiply-add from x, so its error is that of a number below one, not that
//     of a number near the size of the volume.
// A weight of zero times an infinite feature would be NaN where PyTorch never reads that voxel. So the sum over pairs
// is used when it is finite, and repeated corner by corner (sum_corners) when it is not.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

#include "../common/host_device.h"

namespace sadtrt {

enum class Interpolation : int32_t { kTrilinear = 0, kNearest = 1 };
enum class Padding : int32_t { kZeros = 0, kBorder = 1, kReflection = 2 };

// One axis of the volume, prepared once on the host. What plain problems need comes first, to be read in pairs.
struct alignas(16) Axis {
    float scale;        // voxels for one unit of coordinate
    float plain_shift;  // kOrigin + shift
    float plain_last;   // kOrigin + last_base
    int32_t size;
    float shift;        // voxel position of coordinate 0
    float last_base;    // largest lower voxel of a pair: size - 2, or 0 for a single voxel
    float nearest_low;  // positions are clamped to [nearest_low, nearest_high] before the nearest voxel is taken
    float nearest_high;
};

// Added to positions of volumes of plain sizes: fp32 numbers from 2^22 to 2^23 are half a voxel apart.
constexpr float kOrigin = 6291456.0f;  // 1.5 * 2^22
constexpr uint32_t kOriginBits = 0x4AC00000u;
constexpr int64_t kLargestPlainSize = 1 << 20;

// A position along one axis: the pair of voxels base, base + 1, and what each weighs.
struct Pair {
    int32_t base;
    float distance;  // p - base; outside [0, 1] only with zeros padding
    float lower;     // weight of voxel base
    float upper;     // weight of voxel base + 1
};

// The same for trilinear zeros padding and plain sizes. bits is kOriginBits + 2 * base.
struct PlainPair {
    uint32_t bits;
    float lower;
    float upper;
};

SADTRT_HOST_DEVICE float saturate(float value) {
#if defined(__CUDA_ARCH__)
    return __saturatef(value);
#else
    return fminf(fmaxf(value, 0.0f), 1.0f);  // fmaxf(NaN, 0) is 0, as in __saturatef
#endif
}

// x * scale + shift, rounded towards minus infinity: its floor is the floor of the exact value.
SADTRT_HOST_DEVICE float position_rounded_down(float x, float scale, float shift) {
#if defined(__CUDA_ARCH__)
    return __fmaf_rd(x, scale, shift);
#else
    const float nearest = fmaf(x, scale, shift);
    const double product = static_cast<double>(x) * static_cast<double>(scale);  // exact: 48 bits
    const bool rounded_up = static_cast<double>(nearest) - static_cast<double>(shift) > product;
    return rounded_up ? nextafterf(nearest, -INFINITY) : nearest;
#endif
}

SADTRT_HOST_DEVICE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}
SADTRT_HOST_DEVICE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

// Folds a coordinate into [-1, 1] by mirroring at -1 and at 1. Exact in fp32 (the remainder and both differences are
// representable), so reflection costs no accuracy however far outside the coordinate is. Infinity becomes NaN.
SADTRT_HOST_DEVICE float mirror(float x) {
    const float within_period = fmaf(-4.0f, rintf(0.25f * x), x);  // in [-2, 2]
    if (within_period > 1.0f) {
        return 2.0f - within_period;
    }
    return within_period < -1.0f ? -2.0f - within_period : within_period;
}

template <Padding kPadding>
SADTRT_HOST_DEVICE Pair locate_pair(float x, const Axis& axis) {
    if (kPadding == Padding::kReflection) {
        x = mirror(x);
    }
    const float lower_voxel = floorf(position_rounded_down(x, axis.scale, axis.shift));
    const float base = fminf(fmaxf(lower_voxel, 0.0f), axis.last_base);  // fmaxf(NaN, 0) is 0
    const float distance = fmaf(x, axis.scale, axis.shift - base);
    if (kPadding == Padding::kZeros) {
        return {static_cast<int32_t>(base), distance, saturate(1.0f - fabsf(distance)),
                saturate(1.0f - fabsf(1.0f - distance))};
    }
    const float upper = saturate(distance);  // the clip to [0, size - 1]: base is already clipped
    return {static_cast<int32_t>(base), upper, 1.0f - upper, upper};
}

// The nearest half, ties to even, as float; beyond 65504 it may be infinite. For hosts without a half of their own.
SADTRT_HOST_DEVICE float to_half(float value) {
#if defined(__CUDA_ARCH__)
    return __half2float(__float2half_rn(value));
#else
    const float magnitude = fabsf(value);
    if (!(magnitude < 65520.0f)) {  // also NaN
        return magnitude >= 65520.0f ? copysignf(INFINITY, value) : value;
    }
    int exponent;
    frexpf(magnitude, &exponent);
    const float step = ldexpf(1.0f, exponent > -13 ? exponent - 11 : -24);
    return rintf(value / step) * step;
#endif
}

// locate_pair with zeros padding, and every step rounded to half: what a sampler computes that is written for half
// tensors. ((x + 1) * size - 1) / 2 loses the more of the position the farther it lies from voxel 0.
SADTRT_HOST_DEVICE Pair locate_half_pair(float x, const Axis& axis) {
    const float size = to_half(static_cast<float>(axis.size));
    const float scaled = to_half(to_half(to_half(x) + 1.0f) * size);
    const float position = to_half(to_half(scaled - 1.0f) * 0.5f);
    const float low = floorf(position);
    const float high = to_half(low + 1.0f);
    const float weight_low = to_half(high - position);
    const float weight_high = to_half(position - low);
    const float base = fminf(fmaxf(low, 0.0f), axis.last_base);  // fmaxf(NaN, 0) is 0
    const float next = base + 1.0f;
    return {static_cast<int32_t>(base), position - base,
            base == low    ? weight_low
            : base == high ? weight_high
                           : 0.0f,
            next == low    ? weight_low
            : next == high ? weight_high
                           : 0.0f};
}

// locate_pair with zeros padding for sizes from 2 to kLargestPlainSize: the same weights in fewer and cheaper steps.
// kOrigin makes the addition round to half voxels, so that one bit less is the floor: no floor and no conversion.
SADTRT_HOST_DEVICE PlainPair locate_plain_pair(float x, const Axis& axis) {
    const float half_voxels = position_rounded_down(x, axis.scale, axis.plain_shift);
    const uint32_t bits = bits_of(fminf(fmaxf(half_voxels, kOrigin), axis.plain_last)) & ~1u;  // fmaxf(NaN, 0) is 0
    const float distance = fmaf(x, axis.scale, axis.plain_shift - float_of(bits));
    return {bits, saturate(1.0f - fabsf(distance)), saturate(1.0f - fabsf(1.0f - distance))};
}

// The voxel nearest to a coordinate (ties to even), or one outside [0, size) where nothing is to be read.
template <Padding kPadding>
SADTRT_HOST_DEVICE int32_t locate_nearest(float x, const Axis& axis) {
    if (kPadding == Padding::kReflection) {
        x = mirror(x);
    }
    const float position = fmaf(x, axis.scale, axis.shift);
    return static_cast<int32_t>(rintf(fminf(fmaxf(position, axis.nearest_low), axis.nearest_high)));
}

// True where PyTorch reads the lower (or upper) voxel of the pair: it is floor(p) or floor(p) + 1, and it exists.
SADTRT_HOST_DEVICE bool reads_lower(const Pair& pair) { return pair.distance >= -1.0f && pair.distance < 1.0f; }
SADTRT_HOST_DEVICE bool reads_upper(const Pair& pair, const Axis& axis) {
    return pair.distance >= 0.0f && pair.distance < 2.0f && pair.base + 1 < axis.size;
}

// The eight weights of a sample point; index bit 2 is depth, bit 1 height, bit 0 width.
struct CornerWeights {
    float of[8];
};

template <typename AnyPair>
SADTRT_HOST_DEVICE CornerWeights corner_weights(const AnyPair& z, const AnyPair& y, const AnyPair& x,
                                                bool in_half = false) {
    if (in_half) {
        CornerWeights weights;
        for (int corner = 0; corner < 8; ++corner) {
            const float across = to_half((corner & 4 ? z.upper : z.lower) * (corner & 2 ? y.upper : y.lower));
            weights.of[corner] = to_half(across * (corner & 1 ? x.upper : x.lower));
        }
        return weights;
    }
    const float ll = z.lower * y.lower;
    const float lu = z.lower * y.upper;
    const float ul = z.upper * y.lower;
    const float uu = z.upper * y.upper;
    return {{ll * x.lower, ll * x.upper, lu * x.lower, lu * x.upper, ul * x.lower, ul * x.upper, uu * x.lower,
             uu * x.upper}};
}

// The sum over all eight corners of the pairs; right when every axis has two voxels or more and the sum is finite.
// read(depth_step, height_step, width_step) gives the feature at that corner as float.
template <typename Read>
SADTRT_HOST_DEVICE float sum_pairs(const CornerWeights& weights, Read read) {
    float sum = weights.of[0] * read(0, 0, 0);
    sum = fmaf(weights.of[1], read(0, 0, 1), sum);
    sum = fmaf(weights.of[2], read(0, 1, 0), sum);
    sum = fmaf(weights.of[3], read(0, 1, 1), sum);
    sum = fmaf(weights.of[4], read(1, 0, 0), sum);
    sum = fmaf(weights.of[5], read(1, 0, 1), sum);
    sum = fmaf(weights.of[6], read(1, 1, 0), sum);
    return fmaf(weights.of[7], read(1, 1, 1), sum);
}

// The same sum, reading only what PyTorch reads: for non-finite features and for axes of a single voxel.
template <typename Read>
SADTRT_HOST_DEVICE float sum_corners(const Pair& z, const Pair& y, const Pair& x, const Axis& depth,
                                     const Axis& height, const Axis& width, bool in_half, Read read) {
    const CornerWeights weights = corner_weights(z, y, x, in_half);
    float sum = 0.0f;
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (int corner = 0; corner < 8; ++corner) {
        const bool reads_z = (corner & 4) ? reads_upper(z, depth) : reads_lower(z);
        const bool reads_y = (corner & 2) ? reads_upper(y, height) : reads_lower(y);
        const bool reads_x = (corner & 1) ? reads_upper(x, width) : reads_lower(x);
        if (reads_z && reads_y && reads_x) {
            sum = fmaf(weights.of[corner], read(corner >> 2, (corner >> 1) & 1, corner & 1), sum);
        }
    }
    return sum;
}

// The largest fp32 number not above value: beyond 2^24 voxels a limit rounded up would lie outside the volume.
inline float at_most(double value) {
    const float rounded = static_cast<float>(value);
    return static_cast<double>(rounded) > value ? nextafterf(rounded, -INFINITY) : rounded;
}

// Host only: the constants of one axis. size must be at least 1 and below 2^31.
inline Axis make_axis(int64_t size, bool align_corners, Padding padding) {
    const double voxels = static_cast<double>(size);
    Axis axis;
    axis.scale = static_cast<float>(align_corners ? (voxels - 1.0) / 2.0 : voxels / 2.0);
    axis.shift = static_cast<float>((voxels - 1.0) / 2.0);
    axis.last_base = size >= 2 ? at_most(voxels - 2.0) : 0.0f;
    const bool clips = padding != Padding::kZeros;
    axis.nearest_low = clips ? 0.0f : -1.0f;
    axis.nearest_high = clips ? at_most(voxels - 1.0) : static_cast<float>(voxels);
    axis.plain_shift = kOrigin + axis.shift;
    axis.plain_last = kOrigin + axis.last_base;
    axis.size = static_cast<int32_t>(size);
    if (clips && size == 1) {
        axis.scale = 0.0f;  // one voxel, clipped: the position is 0 wherever the coordinate points
        axis.shift = 0.0f;
    }
    return axis;
}

}  // namespace sadtrt
