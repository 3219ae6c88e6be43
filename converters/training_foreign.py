"""Training files of others, as a trainer's state here: MindOCR's train_resume.ckpt, and what torch users save.

MindOCR saves the training cell by the names that MindSpore gives: the moments as `moments.` (nn.Momentum), `accum.`
(nn.SGD) or `moment1.`, `moment2.` (nn.Adam), the scale as `scale_sense`. Sources: mindocr/utils/callbacks.py,
train_step_wrapper.py, ema.py; mindspore/nn/wrap/loss_scale.py (2.10).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from converters.check import WeightReport, weight_map
from converters.pickled_objects import printable
from converters.tensor_file import TensorFile, Weights
from converters.torch_optimizer import ALONE, optimizer_state
from converters.training_state import PREFIXES, STATE_PREFIXES
from dbnet.errors import DbnetError
from dbnet.training import ACCUMULATE, AVERAGE, PENDING, Progress

_SWAP = "swap."
#: What others call an entry -> what it is called here, before a parameter's name and alone.
_RENAMED = {"accum.": "moments.", "grad_accumulated_.": PENDING}
_NUMBERS = {"grad_accumulate_step_": "accumulation_step", "scale_sense": "loss_scale"}
#: Of optimizers that are here, and needless: whether nn.SGD has made its first step; zeros; nn.Adam's powers of beta,
#: which follow from the step; the rates, which follow from the recipe; where the scale last changed.
_NEEDLESS = ("stat", "zeros_")
_NEEDLESS_NUMBERS = ("beta1_power", "beta2_power", "current_iterator_step", "last_overflow_iterator_step", "loss_scale",
                     "updates")
_COUNTERS = {"epoch_num", ACCUMULATE, *(f.name for f in fields(Progress)), *_NEEDLESS_NUMBERS}
_DIGITS = 10
#: Above all counters.
_LARGEST = 1 << 53
_KNOWN = {prefix.rstrip(".") for prefix in (*PREFIXES, *_RENAMED)} | set(_NEEDLESS)


@dataclass
class Found:
    """state: as a trainer's `state()`, with `epoch_num` beside it. notes: what was made of it, a phrase each."""

    state: Weights
    notes: list[str] = field(default_factory=list)


def own_state(raw: Weights, report: WeightReport) -> Weights:
    """What stands in a file under the names that are used here, under canonical names. The rest is left out."""
    mapping = weight_map(report.dialect.name, report.spec)
    known = {report.prefix + foreign: entry for foreign, entry in mapping.by_foreign.items()}
    state = {}
    for name, array in raw.items():
        prefix = next((prefix for prefix in (*PREFIXES, _SWAP) if name.startswith(prefix)), "")
        entry = known.get(name[len(prefix):])
        if entry is not None and array.shape == entry.foreign_shape:
            state[prefix + entry.parameter.name] = entry.to_canonical(array)
        elif "." not in name and array.size == 1:
            state[name] = array.reshape(())
    return state


def sorted_out(path: Path, file: TensorFile, report: WeightReport) -> Found:
    """The state in a file of others. Raises DbnetError for an optimizer that is not here."""
    _check_optimizer(path, file.raw)
    raw = {_renamed(name): array for name, array in file.raw.items()}
    raw |= {AVERAGE + name: array for name, array in (file.ema or {}).items()}
    found = Found(own_state(raw, report))
    state = found.state
    check_numbers(path, state)
    _take_numbers(file, state)
    optimizers = file.optimizers()
    if len(optimizers) > 1:
        raise DbnetError(f"{path}: holds the states of {len(optimizers)} optimizers, and one is enough here; {ALONE}")
    for optimizer in optimizers:
        moments, notes = optimizer_state(path, optimizer, file.tensors, report)
        state |= moments
        found.notes += notes
    epoch = file.metadata.get("epoch", "")
    if "epoch_num" not in state and epoch.isascii() and epoch.isdecimal() and len(epoch) < _DIGITS:
        state["epoch_num"] = np.array(int(epoch), np.int64)
        found.notes.append(f"its epoch {epoch} is taken to be the number of epochs that are complete")
    swapped = _unswap(state)
    found.notes += [*swapped, *_left_out(file, raw, state, _KNOWN | {"swap"} if swapped else _KNOWN)]
    return found


