// The operators of the library: one line each here, and a folder that holds its sources.
#pragma once

#include "operator.h"

namespace sadtrt {

extern const Operator kGridSample3D;  // grid_sample_3d/operator.cpp
extern const Operator kMotionInput;   // dense_motion/operator.cpp
extern const Operator kMotionSum;     // dense_motion/operator.cpp
extern const Operator kVolumeResize;  // volume_resize/operator.cpp

inline const Operator* const kOperators[] = {
    &kGridSample3D,
    &kMotionInput,
    &kMotionSum,
    &kVolumeResize,
};

}  // namespace sadtrt
