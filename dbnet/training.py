"""What the two halves' trainers have in common: the batches they take, the loss scale, and the state they exchange.

A state is a flat table of arrays, so that any file format can hold it: the weights under canonical names, and beside
them what is listed at `MOMENTS` and `Progress`. One half goes on where the other has stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast, get_args

import numpy as np

from dbnet.errors import DbnetError
from dbnet.parameters import Parameter, Role, parameters
from dbnet.spec import STRIDE, ModelSpec, check_size
from dbnet.train_settings import OptimizerSettings, Precision, ScaleSettings
from dbnet.training_set import Example

#: What an optimizer remembers of each learned parameter, by the prefix of its name: MindSpore's own prefixes in
#: nn.Momentum and nn.Adam. `moments.`: torch's momentum_buffer; `moment1.`, `moment2.`: its exp_avg and exp_avg_sq.
MOMENTS: dict[str, tuple[str, ...]] = {"sgd": (), "momentum": ("moments.",), "adam": ("moment1.", "moment2.")}
#: The averaged weights, statistics included (MindOCR's prefix).
AVERAGE = "ema."
#: The sum of the gradients of a step that is not complete, without the loss scale.
PENDING = "grad_accumulation."
#: A single number of a state that holds pending gradients: of how many batches the step is to be made.
ACCUMULATE = "accumulation_size"
_LARGEST = float(np.finfo(np.float32).max)


@dataclass
class Progress:
    """The single numbers of a state, each a 0-d array under its name here.

    global_step: updates done, which Adam and the average count by. overflows: updates left out. accumulation_step:
    batches that the pending gradients hold. loss_scale, scale_step: the scale, and the updates since it has changed;
    0 is a training without a scale, whose state has no such entry.
    """

    global_step: int = 0
    overflows: int = 0
    accumulation_step: int = 0
    loss_scale: float = 0.0
    scale_step: int = 0


@dataclass
class TrainingState:
    """A state sorted out, all float32. weights: all parameters of the spec; moments: of the learned ones, for each
    prefix of `MOMENTS` in that order; average: like weights; pending: like moments; both None if there are none."""

    weights: dict[str, np.ndarray]
    moments: tuple[dict[str, np.ndarray], ...]
    average: dict[str, np.ndarray] | None
    pending: dict[str, np.ndarray] | None
    progress: Progress


def without_scale(pending: Mapping[str, np.ndarray], scale: LossScale) -> dict[str, np.ndarray]:
    """Pending gradients as a state holds them. One that overflowed, for which the step will be left out, is the largest
    number instead: files hold no Inf."""
    return {name: np.nan_to_num(array / np.float32(scale.value), nan=_LARGEST) for name, array in pending.items()}


def with_scale(pending: Mapping[str, np.ndarray], scale: LossScale) -> dict[str, np.ndarray]:
    """The inverse, for the scale that holds now."""
    with np.errstate(over="ignore"):
        return {name: array * np.float32(scale.value) for name, array in pending.items()}


def learned(spec: ModelSpec) -> tuple[Parameter, ...]:
    """The parameters with a gradient: all but the batch norms' statistics."""
    return tuple(p for p in parameters(spec) if p.role not in (Role.NORM_MEAN, Role.NORM_VARIANCE))


def decayed(spec: ModelSpec, settings: OptimizerSettings) -> set[str]:
    """Canonical names of the parameters that weight decay pulls at."""
    return {p.name for p in learned(spec)
            if not settings.filter_bias_and_bn or not (p.role is Role.BIAS or p.role.is_norm)}


def packed(state: TrainingState, settings: OptimizerSettings) -> dict[str, np.ndarray]:
    """The state as one table."""
    table = dict(state.weights)
    groups = zip(MOMENTS[settings.name], state.moments, strict=True)
    for prefix, arrays in (*groups, (AVERAGE, state.average), (PENDING, state.pending)):
        table |= {prefix + name: array for name, array in (arrays or {}).items()}
    if state.progress.accumulation_step:
        table[ACCUMULATE] = np.array(settings.accumulate, np.int64)
    for name, value in asdict(state.progress).items():
        if name == "loss_scale" and not value:
            continue
        table[name] = np.array(value, np.float32 if isinstance(value, float) else np.int64)
    return table


