"""Sampling a volume by itself: our kernel, engines, and PyTorch, beside what the device's memory gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sadtrt_core.engine.job import TOLERANCE
from sadtrt_core.errors import BuildError
from sadtrt_core.plan import precision_named
from sadtrt_core.precision import PRECISIONS, TORCH_TYPES, ComputeType
from sadtrt_core.progress import make_console
from sadtrt_core.sampling.methods import SAMPLING_METHODS, MethodAt, SamplingMethod, build_sampler_engines
from sadtrt_core.sampling.shapes import SamplingShape, Setting, renderer_grids, renderer_shapes, renderer_volume
from sadtrt_core.sampling.torch_forms import expanded
from sadtrt_core.session import Session

FEATURES: tuple[ComputeType, ...] = ("float32", "float16")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every method at every shape in every type that the options leave; one skipped row where they leave none."""
    option = metafunc.config.getoption
    features = {precision_named(name).compute for name in option("precision") or PRECISIONS}
    rows = [
        pytest.param(shape, kind, method, id=f"{shape.name}, {kind}, {method.name}")
        for batch in option("batch") or [1]
        for shape in renderer_shapes(batch)
        for kind in FEATURES
        for method in SAMPLING_METHODS.values()
        if method.applies(shape, TORCH_TYPES[kind])
        and kind in features
        and (not option("runner") or method.runner in option("runner"))
        and (option("grid_sample") == "auto" or method.grid_sample in (None, option("grid_sample")))
    ]
    reason = None if rows else "no way to sample a volume is left by --runner, --precision and --grid-sample"
    if option("stage"):
        reason = "--stage was given, and sampling a volume by itself is no stage"
    if reason is not None:
        rows = [pytest.param(None, None, None, id="none", marks=pytest.mark.skip(reason=reason))]
    metafunc.parametrize(("shape", "features", "method"), rows)


def _setting(session: Session, shape: SamplingShape, features: ComputeType) -> Setting:
    options, dtype = session.options, TORCH_TYPES[features]
    return Setting(shape, dtype, session.device, options.cache, options.optimization_level, session.report)


@pytest.fixture(scope="module")
def unbuilt(session: Session, request: pytest.FixtureRequest) -> dict[MethodAt, str]:
    """Why, for each row whose engine could not be built; the engines of all others are in the cache by now."""
    collected = [getattr(item, "callspec", None) for item in request.session.items]
    rows = [
        (call.params["method"], _setting(session, call.params["shape"], call.params["features"]))
        for call in collected
        if call is not None and isinstance(call.params.get("method"), SamplingMethod)
    ]
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        return build_sampler_engines(rows, session.options.jobs, make_console())


def test_grid_sample(
    shape: SamplingShape,
    features: ComputeType,
    method: SamplingMethod,
    session: Session,
    time_operator: Callable[..., None],
    unbuilt: dict[MethodAt, str],
) -> None:
    setting = _setting(session, shape, features)
    reason = method.absence(setting)
    if reason is None and session.device.type == "cpu" and 4 * shape.size > session.options.size:
        reason = f"{4 * shape.size} pixels take a CPU a second a call (--size {4 * shape.size})"
    if reason is not None:
        pytest.skip(reason)
    if (broken := unbuilt.get((method, setting))) is not None:
        raise BuildError(broken)
    with torch.inference_mode(), method.open(setting) as launcher:
        volume, grid = _tensors(setting, 0)
        difference = _difference(launcher(volume, grid)(), volume, grid)
        if method.exact_coordinates or features == "float32":
            assert difference <= TOLERANCE[features], f"differs from PyTorch by {difference:.3g}: not worth timing"
        time_operator(
            "grid sample",
            lambda seed: launcher(*_tensors(setting, seed)),
            shape=shape.name,
            dtype=features,
            method=method.name,
            bytes_moved=shape.bytes_moved(setting.dtype.itemsize),
            max_difference=difference,
        )


def _tensors(setting: Setting, seed: int) -> tuple[Tensor, Tensor]:
    volume = renderer_volume(setting.shape, setting.dtype, setting.device, seed)
    return volume, renderer_grids(setting.shape, setting.device, seed)


def _difference(samples: Tensor, volume: Tensor, grid: Tensor) -> float:
    """Largest difference of samples from PyTorch's, computed in fp32 on the features as they are."""
    repeats = grid.shape[0] // volume.shape[0]
    expected = F.grid_sample(expanded(volume.float(), repeats), grid, align_corners=False)
    return (samples.float() - expected).abs().max().item()
