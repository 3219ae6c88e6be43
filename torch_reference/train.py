"""One network learning in PyTorch: a batch in, a step done. Data, schedule and files are the caller's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from dbnet.errors import DbnetError
from dbnet.loss_settings import Losses, LossSettings
from dbnet.parameters import parameters
from dbnet.running import runnable
from dbnet.spec import ModelSpec
from dbnet.train_settings import OptimizerSettings, Precision, average_decay
from dbnet.training import (
    MOMENTS,
    LossScale,
    Progress,
    TrainingState,
    check_batch,
    check_precision,
    decayed,
    learned,
    packed,
    unpacked,
    with_scale,
    without_scale,
)
from dbnet.training_set import Example
from torch_reference.dbnet import DBNet
from torch_reference.loss import DBLoss
from torch_reference.runner import choose_device
from torch_reference.world import Mean, World

#: What torch's optimizers call the entries of `dbnet.training.MOMENTS`.
_BUFFERS = {"moments.": "momentum_buffer", "moment1.": "exp_avg", "moment2.": "exp_avg_sq"}
_NETWORK = "the network and what its optimizer remembers; use a smaller network, or another device"
_AUTOCAST: dict[Precision, torch.dtype | None] = {"O0": None, "O2": torch.float16, "bf16": torch.bfloat16}


class Trainer:
    """A network with its optimizer.

    weights: canonical names. world: the processes that learn together; after each batch all have the mean of their
    gradients, losses and batch norms' statistics, and so the same weights. steps: updates done; overflows: updates
    left out under `O2`. Raises DbnetError for a device that is not there, and for weights that are not the spec's.
    """

    #: What `O0` computes in; float64 makes a referee of a subclass.
    dtype = torch.float32

    def __init__(self, spec: ModelSpec, weights: Mapping[str, np.ndarray], optimizer: OptimizerSettings,
                 loss: LossSettings, device: str | None = None, amp: Precision = "O0",
                 world: World | None = None):
        self.spec, self.settings = spec, optimizer
        self.device = choose_device(device)
        arrays = runnable(spec, weights)
        with self._explained(_NETWORK):
            self._build(spec, arrays, optimizer, loss, amp, world)

    def _build(self, spec: ModelSpec, arrays: Mapping[str, np.ndarray], optimizer: OptimizerSettings,
               loss: LossSettings, amp: Precision, world: World | None) -> None:
        self.net = DBNet(spec)
        self.net.load_state_dict({p.name_in("torch"): torch.from_numpy(arrays[p.name]) for p in parameters(spec)},
                                 strict=True)
        self.layout = torch.channels_last if self.device.type == "cuda" else torch.contiguous_format
        self.net.to(self.device, self.dtype, memory_format=self.layout).train(True)
        self.loss = DBLoss(self.net.head, loss)
        self.amp = _AUTOCAST[check_precision(amp)]
        self.scale = LossScale(optimizer.loss_scale, amp == "O2")
        self.steps, self.overflows, self.waiting = 0, 0, 0
        named = self.net.state_dict(keep_vars=True)
        self._all = {p.name: named[p.name_in("torch")] for p in parameters(spec)}
        self._learned = {p.name: self._all[p.name] for p in learned(spec)}
        self._statistics = [value for name, value in self._all.items() if name not in self._learned]
        shapes = [tuple(value.shape) for value in (*self._learned.values(), *self._statistics)]
        self._mean = None if world is None or world.size == 1 else Mean([*shapes, (4,)], world.size)
        self.optimizer = _optimizer(self._learned, decayed(spec, optimizer), optimizer)
        self._average = None if optimizer.ema_decay is None else {
            name: value.detach().clone() for name, value in self._all.items()}
        self.mean, self.std = (torch.tensor(values, dtype=self.dtype, device=self.device).view(1, 3, 1, 1)
                               for values in (spec.pixels.mean, spec.pixels.std))

    def prepare(self, batch: Example) -> None:
        """What a step with such a batch needs beforehand, so that other processes need not wait: nothing here."""

    def step(self, batch: Example, rate: float) -> Tensor:
        """Learns from one batch; (4,) float32 on the device: what `losses` reads.

        Raises DbnetError for a batch that cannot be learned from, or is too large for the device's memory.
        """
        check_batch(batch)
        count, height, width = batch.image.shape[:3]
        with self._explained(f"batches of {count} images of {height} x {width} px; use a smaller batch or crop, and "
                             f"accumulate the gradients of several"), self._precise():
            images, maps = self._on_device(batch)
            with self._mixed():
                logits, threshold_logits = self.net.training_logits(images)
            parts = self.loss(logits, threshold_logits, *maps)
            (parts[0] * (self.scale.value / self.settings.accumulate)).backward()
            found = self._averaged(torch.stack([part.detach() for part in parts]))
            self.waiting += 1
            if self.waiting == self.settings.accumulate:
                self._update(rate)
        return found

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Raises DbnetError where torch has too little memory, or cannot compute repeatably. what: what the memory is
        for, and what to do."""
        try:
            yield
        except RuntimeError as error:
            if torch.are_deterministic_algorithms_enabled() and "deterministic" in str(error):
                raise DbnetError(f"torch {torch.__version__} cannot compute the same each time on {self.device}: "
                                 f"{str(error).splitlines()[0]}; leave out --deterministic") from error
            if not isinstance(error, torch.cuda.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            raise DbnetError(f"{self.device} has too little memory for {what}") from error

    @torch.no_grad()
    def _averaged(self, parts: Tensor) -> Tensor:
        """The parts as the mean of all processes, and so from now on the gradients and the statistics."""
        if self._mean is None:
            return parts
        ours = [*(value.grad for value in self._learned.values()), *self._statistics]
        *theirs, parts = self._mean((*ours, parts))
        torch._foreach_copy_(ours, theirs)
        return parts

    def _mixed(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.amp is None else torch.autocast(self.device.type, self.amp)

    def _precise(self) -> contextlib.AbstractContextManager[None]:
        """Under `O0` convolutions on NVIDIA's cards compute in float32, not in TF32, as those of the other half do."""
        if self.device.type != "cuda" or self.amp is not None:
            return contextlib.nullcontext()
        cudnn = torch.backends.cudnn
        return cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic,
                           allow_tf32=False)

    def _update(self, rate: float) -> None:
        """With the gradients of `waiting` batches, unless they overflowed."""
        gradients = [value.grad for value in self._learned.values()]
        if self.scale.active:
            torch._foreach_mul_(gradients, 1 / self.scale.value)
        finite = True
        if self.scale.active or self.settings.clip_norm is not None:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            finite = not self.scale.active or bool(torch.isfinite(norm))
            if self.settings.clip_norm is not None:
                torch._foreach_mul_(gradients, torch.clamp(self.settings.clip_norm / (norm + 1e-6), max=1.0))
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.steps += 1
            self._blend()
        self.overflows += not finite
        self.scale.update(finite)
        self.optimizer.zero_grad(set_to_none=True)
        self.waiting = 0

    def _blend(self) -> None:
        if self._average is not None:
            decay = average_decay(self.settings, self.steps)
            now = [value.detach() for value in self._all.values()]
            torch._foreach_lerp_(list(self._average.values()), now, 1 - decay)

    def _on_device(self, batch: Example) -> tuple[Tensor, list[Tensor]]:
        """Images (N, 3, H, W) float32 as the network takes them, and the loss's four maps (N, H, W) float32."""
        arrays = [torch.from_numpy(array).to(self.device, non_blocking=True) for array in batch[:-1]]
        images = arrays[0].permute(0, 3, 1, 2).to(self.dtype)
        if self.spec.pixels.colour == "BGR":
            images = images.flip(1)
        images = ((images - self.mean) / self.std).contiguous(memory_format=self.layout)
        return images, [array.to(self.dtype) for array in arrays[1:]]

    def weights(self, average: bool = False) -> dict[str, np.ndarray]:
        """Canonical names -> float32 arrays, copies; average: those of the EMA, if one is kept."""
        return _arrays(self._average if average and self._average is not None else self._all)

    def state(self) -> dict[str, np.ndarray]:
        """Everything to go on with, in either half: see `dbnet.training`. The arrays are copies."""
        buffers = [{name: self.optimizer.state[value].get(_BUFFERS[prefix]) for name, value in self._learned.items()}
                   for prefix in MOMENTS[self.settings.name]]
        moments = tuple(_arrays({name: torch.zeros_like(self._all[name]) if value is None else value
                                 for name, value in group.items()}) for group in buffers)
        pending = None
        if self.waiting:
            pending = without_scale(_arrays({n: value.grad for n, value in self._learned.items()}), self.scale)
        progress = Progress(self.steps, self.overflows, self.waiting, *self.scale.kept)
        return packed(TrainingState(self.weights(), moments, self._average and _arrays(self._average),
                                    pending, progress), self.settings)

    @torch.no_grad()
    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on where a trainer of either half was when it gave this state. Raises DbnetError, and changes nothing,
        for one of another network or optimizer."""
        found = unpacked(self.spec, self.settings, state)
        with self._explained(_NETWORK):
            self._put(found)

    def _put(self, found: TrainingState) -> None:
        self.scale.resume(found.progress)
        pending = found.pending and with_scale(found.pending, self.scale)
        for name, value in self._all.items():
            value.copy_(torch.from_numpy(found.weights[name]))
        for name, value in self._learned.items():
            buffers = {_BUFFERS[prefix]: torch.empty_like(value).copy_(torch.from_numpy(arrays[name]))
                       for prefix, arrays in zip(MOMENTS[self.settings.name], found.moments, strict=True)}
            if self.settings.name == "adam":
                buffers["step"] = torch.tensor(float(found.progress.global_step))
            self.optimizer.state[value] = buffers
            value.grad = pending and torch.empty_like(value).copy_(torch.from_numpy(pending[name]))
        for name, value in (self._average or {}).items():
            assert found.average is not None
            value.copy_(torch.from_numpy(found.average[name]))
        self.steps, self.overflows = found.progress.global_step, found.progress.overflows
        self.waiting = found.progress.accumulation_step


def be_repeatable() -> None:
    """Has torch compute the same each time, in this process; to be called before anything is computed."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def losses(parts: Tensor) -> Losses:
    """Waits for the device."""
    return Losses(*parts.tolist())


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Copies as C-contiguous arrays."""
    return {name: np.array(value.detach().cpu().numpy(), order="C") for name, value in tensors.items()}


def _optimizer(values: Mapping[str, Tensor], pulled: set[str], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """pulled: names of those that weight decay pulls at."""
    groups = [{"params": [value for name, value in values.items() if (name in pulled) is wanted],
               "weight_decay": settings.weight_decay if wanted else 0.0} for wanted in (True, False)]
    groups = [group for group in groups if group["params"]]
    if settings.name == "adam":
        return torch.optim.Adam(groups, lr=0.0, betas=settings.betas, eps=settings.eps)
    momentum = settings.momentum if settings.name == "momentum" else 0.0
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum)