def _renamed(name: str) -> str:
    prefix = next((prefix for prefix in _RENAMED if name.startswith(prefix)), None)
    return _NUMBERS.get(name, name) if prefix is None else _RENAMED[prefix] + name.removeprefix(prefix)


def _check_optimizer(path: Path, raw: Weights) -> None:
    """Raises DbnetError if moments are in the file that no optimizer here has: Adan's are Adam's and a third one."""
    others = Counter(prefix for name in raw for prefix in STATE_PREFIXES
                     if prefix not in _KNOWN and name.startswith(f"{prefix}.") and name[len(prefix) + 1:] in raw)
    if others:
        told = ", ".join(f"{prefix} ({count})" for prefix, count in others.items())
        raise DbnetError(f"{path}: holds the state of an optimizer that is not here: {told}; {ALONE}")


def check_numbers(path: Path, state: Weights) -> None:
    """Raises DbnetError for a counter that is none: the file is not trusted."""
    for name in _COUNTERS & state.keys():
        if not (np.isfinite(state[name]) and 0 <= state[name] < _LARGEST):
            raise DbnetError(f"{path}: is damaged: {name} cannot be {state[name]}; take an earlier checkpoint")


def _take_numbers(file: TensorFile, state: Weights) -> None:
    """MindSpore's nn.DynamicLossScaleUpdateCell counts updates from 1, and keeps the one that last changed the scale;
    MindOCR's `loss_scale` is the recipe's, `scale_sense` the one that holds."""
    if "scale_sense" in file.raw:
        state["loss_scale"] = file.raw["scale_sense"].reshape(())
    now, last = (state.pop(name, None) for name in ("current_iterator_step", "last_overflow_iterator_step"))
    if now is not None and last is not None:
        state["scale_step"] = np.array(max(0, int(now) - int(last) - 1), np.int64)
    if file.scaler:
        state["loss_scale"] = np.array(file.scaler["scale"], np.float32)
        state["scale_step"] = np.array(int(file.scaler["_growth_tracker"]), np.int64)
    if now is None and state.get("loss_scale") == 1.0:  # a training without a scale, which MindOCR gives this one
        del state["loss_scale"]
    for name in ("beta1_power", "beta2_power", "updates"):
        state.pop(name, None)


def _unswap(state: Weights) -> list[str]:
    """MindOCR saves after a validation, before it takes the training's weights back: the averaged ones are then under
    the plain names, and the training's own are the `swap.` copies."""
    swapped = {name.removeprefix(_SWAP): state.pop(name) for name in [n for n in state if n.startswith(_SWAP)]}
    averaged = {name.removeprefix(AVERAGE): array for name, array in state.items() if name.startswith(AVERAGE)}
    same = averaged and all(np.array_equal(state[name], array) for name, array in averaged.items())
    if not same or swapped.keys() != averaged.keys() or not any(array.any() for array in swapped.values()):
        return []
    state |= swapped
    return ["saved after a validation, with the averaged weights in place of the training's own: these were taken from "
            "the swap copies"]


def _left_out(file: TensorFile, raw: Weights, state: Weights, known: set[str]) -> list[str]:
    """What of a file has no place in a training here. known: first parts of names that have one."""
    counts = Counter(first for first, _, rest in (name.partition(".") for name in raw)
                     if rest and first in (*STATE_PREFIXES, "swap") and first not in known)
    counts.update(name for name in raw if "." not in name and name not in state and name not in _NEEDLESS_NUMBERS)
    counts.update(f"metadata {name}" for name in file.metadata if _renamed(name) not in (*state, *raw, "epoch",
                                                                                         "format"))
    told = [printable(name) if count == 1 else f"{printable(name)} ({count})" for name, count in counts.items()]
    notes = [note for note in file.notes if not note.startswith("only EMA")]
    return notes + ([f"left out: {', '.join(told[:6])}{' and more' * (len(told) > 6)}"] if told else [])
