"""Which of the things in a torch file are the weights: people wrap state dicts in many ways.

{"state_dict": ..., "optimizer": ..., "epoch": 3}: the weights go on, the rest is named or counted, nothing is dropped
silently, and nothing is guessed where two state dicts could be meant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from converters.mapped_file import MAX_ENTRIES
from converters.pickled_objects import ArrayData, Opaque, OrderedItems, is_tensor_name, printable
from converters.pth_tensors import Tensor
from converters.training_state import EMA, OPTIMIZER
from dbnet.errors import DbnetError
from dbnet.record import RECORD_KEY

#: Keys under which projects keep the weights; with one of these, other dicts of tensors are something else.
WEIGHTS = ("state_dict", "model_state_dict", "model", "net", "network", "model_state", "net_state_dict", "weights",
           "params", "module")
EMA_KEYS = ("ema", "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "params_ema", "model_ema_state_dict",
            "ema_model_state_dict")
#: Within an EMA object: where its copies stand.
_SHADOWS = ("shadow", *WEIGHTS)
#: A key with one of these in it is training state, as is a dict that looks like an optimizer's or a scheduler's.
_TRAINING_WORDS = ("optim", "sched", "scaler")
#: torch.optim.swa_utils.AveragedModel and mmengine's averaged model count in a tensor beside "module.".
_COUNTERS = ("n_averaged", "steps")

MAX_NESTING = 3
MAX_METADATA, MAX_TEXT = 100, 200


@dataclass
class Contents:
    """tensors, ema: name -> `Tensor` or `ArrayData`, without "module."; the rest as in TensorFile.

    counted: ids of the training state that `training` covers. optimizers, scaler: as in TensorFile, tensors as above.
    """

    tensors: dict[str, Any] = field(default_factory=dict)
    record: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    training: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ema: dict[str, Any] | None = None
    counted: set[int] = field(default_factory=set)
    optimizers: list[dict[str, Any]] = field(default_factory=list)
    scaler: dict[str, float] = field(default_factory=dict)


def unpack(root: Any, where: str) -> Contents:
    """Finds the weights in what the pickle held. Raises DbnetError if there are none, or more than one set."""
    contents = Contents()
    level, prefix = root, ""
    for _ in range(MAX_NESTING + 1):
        if not isinstance(level, dict):
            raise DbnetError(f"{where}: holds {_kind(level)}, not a state dict; save model.state_dict()")
        chosen = _choose(level, where)
        _describe(level, chosen, prefix, contents)
        if chosen is None:
            contents.tensors = _plain(_tensors(level, where), contents)
            contents.record = _record(level)
            return contents
        level, prefix = level[chosen], f"{prefix}{chosen}."
    raise DbnetError(f"{where}: its state dict is nested too deeply; save model.state_dict()")


def _choose(level: dict[Any, Any], where: str) -> str | None:
    """The key under which the weights are, None for the level itself."""
    seen: dict[int, bool] = {}
    named = {name: value for name, value in level.items() if isinstance(name, str) and _holds_weights(value, seen)}
    ema = [name for name in named if name in EMA_KEYS]
    dicts = [name for name, value in named.items() if name not in ema and not _is_training(name, value)]
    known = [name for name in dicts if name in WEIGHTS]
    own = [name for name, value in level.items() if isinstance(name, str) and _is_tensor(value)]
    # A state dict's names have dots; a tensor beside state dicts (a random generator's state, a score) has none.
    flat = any("." in name for name in own) or (bool(own) and not known)
    choices = known or dicts
    if flat and choices:
        raise _ambiguous(["the top level", *choices], where)
    if flat:
        return None
    if len({id(level[name]) for name in choices}) > 1:
        raise _ambiguous(choices, where)
    if not choices and not ema:
        raise DbnetError(f"{where}: holds no state dict, only {_names(level) or 'nothing'}; save model.state_dict()")
    return (choices or ema)[0]


def _ambiguous(choices: list[str], where: str) -> DbnetError:
    return DbnetError(f"{where}: holds several state dicts ({', '.join(map(printable, choices[:6]))}), and nothing "
                      f"says which is the detector; save the one you mean in a file of its own")


def _describe(level: dict[Any, Any], chosen: str | None, prefix: str, contents: Contents) -> None:
    """Sorts what lies beside the weights into metadata, training, EMA and notes."""
    tensors, others = [], []
    for name, value in level.items():
        if name == chosen or (chosen is None and isinstance(name, str) and _is_tensor(value)):
            continue
        text = printable(str(name)) if isinstance(name, (str, int)) else "?"
        if _is_tensor(value):
            tensors.append(text)
        elif name in EMA_KEYS and (ema := _shadow(value)) is not None:
            contents.ema = contents.ema or _plain(ema, contents)
            contents.training[EMA] = contents.training.get(EMA, 0) + len(ema)
        elif not _keep_scalars(prefix + text, value, contents):
            if isinstance(value, (dict, list, tuple, Opaque)) and _is_training(text, value):
                contents.training[OPTIMIZER] = contents.training.get(OPTIMIZER, 0) + _count(value, contents.counted)
                _keep_state(value, contents)
            elif value is not None and value != {}:
                others.append(text)
    if chosen in EMA_KEYS:
        contents.notes.append("only EMA weights are in the file: taken as the weights")
    for what, names in (("tensors", tensors), ("entries", others)):
        if names:
            contents.notes.append(f"left out {len(names)} {what} beside the state dict ({', '.join(names[:3])})")


def _keep_state(value: object, contents: Contents) -> None:
    """Of an optimizer, or the only one in a list (Lightning's `optimizer_states`), and of a torch.amp.GradScaler."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        return
    if "state" in value and "param_groups" in value:
        contents.optimizers.append(value)
    numbers = {name: number for name in ("scale", "_growth_tracker")
               if isinstance(number := value.get(name), (int, float)) and 0 <= number < 1 << 53}
    if len(numbers) > 1:
        contents.scaler = {name: float(number) for name, number in numbers.items()}


def _keep_scalars(name: str, value: Any, contents: Contents) -> bool:
    """Notes a number, a text or a dict of them (MMOCR's `meta`) as metadata; False if it is anything else."""
    if isinstance(value, (bool, int, float, str)):
        if len(contents.metadata) < MAX_METADATA:
            contents.metadata[name] = _text(value)
        return True
    if not isinstance(value, dict) or _is_training(name, value) or len(value) > MAX_METADATA:
        return False
    plain = {key: item for key, item in value.items()
             if isinstance(key, str) and isinstance(item, (bool, int, float, str))}
    for key, item in plain.items():
        _keep_scalars(f"{name}.{printable(key)}", item, contents)
    return bool(plain) and len(plain) == len(value)


def _text(value: object) -> str:
    text = " ".join(str(value).split()) if not isinstance(value, str) else " ".join(value[:4 * MAX_TEXT].split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."


def _is_tensor(value: object) -> bool:
    return isinstance(value, (Tensor, ArrayData))


def _holds_weights(value: object, seen: dict[int, bool], depth: int = MAX_NESTING) -> bool:
    """A state dict, or a dict with one under a usual key. seen: answers by id, since one dict may have many names."""
    if not isinstance(value, dict) or not depth:
        return False
    if id(value) not in seen:
        seen[id(value)] = False  # should it hold itself
        seen[id(value)] = any(isinstance(name, str) and _is_tensor(item) for name, item in value.items()) or any(
            _holds_weights(value[name], seen, depth - 1) for name in (*_SHADOWS, *EMA_KEYS) if name in value)
    return seen[id(value)]


def _is_training(name: str, value: object) -> bool:
    if any(word in name.lower() for word in _TRAINING_WORDS):
        return True
    return isinstance(value, dict) and (("state" in value and "param_groups" in value) or "last_epoch" in value)


def _count(value: object, seen: set[int]) -> int:
    """Tensors in training state, at any depth; where there are none, its entries. What was `seen` counts once."""
    if id(value) in seen:
        return 0
    found, waiting = 0, [value]
    seen.add(id(value))
    while waiting:
        item = waiting.pop()
        found += _is_tensor(item)
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, (list, tuple)) else ()
        for part in inner:
            if isinstance(part, (dict, list, tuple, Tensor, ArrayData)) and id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)
    return found or (len(value) if isinstance(value, (dict, list, tuple)) else 1)


