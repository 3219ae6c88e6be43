"""What a training is told, for both halves, and what follows from the number of a step alone: the rates."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Literal

from dbnet.errors import DbnetError

#: What a network computes in: `O0` float32, `O2` float16 with a loss scale, `bf16` bfloat16. The loss, the step
#: function, the batch norms' statistics and the weights stay in float32.
Precision = Literal["O0", "O2", "bf16"]


@dataclass(frozen=True)
class ScaleSettings:
    """Of the loss under `O2`, so that small gradients are not 0 in float16; the defaults are the recipes' own.

    dynamic: the scale is divided by `factor` when a gradient overflows, and multiplied by it after `window` updates
    without. Otherwise it stays at `start`; an update that overflows is left out in either case.
    """

    start: float = 512.0
    factor: float = 2.0
    window: int = 1000
    dynamic: bool = True


@dataclass(frozen=True)
class OptimizerSettings:
    """name: `sgd` (plain), `momentum` (Nesterov's is not meant), `adam`. weight_decay is added to the gradient, as the
    recipes' optimizers do; filter_bias_and_bn: not to that of biases and batch norms. clip_norm: the longest gradient.
    accumulate: batches whose gradients make one step. ema_decay: None keeps no averaged weights; ema_start: how young
    averages forget where they began, see `average_decay`. Raises DbnetError for a number without a meaning."""

    name: Literal["sgd", "momentum", "adam"] = "momentum"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    filter_bias_and_bn: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float | None = None
    accumulate: int = 1
    ema_decay: float | None = None
    ema_start: Literal["mindocr", "quick"] = "mindocr"
    loss_scale: ScaleSettings = field(default_factory=ScaleSettings)

    def __post_init__(self) -> None:
        scale = self.loss_scale
        for name, value, good, wanted in (
            ("name", self.name, self.name in ("sgd", "momentum", "adam"), "sgd, momentum or adam"),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "from 0 to below 1"),
            ("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "not negative"),
            ("betas", self.betas, all(0 <= beta < 1 for beta in self.betas), "from 0 to below 1"),
            ("eps", self.eps, 0 <= self.eps < math.inf, "not negative"),
            ("clip_norm", self.clip_norm, self.clip_norm is None or self.clip_norm > 0, "above 0"),
            ("accumulate", self.accumulate, self.accumulate >= 1, "1 or more"),
            ("ema_decay", self.ema_decay, self.ema_decay is None or 0 <= self.ema_decay < 1, "from 0 to below 1"),
            ("ema_start", self.ema_start, self.ema_start in ("mindocr", "quick"), "mindocr or quick"),
            ("loss_scale.start", scale.start, 0 < scale.start < math.inf, "above 0"),
            ("loss_scale.factor", scale.factor, 1 < scale.factor < math.inf, "above 1"),
            ("loss_scale.window", scale.window, scale.window >= 1, "1 or more"),
        ):
            if not good:
                raise DbnetError(f"the optimizer's {name} cannot be {value!r}; it must be {wanted}")


def average_decay(settings: OptimizerSettings, step: int) -> float:
    """The share of the old average that is kept by the update number `step` = 1, 2, ...

    `mindocr`: of the first updates little is kept, and after 10,000 nearly `ema_decay` (mindocr/utils/ema.py); `quick`:
    the average over all updates at first, as TensorFlow's ExponentialMovingAverage, for trainings of a few thousand.
    """
    decay = settings.ema_decay or 0.0
    if settings.ema_start == "mindocr":
        return decay * -math.expm1(-step / 2000)
    return min(decay, (1 + step) / (10 + step))


#: MindOCR's names; its warmup_cosine_decay is its cosine_decay, and any of them may warm up.
ScheduleName = Literal["constant", "cosine_decay", "warmup_cosine_decay", "exponential_decay", "polynomial_decay",
                       "step_decay", "multi_step_decay"]


@dataclass(frozen=True)
class ScheduleSettings:
    """A linear warm-up from `warmup_factor` times `lr` to `lr`, and what `name` says after it. Lengths in steps.

    polynomial_decay: down to `min_lr` at the end of all `steps`, by the power `decay_rate`. cosine_decay: down to
    `min_lr` in `decay_steps` (default: at the end of all), once more in each of `cycles`, whose first rate is
    `cycle_decay` times that of the one before; then it stays. exponential_decay: `decay_rate` times as high every
    `epoch`; step_decay: every `decay_steps`; multi_step_decay: from each of the `milestones`, counted from the end of
    the warm-up. epoch: steps of an epoch. stair: the rate changes with the epoch only.
    """

    name: ScheduleName = "polynomial_decay"
    lr: float = 0.007
    min_lr: float = 0.0
    warmup_steps: int = 0
    steps: int = 1
    decay_rate: float = 0.9
    warmup_factor: float = 0.0
    decay_steps: int | None = None
    epoch: int = 1
    milestones: tuple[int, ...] = ()
    cycles: int = 1
    cycle_decay: float = 1.0
    stair: bool = False


def learning_rate(settings: ScheduleSettings, step: int) -> float:
    """The rate of step 0, 1, ... : bit for bit that of MindOCR's `create_scheduler`
    (mindocr/scheduler/scheduler_factory.py); after the last step it stays."""
    s, step = settings, min(step, max(settings.steps, settings.warmup_steps + 1) - 1)
    if step < s.warmup_steps:
        begin = s.lr * s.warmup_factor
        return begin + _epochs(s, step) / (s.warmup_steps / s.epoch) * (s.lr - begin)
    step -= s.warmup_steps
    rest = max(1, s.steps - s.warmup_steps)
    if s.name == "constant":
        return s.lr
    if s.name == "exponential_decay":
        return float(s.lr * s.decay_rate ** _epochs(s, step))
    if s.name == "step_decay":
        return float(s.lr * s.decay_rate ** (step // (s.decay_steps or rest)))
    if s.name == "multi_step_decay":
        return float(s.lr * s.decay_rate ** bisect_right(sorted(s.milestones), step))
    if s.name == "polynomial_decay":
        return float(s.min_lr + (s.lr - s.min_lr) * (1 - _epochs(s, step) / (rest / s.epoch)) ** s.decay_rate)
    cycle, step = divmod(step, s.decay_steps or rest)
    if cycle >= s.cycles:
        return s.min_lr
    half = 0.5 * (s.lr * s.cycle_decay**cycle - s.min_lr)
    return s.min_lr + half * (1.0 + math.cos(math.pi * _epochs(s, step) / ((s.decay_steps or rest) / s.epoch)))


def _epochs(settings: ScheduleSettings, step: int) -> float:
    return step // settings.epoch if settings.stair else step / settings.epoch
