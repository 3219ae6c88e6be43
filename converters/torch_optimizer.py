"""An optimizer's state as torch saves it, as a trainer's state here.

`torch.optim.Optimizer.state_dict()` knows parameters by number only: in the order in which the optimizer was given
them, which for `model.parameters()` is the order of the model's state dict without its buffers. Since torch 2.6 names
stand beside the numbers (`param_names`) where it was given `model.named_parameters()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converters.check import WeightReport, weight_map
from converters.tensor_file import Weights
from dbnet.errors import DbnetError

#: torch's names of what an optimizer keeps of a parameter -> ours. torch_reference has them the other way round.
SLOTS = {"momentum_buffer": "moments.", "exp_avg": "moment1.", "exp_avg_sq": "moment2."}
_NAMED = "save it from an optimizer that knows their names: torch.optim.SGD(model.named_parameters(), ...)"
ALONE = ("there are SGD, momentum and Adam. Its weights alone can be had: dbnet convert --take plain, dbnet train "
          "--pretrained")
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def optimizer_state(path: Path, optimizer: Mapping[str, Any], tensors: Weights,
                    report: WeightReport) -> tuple[Weights, list[str]]:
    """The moments under canonical names with their prefixes, and `global_step` where it is known; and notes.

    optimizer: a `state_dict()`, its tensors as arrays. tensors: the weights in the file's order.
    Raises DbnetError where it is open which state belongs to which weight, and for an optimizer that is not here.
    """
    groups, slots = _checked(path, optimizer)
    names = _names(path, groups, tensors)
    mapping = weight_map(report.dialect.name, report.spec)
    state: Weights = {}
    steps = [0]
    for number, kept in slots.items():
        name = names.get(number)
        if name is None:
            raise DbnetError(f"{path}: its optimizer has a state of parameter {number}, which is in none of its groups")
        entry = mapping.by_foreign.get(name.removeprefix(report.prefix))
        for slot, value in kept.items():
            if slot == "step":
                steps.append(_step(value))
            elif slot in SLOTS and entry is not None and isinstance(value, np.ndarray):
                if np.shape(value) != entry.foreign_shape:
                    raise DbnetError(f"{path}: its optimizer was given the parameters in another order than the model "
                                     f"has them: the state number {number} has shape {np.shape(value)}, {name} "
                                     f"{entry.foreign_shape}; {_NAMED}")
                state[SLOTS[slot] + entry.parameter.name] = entry.to_canonical(value)
            elif slot not in SLOTS and value is not None:
                raise DbnetError(f"{path}: its optimizer keeps {slot}, which none here does; {ALONE}")
    if max(steps):
        state["global_step"] = np.array(max(steps), np.int64)
    return state, _notes(groups, state)


def _checked(path: Path, optimizer: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
    """The groups, and number -> slot -> value."""
    groups, slots = optimizer.get("param_groups"), optimizer.get("state")
    sound = isinstance(groups, (list, tuple)) and isinstance(slots, dict) and groups and all(
        isinstance(group, dict) and isinstance(group.get("params"), (list, tuple)) and all(
            type(number) is int for number in group["params"]) for group in groups) and all(
        type(number) is int and isinstance(kept, dict) for number, kept in slots.items())
    if not sound:
        raise DbnetError(f"{path}: its optimizer's state is not as torch saves it; take the weights alone")
    assert isinstance(groups, (list, tuple)) and isinstance(slots, dict)
    if any(group.get("decoupled_weight_decay") is True for group in groups):
        raise DbnetError(f"{path}: its optimizer is AdamW, which is not here; {ALONE}")
    return list(groups), slots


def _step(value: object) -> int:
    """A number or a tensor of one; 0 for anything else."""
    if not isinstance(value, (int, float, np.ndarray)) or np.size(value) != 1:
        return 0
    number = float(np.asarray(value).item())
    return int(number) if 0 <= number < 1 << 53 else 0


def _names(path: Path, groups: list[dict[str, Any]], tensors: Weights) -> dict[int, str]:
    """number of a parameter -> its name in the file."""
    numbers = [number for group in groups for number in group["params"]]
    names = [name for name in tensors if name.rpartition(".")[2] not in _BUFFERS]
    if all(isinstance(group.get("param_names"), (list, tuple)) for group in groups):
        given = [str(name).removeprefix("module.") for group in groups for name in group["param_names"]]
        if len(given) == len(numbers) and set(given) <= set(tensors):
            return dict(zip(numbers, given, strict=True))
    if len(groups) > 1:
        raise DbnetError(f"{path}: its optimizer has {len(groups)} groups of parameters without names, so that it is "
                         f"open which state belongs to which weight; {_NAMED}")
    if len(numbers) != len(names):
        raise DbnetError(f"{path}: its optimizer has {len(numbers)} parameters, the model {len(names)}, so that it is "
                         f"open which state belongs to which weight; {_NAMED}")
    return dict(zip(numbers, names, strict=True))


def _notes(groups: list[dict[str, Any]], state: Weights) -> list[str]:
    notes = []
    if any(name.startswith("moment1.") for name in state):
        notes.append("its optimizer's moments are taken for Adam's")
    for key, usual in (("nesterov", False), ("dampening", 0), ("maximize", False)):
        found = next((group[key] for group in groups if group.get(key, usual) != usual), usual)
        if found != usual:
            notes.append(f"its optimizer has {key}={found}, which dbnet train has not")
    return notes
