"""An engine's layers as its inspector tells them: what repeats a volume, and the types convolutions sum in."""

from __future__ import annotations

import json

import pytest

from bench.studies.engine_layers import accumulators, between_convolutions, copies_before, kinds, parse_layers


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
    assert layers[1].inputs[1][1] == (16, 16, 64, 64, 3)


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


XMMA = "sm80_xmma_fprop_implicit_gemm_{}_nhwckrsc_nhwc_tilesize128x64x32_stage3_warpsize2x2x1_g1_tensor16x8x16_t1r3s3"


@pytest.mark.parametrize(
    ("tactic", "accumulator"),
    [
        ({"TacticName": XMMA.format("f16f16_f16f16_f16")}, "float16"),
        ({"TacticName": XMMA.format("f16f16_f16f32_f32"), "TacticValue": "0x11bde0e1d9f2f35d"}, "float32"),
        ({"tacticName": XMMA.format("indexed_wo_smem_tf32tf32_tf32f32_f32")}, "float32"),
        ({"TacticName": XMMA.format("interleaved_i8f32_i8i32_f32")}, "int32"),
        ({"TacticValue": XMMA.format("f16f16_f16f16_f16")}, "float16"),
        ({"TacticName": "turing_h1688cudnn_256x64_ldg8_relu_exp_small_nhwc_tn_v1"}, "float16"),
        ({"TacticName": "ampere_fp16_s16816cudnn_fp16_128x64_ldg8_f2f_exp_small_nhwc_tn_v1"}, "float32"),
        ({"TacticName": "sm50_xmma_conv_fprop_fused_conv_act_fp32_NCHW_fp32_KCRS_fp32_Accfloat_1_1_cC1"}, "float32"),
        ({"TacticName": "", "TacticValue": "0xf16f32"}, "unknown"),
        ({"TacticValue": 1002}, "unknown"),
        ({"TacticName": None}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_the_type_a_convolution_sums_in_is_read_from_its_tactics_name(tactic, accumulator):
    (one,) = engine({**CONVOLUTION, **tactic})
    assert one.accumulator == accumulator


def test_only_convolutions_are_counted_by_accumulator():
    half, single = ({"TacticName": XMMA.format(types)} for types in ("f16f16_f16f16_f16", "f16f16_f16f32_f32"))
    layers = engine(
        {**CONVOLUTION, **half},
        {**CONVOLUTION, **half, "LayerType": "CaskFusedThing"},
        {**CONVOLUTION, **single},
        CONVOLUTION,
        layer("Reformat", "a copy", [SHARED], TILED, TacticValue="0x3e8"),
        sampler(SHARED),
    )
    assert accumulators(layers) == {"float16": 2, "float32": 1, "unknown": 1}


def test_what_stands_between_two_convolutions_is_found_and_what_is_before_and_behind_them_is_not():
    def chain(*kinds_and_names):
        tensors = [tensor(f"t{i}", 1, 64, 64, 64) for i in range(len(kinds_and_names) + 1)]
        return engine(
            *(
                layer(
                    kind,
                    name,
                    [tensors[i]],
                    tensors[i + 1],
                    **({"PluginType": "SpadeNorm"} if "Plugin" in kind else {}),
                )
                for i, (kind, name) in enumerate(kinds_and_names)
            )
        )

    layers = chain(
        ("Reformat", "before"),
        ("CaskConvolution", "/decoder/conv_0/Conv"),
        ("PluginV2", "/decoder/norm"),
        ("Reformat", "between"),
        ("CaskConvolution", "/decoder/conv_1/Conv"),
        ("Myelin", "{ForeignNode[/decoder/Mul...]}"),
        ("CaskConvolution", "/decoder/conv_2/Conv"),
        ("Reformat", "behind"),
        ("CaskConvolution", "/mask/Conv"),
    )
    assert [one.name for one in between_convolutions(layers, "/decoder/")] == [
        "between",
        "{ForeignNode[/decoder/Mul...]}",
    ]