def unpacked(spec: ModelSpec, settings: OptimizerSettings, state: Mapping[str, np.ndarray]) -> TrainingState:
    """The table sorted out again. Entries that are none of a state (an epoch's number, a random state) are left alone.

    Raises DbnetError if it is of another network, another optimizer, or not whole.
    """
    table = parameters(spec)
    weights = _taken(state, "", table, spec, "weights")
    for name, prefixes in MOMENTS.items():
        if name != settings.name and any(prefix + learned(spec)[0].name in state for prefix in prefixes):
            raise DbnetError(f"this state was saved by the optimizer {name}, and this run uses {settings.name}: resume "
                             f"with {name}, or begin anew from the weights alone")
    moments = tuple(_taken(state, prefix, learned(spec), spec, f"moments of the optimizer {settings.name}")
                    for prefix in MOMENTS[settings.name])
    average = None
    if settings.ema_decay is not None:
        average = _taken(state, AVERAGE, table, spec, "averaged weights (ema)")
    progress = Progress(**{name: _number(state, name, default) for name, default in asdict(Progress()).items()})
    pending = _taken(state, PENDING, learned(spec), spec, "pending gradients") if progress.accumulation_step else None
    size = _number(state, ACCUMULATE, settings.accumulate)  # a file of others does not say
    if progress.accumulation_step and (size != settings.accumulate or progress.accumulation_step >= size):
        wanted = f"train.gradient_accumulation_steps={size}" if ACCUMULATE in state else "the accumulation"
        raise DbnetError(f"this state holds the gradients of {progress.accumulation_step} batches, and this run makes "
                         f"a step of {settings.accumulate}: resume with {wanted} of the run that saved it")
    return TrainingState(weights, moments, average, pending, progress)


def _taken(state: Mapping[str, np.ndarray], prefix: str, table: Iterable[Parameter], spec: ModelSpec,
           what: str) -> dict[str, np.ndarray]:
    """The entries with that prefix, as float32 copies under canonical names."""
    found = {}
    for p in table:
        array = state.get(prefix + p.name)
        if array is None or array.shape != p.shape:
            fault = "is missing" if array is None else f"has shape {array.shape}, not {p.shape}"
            raise DbnetError(f"this state does not hold the {what} of {spec.name}: {prefix + p.name} {fault}; resume "
                             f"with the recipe of the run that saved it, or begin anew from its weights alone")
        found[p.name] = np.array(array, np.float32, order="C")
    return found


def _number(state: Mapping[str, np.ndarray], name: str, default: Any) -> Any:
    """A single number of a state; one that is not there is as at the beginning."""
    if name not in state:
        return default
    value = np.asarray(state[name])
    if value.size != 1 or not np.isfinite(value).all() or value.min() < 0:
        raise DbnetError(f"this state is damaged: {name} must be one number that is not negative, not {value.tolist()}")
    if name == "loss_scale" and not value.all():
        raise DbnetError("this state is damaged: loss_scale cannot be 0")
    return type(default)(value.item())


class LossScale:
    """What the loss is multiplied by under `O2`; elsewhere it is 1 and does not change."""

    def __init__(self, settings: ScaleSettings, active: bool):
        self.settings, self.active = settings, active
        self.value = settings.start if active else 1.0
        self.good = 0

    def update(self, finite: bool) -> None:
        """After an update, or one that was left out because a gradient overflowed."""
        if not self.active or not self.settings.dynamic:
            return
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.value = max(1.0, self.value / self.settings.factor)
        elif self.good >= self.settings.window:  # a state may come from a run with a larger one
            self.value, self.good = self.value * self.settings.factor, 0

    @property
    def kept(self) -> tuple[float, int]:
        """`loss_scale` and `scale_step` of a state."""
        return (self.value, self.good) if self.active else (0.0, 0)

    def resume(self, progress: Progress) -> None:
        """Goes on with a state's scale, unless the state was saved without one."""
        if self.active and self.settings.dynamic and progress.loss_scale:
            self.value, self.good = progress.loss_scale, progress.scale_step


def check_precision(amp: str) -> Precision:
    """Raises DbnetError for an unknown one."""
    if amp not in get_args(Precision):
        raise DbnetError(f"amp cannot be {amp!r}; choose from {', '.join(get_args(Precision))}")
    return cast(Precision, amp)


def check_batch(batch: Example) -> None:
    """Raises DbnetError for a batch that a network cannot learn from: sides that are no multiples of 32 px, maps of
    other sides, or a single value for a batch norm to take the variance of."""
    image = batch.image
    if image.dtype != np.uint8 or image.ndim != 4 or image.shape[3] != 3 or not len(image):
        raise DbnetError(f"a batch's images must be uint8 of shape (N, H, W, 3), not {image.dtype} of {image.shape}")
    count, height, width = image.shape[:3]
    check_size(height, width)
    for name, array in zip(batch._fields[1:-1], batch[1:-1], strict=True):
        if array.shape != (count, height, width):
            raise DbnetError(f"a batch's {name} must have shape {(count, height, width)}, not {array.shape}")
    if count * (height // STRIDE) * (width // STRIDE) == 1:
        raise DbnetError(f"one image of {height} x {width} px is too little to learn from: the batch norms need more "
                         f"than one value at stride {STRIDE}; use a larger batch or crop")
