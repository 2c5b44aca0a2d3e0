"""What a run is asked for: one field for each option, from which pytest's and the commands' options are made."""

from __future__ import annotations

import dataclasses
import functools
import os
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sadtrt_core.case import GRAPH_GRID_SAMPLES
from sadtrt_core.errors import UserError, printable
from sadtrt_core.graph.calibrate import METHODS
from sadtrt_core.plan import precision_named
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.renderer.standin import WEIGHTS_HELP
from sadtrt_core.renderer.workload import FRAMES, MOST_FRAMES
from sadtrt_core.runners.registry import RUNNERS


def default_cache() -> Path:
    """Where graphs, engines and fitted weights are kept: $SADTRT_CACHE, else the user's cache folder."""
    named = os.environ.get("SADTRT_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sadtrt"


@dataclass(frozen=True)
class Option:
    """How a field of RunConfig is offered: as `--flag`, each value of `type`, several of them where `repeatable`.

    `default` is None where the flag may be left out and something else stands in, which `unset` describes. `choices`
    are the values there are; `open` lets others in, which RunConfig then checks itself. Numbers
    lie between `least` and `most`.
    """

    field: str
    flag: str
    type: type
    repeatable: bool
    default: Any
    help: str
    choices: Collection[Any] = ()
    open: bool = False
    least: int | None = None
    most: int | None = None
    unset: str | None = None

    @property
    def dest(self) -> str:
        """The name under which a parser keeps the value."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def text(self) -> str:
        """What the option is for, with the choices that its table holds by now."""
        return self.help.format(choices=", ".join(map(str, self.choices)))

    def check(self, value: Any) -> None:
        """Raises UserError for a value that is none of the choices, or below the least."""
        if self.choices and not self.open and value not in self.choices:
            known = ", ".join(map(str, self.choices))
            raise UserError(f"{self.flag} {value!r} is not known: expected one of {known}")
        if self.least is not None and value < self.least:
            raise UserError(f"{self.flag} must be {self.least} or more but is {value}")
        if self.most is not None and value > self.most:
            raise UserError(f"{self.flag} must be {self.most} or less but is {value}")


def option(
    default: Any, help: str, *, flag: str | None = None, factory: Callable[[], Any] | None = None, **about: Any
) -> Any:
    """A field of RunConfig that is an option as well; see Option. Without `flag` the field's name is the flag."""
    metadata = {"flag": flag, "about": {"default": default, "help": help, **about}}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class RunConfig:
    """What a run was asked for. Sizes in pixels, frames and batches in frames.

    What is repeatable is () where it was not given, which stands for all there are (of batches, for 1). Raises
    UserError, the same sentence whoever asks, for a value that is not known, too small, or excluded by another.
    """

    size: int = option(256, "image size in pixels: {choices}", choices=(256, 512))
    weights: str = option("auto", f"weights without a checkpoint: {WEIGHTS_HELP}")
    checkpoint: Path | None = option(None, "SadTalker's .safetensors, .pth or .pth.tar")
    mapping_checkpoint: Path | None = option(None, "the mapping network's own .pth.tar")
    source_images: tuple[Path, ...] = option(
        (),
        "a picture to animate instead of the built-in portrait, or a folder of them; drift is over all, times are of "
        "the first",
        flag="--source-image",
    )
    samples: Path | None = option(
        None, "folder of source_image.pt, kp_driving.pt, kp_source.pt, and prediction.pt to compare"
    )
    calibration_method: str = option("minmax", "how ranges for int8 and fp8 are chosen: {choices}", choices=METHODS)
    calibration_image: Path | None = option(None, "a second portrait that ranges for int8 and fp8 are measured on too")
    frames: int | None = option(
        None,
        "frames of the driving sequence; of recorded ones, the first",
        least=1,
        most=MOST_FRAMES,
        unset=f"{FRAMES}, or all that were recorded",
    )
    clip_frames: int | None = option(
        None, "frames of the clip stage", least=1, most=MOST_FRAMES, unset="16 on a GPU, 2 on a CPU"
    )
    stages: tuple[str, ...] = option((), "only this stage: {choices}", flag="--stage", choices=STAGES)
    runners: tuple[str, ...] = option(
        (),
        "only this runner: {choices} (torch-compile-default, torch-compile-max-autotune, and any torch-compile on a "
        "CPU run only when named)",
        flag="--runner",
        choices=RUNNERS,
    )
    precisions: tuple[str, ...] = option(
        (),
        "only this precision: {choices}, or a plan's .toml file",
        flag="--precision",
        choices=PRECISIONS,
        open=True,
    )
    batches: tuple[int, ...] = option(
        (), "batch size", flag="--batch", least=1, most=MOST_FRAMES, unset="1; on a GPU 2 and 8 of some rows too"
    )
    device: str = option("auto", "where runners compute: {choices}", choices=("auto", "cuda", "cpu"))
    grid_sample: str = option(
        "auto",
        "how exported graphs sample a volume: {choices}; auto is the plugin where it is built, else native",
        choices=("auto", *GRAPH_GRID_SAMPLES),
    )
    cache: Path = option(
        None,
        "folder of graphs, engines, weights, timing cache",
        unset="$SADTRT_CACHE or ~/.cache/sadtrt",
        factory=default_cache,
    )
    results: Path = option(Path("results"), "folder for results")
    optimization_level: int = option(3, "TensorRT's builder level, 0 (quick) to 5 (thorough)", choices=range(6))
    gate: str | None = option(None, "judge the run by this baseline, a name in results/baselines or a path")
    gate_thresholds: Path = option(Path("pyproject.toml"), "TOML file with the gate's limits")
    flush_l2: bool = option(False, "empty the GPU's L2 cache before every sample")
    order_seed: int | None = option(
        None, "seed of the order in which the rows of a stage are measured", least=0, unset="drawn anew, and recorded"
    )
    jobs: int = option(os.cpu_count() or 1, "engines built at the same time", least=1)

    @classmethod
    def from_options(cls, given: Mapping[str, Any]) -> RunConfig:
        """The configuration of options by their `dest`; what is absent or None has its default."""
        values: dict[str, Any] = {}
        for known in run_options():
            value = given.get(known.dest)
            if value is None:
                continue
            if known.repeatable:
                value = tuple(dict.fromkeys(value)) if isinstance(value, list) else (value,)
            values[known.field] = value
        return cls(**values)

    def __post_init__(self) -> None:
        for known in run_options():
            value = getattr(self, known.field)
            for one in value if known.repeatable else (value,):
                if one is not None:
                    known.check(one)
        if self.mapping_checkpoint is not None and self.checkpoint is None:
            raise UserError("--mapping-checkpoint belongs to a --checkpoint, and none was given")
        if self.checkpoint is not None and self.weights != "auto":
            raise UserError(f"--checkpoint and --weights {self.weights} exclude each other: give one of them")
        if self.samples is not None and self.source_images:
            raise UserError("--samples hold a source image of their own: give them or --source-image, not both")
        # Records know a plan by its name alone.
        given: dict[str, str] = {}
        for precision in self.precisions:
            name = precision_named(precision).name
            if name in given:
                raise UserError(f"--precision: {given[name]} and {precision} are both called {name!r}: rename one")
            given[name] = precision

    def as_text(self) -> dict[str, str]:
        """The options as a record keeps them: only names, never paths of the machine that ran them."""
        files = ("checkpoint", "mapping_checkpoint", "samples", "calibration_image")
        text = {name: path.name for name in files if (path := getattr(self, name)) is not None}
        if self.source_images:
            text["source_image"] = ", ".join(path.name for path in self.source_images)
        plain = ("size", "device", "grid_sample", "optimization_level", "flush_l2")
        if self.calibration_method != "minmax":  # Older runs, which do not say it, had that.
            text["calibration_method"] = self.calibration_method
        text |= {name: str(getattr(self, name)) for name in plain} | {"weights": Path(self.weights).name}
        return {name: printable(value) for name, value in text.items()}


@functools.cache
def run_options() -> tuple[Option, ...]:
    """Every option of a run, in the order of RunConfig's fields."""
    hints = typing.get_type_hints(RunConfig)
    found = []
    for field in dataclasses.fields(RunConfig):
        hint = hints[field.name]
        repeatable = typing.get_origin(hint) is tuple
        kind = next((one for one in typing.get_args(hint) if one is not type(None)), hint)
        flag = field.metadata["flag"] or f"--{field.name.replace('_', '-')}"
        found.append(Option(field.name, flag, kind, repeatable, **field.metadata["about"]))
    return tuple(found)


def add_options(add: Callable[..., object], **defaults: Any) -> None:
    """Offer every option through `add`, called as argparse's `add_argument`; `defaults` stand for RunConfig's own."""
    for known in run_options():
        default = defaults.get(known.field, known.default)
        shown = known.unset or (default.name if isinstance(default, Path) else default)
        text = known.text + ("; repeatable" if known.repeatable else "") + (f" (default: {shown})" if shown else "")
        if known.type is bool:
            add(known.flag, action="store_true", help=text)
        elif known.repeatable:
            add(known.flag, action="append", type=known.type, help=text)
        else:
            add(known.flag, type=known.type, default=default, help=text)
