"""A session's own promises: what a run records of its conditions, and that a plan is read once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sadtrt_core.benchmark import skipped
from sadtrt_core.config import RunConfig
from sadtrt_core.measure.drift import Reference
from sadtrt_core.plan import precision_digest
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.records.measurements import Drift
from sadtrt_core.records.store import read_run
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.session import Session

PLAN = 'format = "sadtrt plan 1"\nbase = "float16"\nwhy = "to try"\n[[keep]]\nnodes = ["{}"]\nwhy = "to try"\n'


def make_session(renderer: Renderer, folder: Path, **options: object) -> Session:
    given = {"weights": "seeded", "frames": 1, "device": "cpu", "grid_sample": "native", "cache": folder}
    made = Session(RunConfig(**{**given, "results": folder / "results", **options}))
    made.__dict__["renderer"] = renderer
    return made


def recorded_options(session: Session, precision: str) -> dict[str, str]:
    session.writer.add(skipped(session.case("generator", "onnxruntime", precision), "not of interest"))
    return read_run(session.writer.folder).options


def test_a_plan_is_read_once_and_the_record_says_which_it_was(seeded_demo: Renderer, tmp_path: Path) -> None:
    plan = tmp_path / "mine.toml"
    plan.write_text(PLAN.format("coordinates"))
    first = make_session(seeded_demo, tmp_path, precisions=(str(plan),))
    first.check()
    plan.write_text(PLAN.format("/decoder/*"))
    assert first.job(first.case("generator", "onnxruntime", str(plan))).precision.keep_coordinates
    second = make_session(seeded_demo, tmp_path, precisions=(str(plan),))
    second.check()
    before, after = (recorded_options(session, str(plan))["plan mine"] for session in (first, second))
    assert before != after


def test_the_number_of_threads_is_recorded_where_it_sets_the_times(seeded_demo: Renderer, tmp_path: Path) -> None:
    options = recorded_options(make_session(seeded_demo, tmp_path), "fp32")
    assert options["threads"] == str(torch.get_num_threads())
    assert not [name for name in options if name.startswith("plan ")]


def test_variables_that_override_the_arithmetic_are_recorded(
    seeded_demo: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "NVIDIA_TF32_OVERRIDE" not in recorded_options(make_session(seeded_demo, tmp_path), "fp32")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert recorded_options(make_session(seeded_demo, tmp_path), "fp32")["NVIDIA_TF32_OVERRIDE"] == "0"


def test_a_reference_as_far_off_as_tf32_judges_nothing() -> None:
    def against(decibels: float) -> Reference:
        return Reference(torch.zeros(1, 3, 8, 8), True, Drift((decibels,), (1.0,), (0,), (False,)))

    assert against(110.0).sound
    assert not against(90.0).sound


@pytest.mark.parametrize("weights", ["/home/somebody/second.safetensors", "second.safetensors"])
def test_the_record_names_a_weights_file_without_its_folder(
    seeded_demo: Renderer, tmp_path: Path, weights: str
) -> None:
    assert recorded_options(make_session(seeded_demo, tmp_path, weights=weights), "fp32")["weights"] == (
        "second.safetensors"
    )


def test_a_precision_s_digest_is_what_it_computes() -> None:
    from dataclasses import replace

    fp16 = PRECISIONS["fp16"]
    assert precision_digest(replace(fp16, name="mine", why="because")) == precision_digest(fp16)
    assert precision_digest(replace(fp16, keep_picture=True)) != precision_digest(fp16)
