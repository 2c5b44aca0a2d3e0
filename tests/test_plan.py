"""Plan files: written, read back, refused when damaged, and taken wherever a precision is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadtrt_core.config import RunConfig
from sadtrt_core.errors import UserError
from sadtrt_core.graph.edit import element_types
from sadtrt_core.graph.export import typed_graph
from sadtrt_core.plan import FORMAT, Keep, Plan, Quantize, plan_text, precision_named, read_plan, write_plan
from sadtrt_core.renderer.stages import GRAPH_STAGES, STAGES

PLAN = Plan(
    "sixty",
    "float16",
    'holds 60 dB; "quoted" \\ and\nbroken over lines, é',
    (Keep(("coordinates", "picture"), "+14 dB"), Keep(("/decoder/up_1/*", "/fourth/Conv"), "+3 dB for 2 %")),
    {"psnr_min_db": 61.25, "max_lsb": 2, "meaningful": True, "reference": "pytorch fp32"},
    {"sadtrt": "0.1.0"},
)


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "sixty.toml"
    write_plan(PLAN, path)
    return path


def test_a_plan_is_read_back_as_it_was_written(plan_file):
    assert read_plan(plan_file) == PLAN


texts = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs")), min_size=1).filter(lambda text: text.strip())
patterns = st.sampled_from(["coordinates", "picture"]) | st.text("abcXYZ019_./*?[]", max_size=30).map(
    lambda text: f"/{text}"
)


@settings(max_examples=60, deadline=None)
@given(
    why=texts,
    keep=st.lists(st.builds(Keep, st.lists(patterns, min_size=1, max_size=3).map(tuple), texts), max_size=3),
    facts=st.dictionaries(
        st.text("abc_09", min_size=1, max_size=9),
        st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    ),
)
def test_any_plan_survives_its_file(tmp_path_factory, why, keep, facts):
    plan = Plan("any", "bfloat16", why, tuple(keep), facts, facts)
    path = tmp_path_factory.mktemp("plans") / "any.toml"
    write_plan(plan, path)
    assert read_plan(path) == plan


def test_a_plan_is_a_precision_by_its_path(plan_file):
    precision = precision_named(str(plan_file))
    assert precision == PLAN.precision
    assert (precision.name, precision.compute) == ("sixty", "float16")
    assert precision.keep_coordinates
    assert precision.keep_picture
    assert precision.keep_nodes == ("/decoder/up_1/*", "/fourth/Conv")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "it is of another format: expected format = 'sadtrt plan 1'"),
        ("format = 'sadtrt plan 9'", "it is of another format"),
        ("format = ", "is not a TOML file"),
        ("base='float16'\nwhy='x'\ntactic='y'", "the plan has the unknown field 'tactic'"),
        ("why='x'", "the plan lacks the field 'base'"),
        ("base='float32'\nwhy='x'", "base type 'float32' is not one a plan can have: expected float16 or bfloat16"),
        ("base='float16'\nwhy=' '", "why is empty"),
        ("base='float16'\nwhy='x'\nname='other'", "the plan has the unknown field 'name'"),
        ("base='float16'", "the plan lacks the field 'why'"),
        ("base='float16'\nwhy='x'\nkeep='all'", "the plan.keep should be a list but is 'all'"),
        (
            "base='float16'\nwhy='x'\n[[keep]]\nnodes='/a'\nwhy='y'",
            "the plan.keep[0].nodes should be a list but is '/a'",
        ),
        ("base='float16'\nwhy='x'\n[[keep]]\nnodes=[]\nwhy='y'", "names no node"),
        ("base='float16'\nwhy='x'\n[[keep]]\nnodes=['decoder']\nwhy='y'", "'decoder' cannot name a node"),
        (
            "base='float16'\nwhy='x'\n[measured]\npsnr=[1]",
            "the plan.measured['psnr'] should be text or",
        ),
    ],
)
def test_a_damaged_plan_is_refused_in_one_sentence(tmp_path, text, fault):
    path = tmp_path / "bad.toml"
    path.write_text(text if "format" in text or not text else f"format = {FORMAT!r}\n{text}")
    with pytest.raises(UserError) as refused:
        read_plan(path)
    assert fault in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_are_no_plans_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nowhere\.toml: No such file"):
        precision_named(str(tmp_path / "nowhere.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a TOML file"):
        read_plan(tmp_path / "bytes.toml")
    (tmp_path / "long.toml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(UserError, match="has more than the 1 MB"):
        read_plan(tmp_path / "long.toml")


def test_a_plan_cannot_pass_for_a_built_in_precision(tmp_path):
    path = tmp_path / "fp16.toml"
    path.write_text(plan_text(PLAN))
    with pytest.raises(UserError, match="cannot be called 'fp16': that is a built-in precision; rename the file"):
        read_plan(path)
    with pytest.raises(UserError, match="cannot be called 'a b'"):
        Plan("a b", "float16", "why")


def test_a_failed_write_leaves_the_old_plan(plan_file):
    with pytest.raises(UserError, match="psnr is inf: leave out what has no number"):
        write_plan(Plan("sixty", "float16", "why", measured={"psnr": float("inf")}), plan_file)
    with pytest.raises(UserError, match=r"expected sixty\.toml"):
        write_plan(PLAN, plan_file.with_name("other.toml"))
    assert read_plan(plan_file) == PLAN
    assert os.listdir(plan_file.parent) == ["sixty.toml"]


def convolution_types(graph: bytes) -> dict[str, int]:
    model = onnx.load_from_string(graph)
    types = element_types(model)
    return {node.name: types[node.input[1]] for node in model.graph.node if node.op_type == "Conv"}


def test_a_plan_keeps_the_same_nodes_in_the_generator_and_in_its_parts(tiny, plan_file, tmp_path):
    precision = precision_named(str(plan_file))
    found = {
        name: convolution_types(typed_graph(tiny, STAGES[name], precision, "native", tmp_path)) for name in GRAPH_STAGES
    }
    kept = {name for name, kind in found["generator"].items() if kind == onnx.TensorProto.FLOAT}
    assert kept == {name for name in found["generator"] if name.startswith("/decoder/up_1/")} | {
        "/fourth/Conv",
        "/decoder/conv_img/Conv",  # The picture is kept.
    }
    parts = {node: kind for name in ("appearance", "motion", "warp", "decode") for node, kind in found[name].items()}
    assert parts == found["generator"]


def test_a_pattern_that_names_nothing_is_refused(tiny, tmp_path):
    plan = Plan("stale", "float16", "a test", (Keep(("/decoder/up_1/*", "/decoder/up_9/*"), "once"),)).precision
    with pytest.raises(ValueError, match=r"'stale' names '/decoder/up_9/\*', which matches no node") as refused:
        typed_graph(tiny, STAGES["generator"], plan, "native", tmp_path)
    assert "search again" in str(refused.value)
    for stage in ("warp", "mapping"):
        with pytest.raises(ValueError, match="matches no node"):
            typed_graph(tiny, STAGES[stage], plan, "native", tmp_path)
    # Nodes of the keypoint detector are not the generator's, but they are the renderer's.
    detector = next(
        name
        for name in convolution_types(
            typed_graph(tiny, STAGES["keypoints"], precision_named("fp32"), "native", tmp_path)
        )
    )
    other = Plan("other", "float16", "a test", (Keep((detector,), "one"),)).precision
    for stage in ("generator", "warp"):
        typed_graph(tiny, STAGES[stage], other, "native", tmp_path)


def test_what_a_plan_quantizes_has_to_be_there(tiny, tmp_path):
    def precision(pattern):
        return Plan("eight", "float16", "a test", quantize=Quantize("int8", (pattern,), "a test")).precision

    with pytest.raises(ValueError, match="names '/decoder/G_middle_9/\\*', which matches no node"):
        typed_graph(tiny, STAGES["decode"], precision("/decoder/G_middle_9/*"), "native", tmp_path)
    with pytest.raises(UserError, match="quantizes 2 convolutions here and needs their ranges"):
        typed_graph(tiny, STAGES["decode"], precision("/decoder/G_middle_1/conv_?/*"), "native", tmp_path)
    with pytest.raises(UserError, match="patterns that start with a slash"):
        precision("coordinates")


def test_benchmarks_take_a_plan_by_its_path(plan_file):
    """The option itself: `pytest bench/ --precision path/to/plan.toml`."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "bench/test_precision_drift.py", "--collect-only", "-q"]
    command += ["-p", "no:cacheprovider", "--precision", "fp16", "--precision", str(plan_file)]
    taken = subprocess.run(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )
    assert taken.returncode == 0, taken.stdout
    assert "sixty.toml" in taken.stdout


def test_a_run_refuses_plans_of_one_name_and_files_that_are_none(plan_file, tmp_path):
    twin = tmp_path / "other" / "sixty.toml"
    write_plan(PLAN, twin)
    with pytest.raises(UserError, match="are both called 'sixty': rename one"):
        RunConfig(precisions=(str(plan_file), str(twin)))
    with pytest.raises(UserError, match="cannot read"):
        RunConfig(precisions=(str(tmp_path / "none.toml"),))
