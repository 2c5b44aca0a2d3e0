"""An engine's layers as its inspector tells them: what repeats a sampler's volume is found, what computes is not."""

from __future__ import annotations

import json

import pytest

from sadtrt_core.engine.layers import copies_before, kinds, parse_layers


def tensor(name, *shape, kind="Row major linear FP16 format"):
    return {"Name": name, "Location": "Device", "Dimensions": list(shape), "Format/Datatype": kind}


def layer(kind, name, inputs, output, **more):
    return {"Name": name, "LayerType": kind, "Inputs": inputs, "Outputs": [output], **more}


SHARED, TILED = tensor("features", 1, 4, 16, 64, 64), tensor("tiled", 16, 4, 16, 64, 64)
GRID = tensor("grid", 16, 16, 64, 64, 3, kind="Row major linear FP32")
SAMPLES = tensor("samples", 16, 4, 16, 64, 64)
CONVOLUTION = layer("CaskConvolution", "/compress/Conv", [tensor("x", 1, 32, 16, 64, 64)], SHARED)


def engine(*layers):
    return parse_layers(json.dumps({"Layers": layers, "Bindings": []}))


def sampler(volume):
    return layer("PluginV2", "/GridSample3D", [volume, GRID], SAMPLES, PluginType="GridSample3D")


def test_a_shared_volume_that_nothing_copies_has_nothing_before_the_sampler():
    layers = engine(CONVOLUTION, sampler(SHARED))
    assert copies_before(layers, "GridSample3D", 0) == ()
    assert kinds(layers) == {"CaskConvolution": 1, "GridSample3D": 1}
    assert layers[1].inputs[1].shape == (16, 16, 64, 64, 3)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("Slice", "/Expand_12"), ("Reformat", "copy of /Tile"), ("kgen", "/a+Tile_1"), ("Concat", "/c")],
)
def test_whatever_repeats_the_volume_is_found_through_other_copies(kind, name):
    reformatted = {**TILED, "Name": "reformatted"}
    layers = engine(
        CONVOLUTION,
        layer(kind, name, [SHARED], TILED),
        layer("Reformat", "Reformatting CopyNode for Input Tensor 0 to /GridSample3D", [TILED], reformatted),
        sampler(reformatted),
    )
    found = copies_before(layers, "GridSample3D", 0)
    assert [(one.kind, one.repeats) for one in found] == [("Reformat", False), (kind, True)]
    assert copies_before(layers, "GridSample3D", 1) == ()


def test_control_characters_in_names_are_read_and_bare_names_refused():
    text = json.dumps({"Layers": [CONVOLUTION]}).replace("/compress/Conv", "/compress\x1f/Conv")
    assert parse_layers(text)[0].name == "/compress\x1f/Conv"
    with pytest.raises(RuntimeError, match="without detailed profiling verbosity"):
        parse_layers('{"Layers": ["/compress/Conv"]}')
