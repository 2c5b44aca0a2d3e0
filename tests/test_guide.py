"""What the guide says, to the letter: save the generator, record a call, and see that both belong together."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from sadtrt_core.benchmark import measure_drift, measure_latency
from sadtrt_core.config import RunConfig
from sadtrt_core.measure.interleave import Interleaver, take_samples
from sadtrt_core.records.schema import Record
from sadtrt_core.renderer.checkpoint import load_checkpoint
from sadtrt_core.renderer.generator import Generator
from sadtrt_core.renderer.renderer import Renderer, seeded_state
from sadtrt_core.renderer.workload import make_workload
from sadtrt_core.session import Session


@pytest.fixture
def guide(tiny_256: Renderer, tmp_path: Path) -> Path:
    """A folder with model.pth and, in recorded/, what a call of batch 2 was given and gave."""
    generator = Generator(tiny_256.config).eval()
    state = seeded_state(generator.state_dict())
    generator.load_state_dict({name: value * 1.1 if name.endswith("bias") else value for name, value in state.items()})
    torch.save(generator.state_dict(), tmp_path / "model.pth")
    work = make_workload(tiny_256.config, 2)
    image, source = work.source_image.repeat(2, 1, 1, 1), {"value": work.kp_source.repeat(2, 1, 1)}
    driving = work.kp_driving
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    torch.save(image, recorded / "source_image.pt")
    torch.save(source, recorded / "kp_source.pt")
    torch.save(driving, recorded / "kp_driving.pt")
    torch.save(generator(image, driving, source["value"]), recorded / "prediction.pt")
    return tmp_path


@pytest.fixture
def session(guide: Path, tiny_256: Renderer) -> Session:
    options = RunConfig(samples=guide / "recorded", device="cpu", cache=guide / "cache", results=guide / "results")
    made = Session(options)
    made.__dict__["renderer"] = load_checkpoint(guide / "model.pth", 256, config=tiny_256.config)
    return made


def test_the_checkpoint_is_the_one_that_made_the_prediction(session: Session) -> None:
    assert session.prediction_line is None, "nothing is rendered for its sake alone"
    record, _ = measure_drift(session, session.case("generator", "pytorch", "fp32"), lambda _: session.reference.frames)
    assert session.prediction_line is not None
    assert session.prediction_line in record.notes
    assert "at most 1 LSB" in session.prediction_line or "identical" in session.prediction_line
    assert "other weights" not in session.prediction_line


def test_another_checkpoint_is_seen_not_to_have_made_it(session: Session, tiny_256: Renderer) -> None:
    generator = Generator(tiny_256.config)
    state = seeded_state(generator.state_dict())
    state["decoder.conv_img.bias"] = state["decoder.conv_img.bias"] + 1
    path = session.options.cache.parent / "other.pth"
    torch.save(state, path)
    session.__dict__["renderer"] = load_checkpoint(path, 256, config=tiny_256.config)
    assert session.reference.sound
    assert "other weights or inputs made it" in str(session.prediction_line)


def test_a_row_of_a_network_that_is_not_in_the_file_says_so(session: Session) -> None:
    seen: list[Record] = []
    with contextlib.closing(Interleaver(session.timing_plan)) as waiting:
        case = session.case("keypoints", "pytorch", "fp32")
        measure_latency(session, case, waiting, take_samples, seen.append, lambda error: pytest.fail(str(error)))
    assert "no trained weights of kp_extractor: seeded by entry name" in seen[0].notes
