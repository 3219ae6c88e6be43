"""One network learning in MindSpore: a batch in, a step done. Data, schedule and files are the caller's.

A step is one graph: images, network, loss, gradients, optimizer, average. Where gradients are added up over several
batches, or may overflow, it is two, because Python decides in between whether there is an update.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from dbnet.errors import DbnetError
from dbnet.loss_settings import Losses, LossSettings
from dbnet.running import parse_device, runnable
from dbnet.spec import ModelSpec
from dbnet.train_settings import OptimizerSettings, Precision, average_decay
from dbnet.training import (
    AVERAGE,
    MOMENTS,
    PENDING,
    LossScale,
    Progress,
    TrainingState,
    check_batch,
    check_precision,
    decayed,
    packed,
    unpacked,
    with_scale,
    without_scale,
)
from dbnet.training_set import Example
from ms_models import compat
from ms_models.dbnet import DBNet
from ms_models.loss import DBLoss
from ms_models.world import Mean, World


class Criterion(nn.Cell):
    """A batch -> what is differentiated, and the four losses. factor: of the loss, () float32."""

    def __init__(self, spec: ModelSpec, net: DBNet, loss: LossSettings):
        super().__init__(auto_prefix=False)  # else every parameter would silently be renamed
        self.net = net
        self.loss = DBLoss(net.head, loss)
        self.bgr = spec.pixels.colour == "BGR"
        self.mean = Tensor(np.array(spec.pixels.mean, np.float32).reshape(1, 3, 1, 1))
        self.std = Tensor(np.array(spec.pixels.std, np.float32).reshape(1, 3, 1, 1))

    def construct(self, image: Tensor, binary_map: Tensor, mask: Tensor, thresh_map: Tensor, thresh_mask: Tensor,
                  factor: Tensor) -> tuple[Tensor, Tensor]:
        x = ops.transpose(image, (0, 3, 1, 2)).astype(ms.float32)
        if self.bgr:
            x = ops.concat((x[:, 2:3], x[:, 1:2], x[:, 0:1]), 1)
        logits, threshold_logits = self.net.training_logits((x - self.mean) / self.std)
        parts = self.loss(logits, threshold_logits, binary_map.astype(ms.float32), mask.astype(ms.float32),
                          thresh_map, thresh_mask.astype(ms.float32))
        return parts[0] * factor, ops.stack(parts)


class Update(nn.Cell):
    """Gradients -> learned weights and their average, by the rules of torch's SGD and Adam.

    Not by MindSpore's own optimizers: its Adam adds epsilon before the second moment is corrected. Mapped over the
    parameters, because graph mode unrolls a loop into so many nested calls that ResNet-50 is too deep for it.
    """

    def __init__(self, spec: ModelSpec, net: DBNet, settings: OptimizerSettings):
        super().__init__(auto_prefix=False)
        self.name, self.momentum, self.eps = settings.name, settings.momentum, settings.eps
        # The differences are made here: graph mode knows float32 alone, in which 1 - 0.999 is off by 1e-5.
        self.fresh1, self.fresh2 = (1 - beta for beta in settings.betas)
        self.beta2 = settings.betas[1]
        self.clip_norm = settings.clip_norm
        self.weights = ParameterTuple(net.get_parameters())
        self.learned = ParameterTuple(net.trainable_params())
        pulled = decayed(spec, settings)
        self.decay = tuple(settings.weight_decay if p.name in pulled else 0.0 for p in self.learned)
        self.moments = tuple(_beside(self.learned, prefix) for prefix in MOMENTS[settings.name])
        self.average = None if settings.ema_decay is None else _beside(self.weights, AVERAGE, as_they_are=True)
        self.map = ops.HyperMap()
        self.apply_momentum = ops.ApplyMomentum()

    def construct(self, gradients: tuple[Tensor, ...], factor: Tensor | None, rate: Tensor, correction: Tensor,
                  blend: Tensor) -> Tensor:
        """Each number () float32. factor: of the gradients; None for 1. rate: Adam's with the correction of the first
        moment; correction: the root of that of the second. blend: share of the new weights in the average. Returns
        rate."""
        if self.clip_norm is not None:
            norm = length(gradients) if factor is None else length(gradients) * factor
            share = ops.minimum(self.clip_norm / (norm + 1e-6), 1.0)
            factor = share if factor is None else factor * share
        if self.name == "adam":
            done = self.map(ops.partial(self.adam, factor, rate, correction), gradients, self.learned, self.decay,
                            self.moments[0], self.moments[1])
        elif self.name == "momentum":
            done = self.map(ops.partial(self.with_momentum, factor, rate), gradients, self.learned, self.decay,
                            self.moments[0])
        else:
            done = self.map(ops.partial(self.plain, factor, rate), gradients, self.learned, self.decay)
        if self.average is not None:
            done = done, self.map(ops.partial(self.blended, blend), self.average, self.weights)
        return ops.depend(rate, done)  # so that no part of the update is taken for dead code

    def plain(self, factor: Tensor | None, rate: Tensor, gradient: Tensor, weight: Parameter, decay: float) -> Tensor:
        return ops.assign(weight, weight - rate * pull(factor, gradient, weight, decay))

    def with_momentum(self, factor: Tensor | None, rate: Tensor, gradient: Tensor, weight: Parameter, decay: float,
                      moment: Parameter) -> Tensor:
        """moment = momentum * moment + pull; weight = weight - rate * moment."""
        return self.apply_momentum(weight, moment, rate, pull(factor, gradient, weight, decay), self.momentum)

    def adam(self, factor: Tensor | None, rate: Tensor, correction: Tensor, gradient: Tensor, weight: Parameter,
             decay: float, moment1: Parameter, moment2: Parameter) -> Tensor:
        gradient = pull(factor, gradient, weight, decay)
        first = moment1 + self.fresh1 * (gradient - moment1)
        second = self.beta2 * moment2 + self.fresh2 * gradient * gradient
        change = first / (ops.sqrt(second) / correction + self.eps)
        return ops.assign(moment1, first), ops.assign(moment2, second), ops.assign(weight, weight - rate * change)

    def blended(self, blend: Tensor, average: Parameter, weight: Parameter) -> Tensor:
        return ops.assign(average, average + blend * (weight - average))


class Shared(nn.Cell):
    """The four losses and the gradients as the mean of all processes, and so from now on the batch norms' statistics.
    Nothing happens in a process alone."""

    def __init__(self, net: DBNet, size: int):
        super().__init__(auto_prefix=False)
        learned = net.trainable_params()
        names = {value.name for value in learned}
        self.alone = size == 1
        self.count = len(learned)
        self.statistics = ParameterTuple(value for value in net.get_parameters() if value.name not in names)
        self.mean = None if self.alone else Mean([(4,), *(v.shape for v in (*learned, *self.statistics))], size)
        self.map = ops.HyperMap()

    def construct(self, parts: Tensor, gradients: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.alone:
            return parts, gradients
        found = self.mean((parts, *gradients, *self.map(ops.partial(self.after, parts), self.statistics)))
        done = self.map(self.put, self.statistics, found[self.count + 1:])
        return ops.depend(found[0], done), ops.depend(found[1:self.count + 1], done)

    def after(self, parts: Tensor, value: Parameter) -> Tensor:
        """The batch norms have changed it when the losses are there."""
        return ops.depend(value, parts)

    def put(self, value: Parameter, mean: Tensor) -> Tensor:
        return ops.assign(value, mean)


class WholeStep(nn.Cell):
    """A batch -> the four losses, and the update done."""

    def __init__(self, criterion: Criterion, update: Update, shared: Shared):
        super().__init__(auto_prefix=False)
        self.update, self.shared = update, shared
        self.differentiate = ops.value_and_grad(criterion, None, update.learned, has_aux=True)

    def construct(self, image: Tensor, binary_map: Tensor, mask: Tensor, thresh_map: Tensor, thresh_mask: Tensor,
                  factor: Tensor, rate: Tensor, correction: Tensor, blend: Tensor) -> Tensor:
        (_, parts), gradients = self.differentiate(image, binary_map, mask, thresh_map, thresh_mask, factor)
        parts, gradients = self.shared(parts, gradients)
        done = self.update(gradients, None, rate, correction, blend)  # one batch as it is: the factor is 1
        return ops.depend(parts, done)


class Collect(nn.Cell):
    """A batch -> the four losses, and the length of all pending gradients, to which its own are added."""

    def __init__(self, criterion: Criterion, pending: ParameterTuple, weights: ParameterTuple, shared: Shared):
        super().__init__(auto_prefix=False)
        self.pending, self.map, self.shared = pending, ops.HyperMap(), shared
        self.differentiate = ops.value_and_grad(criterion, None, weights, has_aux=True)

    def construct(self, image: Tensor, binary_map: Tensor, mask: Tensor, thresh_map: Tensor, thresh_mask: Tensor,
                  factor: Tensor, begun: Tensor) -> tuple[Tensor, Tensor]:
        """begun: () bool, False for the first batch of a step, whatever is pending from before."""
        (_, parts), gradients = self.differentiate(image, binary_map, mask, thresh_map, thresh_mask, factor)
        parts, gradients = self.shared(parts, gradients)
        sums = self.map(ops.partial(self.added, begun), self.pending, gradients)
        return parts, length(sums)

    def added(self, begun: Tensor, pending: Parameter, gradient: Tensor) -> Tensor:
        return ops.assign(pending, gradient + ops.where(begun, pending, ops.zeros_like(gradient)))


class UpdatePending(nn.Cell):
    """The update with the pending gradients."""

    def __init__(self, update: Update, pending: ParameterTuple):
        super().__init__(auto_prefix=False)
        self.update, self.pending = update, pending

    def construct(self, factor: Tensor, rate: Tensor, correction: Tensor, blend: Tensor) -> Tensor:
        return self.update(self.pending, factor, rate, correction, blend)


def pull(factor: Tensor | None, gradient: Tensor, weight: Parameter, decay: float) -> Tensor:
    """gradient * factor + decay * weight, without the operations that change nothing: each goes over all weights."""
    scaled = gradient if factor is None else gradient * factor
    return scaled if decay == 0 else scaled + decay * weight


def length(gradients: tuple[Tensor, ...]) -> Tensor:
    """Of all gradients together, () float32."""
    return ops.sqrt(ops.addn(ops.HyperMap()(squared_length, gradients)))


def squared_length(gradient: Tensor) -> Tensor:
    return ops.square(gradient).sum()


class Trainer:
    """A network with its optimizer.

    weights: canonical names. world: the processes that learn together; after each batch all have the mean of their
    gradients, losses and batch norms' statistics, and so the same weights. steps: updates done; overflows: updates
    left out under `O2`. Switches the process to graph mode, as `runner.MindSporeRunner` does. Raises DbnetError for a
    device that is not there, and for weights that are not the spec's.
    """

    def __init__(self, spec: ModelSpec, weights: Mapping[str, np.ndarray], optimizer: OptimizerSettings,
                 loss: LossSettings, device: str | None = None, amp: Precision = "O0",
                 world: World | None = None):
        self.spec, self.settings = spec, optimizer
        self.amp = check_precision(amp)
        arrays = runnable(spec, weights)
        self._device = compat.set_device(None if device is None else parse_device(device))
        self.device = "cpu" if self._device.kind == "cpu" else f"{self._device.kind}:{self._device.index}"
        if amp == "bf16" and self._device.kind == "cpu":
            raise DbnetError("MindSpore's CPU operators do not compute in bfloat16; use O0 or O2, or another backend")
        compat.keep_float32(self._device.kind)
        ms.set_context(mode=ms.GRAPH_MODE)
        compat.cure_avx512()
        self.net = DBNet(spec)
        for parameter in self.net.get_parameters():
            parameter.set_data(Tensor(arrays[parameter.name]))
        if amp != "O0":
            _compute_in(self.net, ms.float16 if amp == "O2" else ms.bfloat16)
        self.scale = LossScale(optimizer.loss_scale, amp == "O2")
        self.steps, self.overflows, self.waiting = 0, 0, 0
        self._prepared: set[tuple[int, ...]] = set()
        self._update = Update(spec, self.net, optimizer)
        criterion = Criterion(spec, self.net, loss)
        shared = Shared(self.net, 1 if world is None else world.size)
        self._pending: ParameterTuple | None = None
        if self.scale.active or optimizer.accumulate > 1:
            self._pending = _beside(self._update.learned, PENDING)
            self._step = Collect(criterion, self._pending, self._update.learned, shared)
            self._finish = UpdatePending(self._update, self._pending)
        else:
            self._step = WholeStep(criterion, self._update, shared)
        self._step.set_train(True)
        criterion.set_train(True)

    def prepare(self, batch: Example) -> None:
        """What a step with such a batch needs beforehand, so that other processes need not wait: its graph. They would
        wait for 30 s on a CPU, and to compile takes 5 to 30 s.

        Raises DbnetError for a batch that cannot be learned from, or where MindSpore fails.
        """
        if batch.image.shape not in self._prepared:
            check_batch(batch)
            with self._explained(batch):
                self._step.compile(*self._inputs(batch, 0.0))
            self._prepared.add(batch.image.shape)

    def step(self, batch: Example, rate: float) -> Tensor:
        """Learns from one batch; (4,) float32 on the device: what `losses` reads. The first batch of each size is
        compiled, which takes 5 to 30 s.

        Raises DbnetError for a batch that cannot be learned from, or where MindSpore fails.
        """
        check_batch(batch)
        with self._explained(batch):
            if self._pending is None:
                parts = self._step(*self._inputs(batch, rate))
                self.steps += 1
                return parts
            parts, norm = self._step(*self._inputs(batch, rate))
            self.waiting += 1
            if self.waiting == self.settings.accumulate:
                finite = not self.scale.active or bool(np.isfinite(norm.asnumpy()))
                if finite:
                    self._finish(_number(1 / self.scale.value), *self._numbers(rate))
                    self.steps += 1
                self.overflows += not finite
                self.scale.update(finite)
                self.waiting = 0
            return parts

    def _inputs(self, batch: Example, rate: float) -> list[Tensor]:
        """Of `_step`."""
        arrays = [Tensor(np.ascontiguousarray(array)) for array in batch[:-1]]
        factor = _number(self.scale.value / self.settings.accumulate)
        rest = self._numbers(rate) if self._pending is None else (Tensor(self.waiting > 0),)
        return [*arrays, factor, *rest]

    @contextlib.contextmanager
    def _explained(self, batch: Example) -> Iterator[None]:
        """Raises DbnetError where MindSpore fails."""
        try:
            with compat.kept_signals():
                yield
        except (RuntimeError, MemoryError) as error:
            raise DbnetError(f"MindSpore failed on {self.device} with a batch of shape {batch.image.shape}: "
                             f"{compat.first_sentence(error)}; try a smaller batch or another device") from error
        except TypeError as error:  # what a kernel says that there is not for the type
            if self.amp == "O0":
                raise
            raise DbnetError(f"MindSpore {ms.__version__} cannot compute this network under {self.amp} on "
                             f"{self.device}: {compat.first_sentence(error)}; use O0") from error

    def _numbers(self, rate: float) -> tuple[Tensor, Tensor, Tensor]:
        """rate, correction and blend of `Update`, for the next step; computed in float64."""
        step, correction = self.steps + 1, 1.0
        if self.settings.name == "adam":
            beta1, beta2 = self.settings.betas
            rate, correction = rate / (1 - beta1**step), (1 - beta2**step) ** 0.5
        return _number(rate), _number(correction), _number(1 - average_decay(self.settings, step))

    def weights(self, average: bool = False) -> dict[str, np.ndarray]:
        """Canonical names -> float32 arrays, copies; average: those of the EMA, if one is kept."""
        kept = self._update.average
        return _arrays(kept, AVERAGE) if average and kept is not None else _arrays(self._update.weights)

    def state(self) -> dict[str, np.ndarray]:
        """Everything to go on with, in either half: see `dbnet.training`. The arrays are copies."""
        update, settings = self._update, self.settings
        moments = tuple(_arrays(group, prefix)
                        for prefix, group in zip(MOMENTS[settings.name], update.moments, strict=True))
        average = None if update.average is None else _arrays(update.average, AVERAGE)
        pending = None
        if self._pending is not None and self.waiting:
            pending = without_scale(_arrays(self._pending, PENDING), self.scale)
        progress = Progress(self.steps, self.overflows, self.waiting, *self.scale.kept)
        return packed(TrainingState(self.weights(), moments, average, pending, progress), settings)

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on where a trainer of either half was when it gave this state. Raises DbnetError, and changes nothing,
        for one of another network or optimizer."""
        found, update = unpacked(self.spec, self.settings, state), self._update
        self.scale.resume(found.progress)
        _fill(update.weights, found.weights)
        for prefix, group, arrays in zip(MOMENTS[self.settings.name], update.moments, found.moments, strict=True):
            _fill(group, arrays, prefix)
        if update.average is not None and found.average is not None:
            _fill(update.average, found.average, AVERAGE)
        if self._pending is not None and found.pending is not None:
            _fill(self._pending, with_scale(found.pending, self.scale), PENDING)
        self.steps, self.overflows = found.progress.global_step, found.progress.overflows
        self.waiting = found.progress.accumulation_step


