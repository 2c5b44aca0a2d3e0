"""SadTalker's published weights, and state dicts that people save of its networks.

A checkpoint has the generator and, mostly, the keypoint detector; the mapping network is published as a file of its
own. A network that no file has gets name-seeded weights, and the weights' name says so: the generator, and every figure
of its drift, does not depend on the others.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from sadtrt_core.errors import UserError
from sadtrt_core.renderer.config import RendererConfig
from sadtrt_core.renderer.renderer import NETWORKS, Renderer, States, assemble, build_networks, seeded_state
from sadtrt_core.renderer.tensor_files import plain_tensor, read_tensors, require_floats

#: SadTalker's full-image mapping network also takes three crop numbers.
COEFFICIENTS_FULL_IMAGE = 73
#: The older pickles call the keypoint detector by another name.
_OTHER_NAMES = {"kp_detector": "kp_extractor"}
#: What training scripts, DataParallel and torch.compile put before the names of entries.
_WRAPPERS = frozenset({"state_dict", "model", "module", "_orig_mod"})
_NAMED = 3
_SAY = {"generator": "generator", "kp_extractor": "keypoint detector", "mapping": "mapping network"}
_AGAIN = "torch.save(generator.state_dict(), 'model.pth')"
#: Entries of all dicts of a file together, and how deep they are nested; SadTalker's largest have some thousands.
_MOST_ENTRIES, _DEEPEST = 100_000, 8


def load_checkpoint(
    path: Path, image_size: int, mapping_path: Path | None = None, config: RendererConfig | None = None
) -> Renderer:
    """A renderer under SadTalker's weights, spectral norm folded, float32 whatever float type the file has.

    `path` has the generator and perhaps the keypoint detector, `mapping_path` the mapping network (also looked for in
    `path`), of 70 or 73 coefficients. Each is a dict of networks, or one network's own state dict; other networks in
    the files are ignored. `config` has the widths, if they are not the published ones. Raises UserError where a file is
    missing, cut short, no checkpoint, would run code, lacks an entry or has one too many, of another shape, of no float
    type, or holds a value that is not finite.
    """
    config = replace(config or RendererConfig(), image_size=image_size)
    expected = expected_states(config)
    content = _networks(path, expected)
    if "generator" not in content.states:
        raise UserError(
            f"{path} has no generator, but {content.words}: expected SadTalker's renderer checkpoint, or the state "
            "dict of its generator"
        )
    states, sources, name = content.states, dict.fromkeys(NETWORKS, path), path.name
    taken_off = content.taken_off
    if mapping_path is not None:
        separate = _networks(mapping_path, expected)
        if "mapping" not in separate.states:
            raise UserError(
                f"{mapping_path} has no mapping network, but {separate.words}: expected SadTalker's mapping checkpoint"
            )
        states["mapping"], sources["mapping"] = separate.states["mapping"], mapping_path
        name += f" with {mapping_path.name}"
        taken_off |= separate.taken_off
    first = states.get("mapping", {}).get("first.0.weight")
    if isinstance(first, Tensor) and first.dim() == 3 and first.shape[1] == COEFFICIENTS_FULL_IMAGE:
        config = replace(config, coefficients=COEFFICIENTS_FULL_IMAGE)
        expected = expected_states(config)
    found = {one: checked_state(sources[one], one, states[one], expected[one]) for one in NETWORKS if one in states}
    if taken_off:
        name += ", " + " and ".join(f"{prefix}." for prefix in sorted(taken_off)) + " taken off its entries"
    seeded = [one for one in NETWORKS if one not in found]
    if seeded:
        # Built for real: counters stay as built, and the meta device has no values for them.
        built = build_networks(config)
        found |= {one: seeded_state(built[one].state_dict()) for one in seeded}
        name += ", " + " and ".join(_SAY[one] for one in seeded) + " seeded by entry name"
    return assemble(config, found, "checkpoint", name, frozenset(seeded))


@functools.cache
def expected_states(config: RendererConfig) -> States:
    """The entries of the networks of these widths, by network, on the meta device: shapes and types without values."""
    with torch.device("meta"):
        return {name: module.state_dict() for name, module in build_networks(config).items()}


@dataclass
class _Content:
    """The networks of a file by this project's names, its other names, and prefixes that were taken off."""

    states: States = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    taken_off: set[str] = field(default_factory=set)

    @property
    def words(self) -> str:
        """What there is in the file, for a sentence."""
        return _some([*map(str, self.states), *self.others]) if self.states or self.others else "nothing with a name"


