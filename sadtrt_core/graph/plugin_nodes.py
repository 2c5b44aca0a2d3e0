"""The nodes that the plugin library computes, and which of their tensors are float32 whatever type the others have."""

from __future__ import annotations

from sadtrt_core.renderer.sampling import NODE_TYPE

MOTION_INPUT = "MotionInput"
MOTION_SUM = "MotionSum"
SPLIT_SUM = "SplitSum"
SPLIT_SUM_JOIN = "SplitSumJoin"
FOLD_DEPTH = "FoldDepth"
PICTURE_CONV = "PictureConv"
SPADE_NORM = "SpadeNorm"
SPADE_NORM_ADD = "SpadeNormAdd"
#: SPADE norms whose last output, which is normalised, is int8 of the scale that the node names.
INT8_NORMS = {SPADE_NORM: f"{SPADE_NORM}Int8", SPADE_NORM_ADD: f"{SPADE_NORM_ADD}Int8"}
PLUGIN_VERSION = "1"
"""Attribute plugin_version of every node."""

#: Operator to the positions of its inputs that are coordinates.
COORDINATE_INPUTS = {
    NODE_TYPE: frozenset({1}),
    MOTION_INPUT: frozenset({1, 2}),
    MOTION_SUM: frozenset({1, 2}),
}
#: Operator to the positions of its inputs that are float32 whatever the others are; a sampler's grid may be rounded.
FLOAT32_INPUTS = {
    MOTION_INPUT: COORDINATE_INPUTS[MOTION_INPUT],
    MOTION_SUM: COORDINATE_INPUTS[MOTION_SUM],
    PICTURE_CONV: frozenset({1, 2}),
    SPLIT_SUM: frozenset({1}),
    SPLIT_SUM_JOIN: frozenset({1}),
}
#: Operators whose output is float32: coordinates, and the picture.
FLOAT32_OUTPUTS = frozenset({MOTION_SUM, PICTURE_CONV})
PLUGIN_NODES = frozenset(
    {*COORDINATE_INPUTS, SPLIT_SUM, SPLIT_SUM_JOIN, FOLD_DEPTH, PICTURE_CONV, *INT8_NORMS, *INT8_NORMS.values()}
)