def be_repeatable() -> None:
    """Has MindSpore compute the same each time, in this process; to be called before anything is computed."""
    compat.be_repeatable()


def losses(parts: Tensor) -> Losses:
    """Waits for the device."""
    return Losses(*parts.asnumpy().tolist())


def _number(value: float) -> Tensor:
    return Tensor(value, ms.float32)


def _beside(values: Iterable[Parameter], prefix: str, as_they_are: bool = False) -> ParameterTuple:
    """Parameters of the same shapes under prefixed names: zeros, or copies."""
    return ParameterTuple(
        Parameter(Tensor(value.asnumpy().copy() if as_they_are else np.zeros(value.shape, np.float32)),
                  name=prefix + value.name, requires_grad=False) for value in values)


def _arrays(values: ParameterTuple, prefix: str = "") -> dict[str, np.ndarray]:
    """Copies: `asnumpy` shows MindSpore's own memory, which the next step changes."""
    return {value.name.removeprefix(prefix): value.asnumpy().copy() for value in values}


def _fill(values: ParameterTuple, arrays: Mapping[str, np.ndarray], prefix: str = "") -> None:
    for value in values:
        value.set_data(Tensor(arrays[value.name.removeprefix(prefix)]))


def _compute_in(net: DBNet, dtype: Any) -> None:
    """Has the layers with kernels compute in a short type, as torch's autocast has; the weights stay in float32."""
    for _, cell in net.cells_and_names():
        if isinstance(cell, (nn.Conv2d, nn.Conv2dTranspose, nn.Dense)):
            cell.to_float(dtype)
        elif isinstance(cell, nn.BatchNorm2d):
            cell.to_float(ms.float32)
