// The operators of the library: one line each here, and a folder that holds their sources.
#pragma once

#include "operator.h"

namespace sadtrt {

extern const Operator kGridSample3D;  // grid_sample_3d/operator.cpp
extern const Operator kMotionInput;   // dense_motion/operator.cpp
extern const Operator kMotionSum;     // dense_motion/operator.cpp
extern const Operator kSplitSum;      // split_sum/operator.cpp
extern const Operator kSplitSumJoin;  // the same folder
extern const Operator kFoldDepth;     // fold_depth/operator.cpp
extern const Operator kPictureConv;   // picture_conv/operator.cpp
extern const Operator kSpadeNorm;     // spade_norm/operator.cpp
extern const Operator kSpadeNormAdd;  // the same folder
extern const Operator kSpadeNormInt8;     // the same folder
extern const Operator kSpadeNormAddInt8;  // the same folder

inline const Operator* const kOperators[] = {
    &kGridSample3D,
    &kMotionInput,
    &kMotionSum,
    &kSplitSum,
    &kSplitSumJoin,
    &kFoldDepth,
    &kPictureConv,
    &kSpadeNorm,
    &kSpadeNormAdd,
    &kSpadeNormInt8,
    &kSpadeNormAddInt8,
};

}  // namespace sadtrt