def _networks(path: Path, expected: Mapping[str, Mapping[str, Tensor]]) -> _Content:
    """The networks in a file, whatever kind of file it is. Raises UserError."""
    loaded = read_tensors(path, _AGAIN)
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds {_a(loaded)}: expected a dict of networks, or of one network's entries")
    content = _Content()
    groups: dict[str, dict[str, object]] = {}
    for names, value in _leaves(path, loaded):
        wrappers, network, entry = _parted(".".join(names).split("."))
        if network is not None and not entry:
            raise UserError(f"{path} holds {_a(value)} as {'.'.join(names)}: expected a dict of tensors")
        # What stands before a network's own entries is either its name or, in a bare state dict, wrappers alone.
        together = groups.setdefault(network or ".".join(("", *wrappers)), {})
        if entry in together:
            raise UserError(f"{path} has {network or 'the entry'} {entry} twice: save one of the networks alone")
        together[entry] = value
        if network is not None:
            content.taken_off.update(set(wrappers) - {"state_dict"})
    for group, entries in groups.items():
        owner = group if group in NETWORKS else _owner(entries, expected)
        if owner is None or (group not in NETWORKS and owner in groups):
            content.others.extend(sorted({entry.partition(".")[0] for entry in entries}))
            continue
        if group != owner:
            content.taken_off.update(set(group.split(".")) - {"state_dict", ""})
        kept = {key: v for key, v in entries.items() if isinstance(v, Tensor) or key in expected[owner]}
        content.states[owner] = kept  # type: ignore[assignment]  # Checked entry by entry in the end.
    return content


def _leaves(path: Path, content: Mapping[object, object]) -> Iterator[tuple[tuple[str, ...], object]]:
    """Everything in nested dicts that is no dict, with its keys from the outside in; keys that are no text left out."""
    pending: list[tuple[tuple[str, ...], object]] = [((), content)]
    seen = 0
    while pending:
        names, value = pending.pop()
        seen += 1
        if seen > _MOST_ENTRIES or len(names) > _DEEPEST:
            raise UserError(f"{path} has more or deeper dicts than a checkpoint: save it as {_AGAIN}")
        if isinstance(value, dict):
            pending.extend(((*names, key), inner) for key, inner in value.items() if isinstance(key, str))
        else:
            yield names, value


def _parted(names: list[str]) -> tuple[list[str], str | None, str]:
    """Wrappers, the network that is named, if one is, and the entry's own name within it."""
    wrappers, network = [], None
    for index, name in enumerate(names):
        known = _OTHER_NAMES.get(name, name)
        if name in _WRAPPERS:
            wrappers.append(name)
        elif network is None and known in NETWORKS:
            network = known
        else:
            return wrappers, network, ".".join(names[index:])
    return wrappers, network, ""


def _owner(entries: Mapping[str, object], expected: Mapping[str, Mapping[str, Tensor]]) -> str | None:
    """The network of which these are more than half of the entries."""
    return next((name for name, own in expected.items() if 2 * len(own.keys() & entries.keys()) > len(own)), None)


def checked_state(
    path: Path, network: str, state: Mapping[str, object], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The state with floats as float32, exactly the entries and shapes of `expected`, all finite. Raises UserError.

    Counters of batches may be missing, since no frame depends on them.
    """
    where = f"{network} in {path}"
    counters = {
        name: torch.zeros(v.shape, dtype=v.dtype, device="cpu") for name, v in expected.items() if _is_counter(name)
    }
    missing = [name for name in expected if name not in state and name not in counters]
    if missing:
        raise UserError(
            f"{where} lacks {_some(missing)} but has {_some(sorted(state))}: expected SadTalker's entries"
            if state
            else f"{where} lacks {_some(missing)}: expected SadTalker's entries"
        )
    unexpected = [str(name) for name in state if name not in expected]
    if unexpected:
        raise UserError(
            f"{where} has {_some(unexpected)}, which this renderer has no place for: expected SadTalker's entries"
        )
    given = {**counters, **state}
    return {name: _value(f"{name} of {where}", given[name], wanted) for name, wanted in expected.items()}


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _value(what: str, value: object, wanted: Tensor) -> Tensor:
    """One entry, checked; floats as float32, counters as they are."""
    tensor = plain_tensor(what, value)
    if wanted.is_floating_point():
        require_floats(what, tensor)
    elif tensor.dtype not in (torch.int64, torch.int32):
        raise UserError(f"{what} has type {str(tensor.dtype).removeprefix('torch.')}: expected int64")
    if tensor.shape != wanted.shape:
        raise UserError(f"{what} has shape {tuple(tensor.shape)}: expected {tuple(wanted.shape)}")
    # Cloned: a file may describe any strides, and one that is mapped should not stay open behind the renderer.
    tensor = tensor.to(wanted.dtype).clone(memory_format=torch.contiguous_format)
    if not bool(torch.isfinite(tensor).all()):
        raise UserError(f"{what} has values that are not finite: the file is damaged, download it again")
    return tensor


def _some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(name[:80] for name in names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _a(value: object) -> str:
    return f"a {type(value).__name__}"
