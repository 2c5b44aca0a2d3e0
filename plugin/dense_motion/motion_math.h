// Coordinates and motions of dense motion, as sadtrt_core/renderer/motion.py defines them: for the kernels and the host.
#pragma once

#include "../grid_sample_3d/sampling_math.h"

namespace sadtrt {

// The coordinate of a voxel: -1..1 inclusive in equal steps. Numerator and denominator are exact, so this rounds once.
SADTRT_HOST_DEVICE float coordinate_of(uint32_t index, int32_t size) {
    return static_cast<float>(2 * static_cast<int32_t>(index) - (size - 1)) / static_cast<float>(size - 1);
}

// One motion: where a coordinate is taken from, axis by axis x, y, z.
struct Translation {
    float driving[3];
    float source[3];
};

// Rounded like PyTorch's: grid - driving, then + source.
SADTRT_HOST_DEVICE float moved(float coordinate, const Translation& motion, int axis) {
    return (coordinate - motion.driving[axis]) + motion.source[axis];
}

// The voxel position that a plain pair begins at.
SADTRT_HOST_DEVICE uint32_t base_of(const PlainPair& pair) { return (pair.bits - kOriginBits) >> 1; }

}  // namespace sadtrt
