"""The nodes that the plugin library computes, and which of their tensors are float32 whatever type the others have."""

from __future__ import annotations

from sadtrt_core.renderer.sampling import NODE_TYPE

MOTION_INPUT = "MotionInput"
MOTION_SUM = "MotionSum"
VOLUME_RESIZE = "VolumeResize"
VOLUME_JOIN_DOUBLE = "VolumeJoinDouble"
FOLD_DEPTH = "FoldDepth"
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
#: Operators whose output is coordinates.
COORDINATE_OUTPUTS = frozenset({MOTION_SUM})
PLUGIN_NODES = frozenset(
    {*COORDINATE_INPUTS, VOLUME_RESIZE, VOLUME_JOIN_DOUBLE, FOLD_DEPTH, *INT8_NORMS, *INT8_NORMS.values()}
)