def _shadow(value: Any) -> dict[str, Any] | None:
    """The copies in an EMA object: {"module": {...}, "updates": 7}, {"shadow": {...}} or the dict itself."""
    for _ in range(MAX_NESTING + 1):
        if not isinstance(value, dict):
            return None
        tensors = {name: item for name, item in value.items() if isinstance(name, str) and _is_tensor(item)}
        if any(name not in _COUNTERS for name in tensors):
            return tensors
        value = next((value[name] for name in _SHADOWS if name in value), None)
    return None


def _tensors(level: dict[Any, Any], where: str) -> dict[str, Any]:
    tensors = {name: value for name, value in level.items() if isinstance(name, str) and _is_tensor(value)}
    if len(tensors) > MAX_ENTRIES:
        raise DbnetError(f"{where}: holds {len(tensors)} tensors, far more than a network has; is it the right file?")
    strange = next((name for name in tensors if not is_tensor_name(name)), None)
    if strange is not None:
        raise DbnetError(f"{where}: holds a tensor named {strange[:80]!r}; the file is damaged")
    return tensors


def _plain(tensors: dict[str, Any], contents: Contents) -> dict[str, Any]:
    """Without the "module." that DataParallel puts before every name. MhLiao's "model.module." is a dialect's."""
    for _ in range(2):  # DataParallel of a DistributedDataParallel
        names = [name for name in tensors if name not in _COUNTERS]
        if not names or not all(name.startswith("module.") and len(name) > len("module.") for name in names):
            return tensors
        if len(names) < len(tensors):
            contents.notes.append("left out the counter of an averaged model")
        tensors = {name.removeprefix("module."): tensors[name] for name in names}
    return tensors


def _record(level: dict[Any, Any]) -> str | None:
    metadata = level.state.get("_metadata") if isinstance(level, OrderedItems) else None
    entry = metadata.get(RECORD_KEY) if isinstance(metadata, dict) else None
    record = entry.get("record") if isinstance(entry, dict) else entry  # a model may have a module of that name
    return record if isinstance(record, str) else None


def _kind(value: object) -> str:
    if isinstance(value, Opaque):
        return f"an object of {value.name}"
    return "a tensor" if _is_tensor(value) else f"a {type(value).__name__}"


def _names(level: dict[Any, Any]) -> str:
    return ", ".join(printable(str(name)) for name in list(level)[:6])
