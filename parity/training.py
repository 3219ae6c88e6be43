"""Training in both halves: the same batches, losses and trainers for each, and a float64 referee in torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from dbnet.datasets.drawn import draw
from dbnet.initial import initial_weights
from dbnet.loss_settings import Losses, LossSettings
from dbnet.spec import SPECS, ModelSpec, StepFunction
from dbnet.targets import make_targets
from dbnet.train_settings import OptimizerSettings, Precision
from dbnet.training import MOMENTS, Progress, TrainingState, decayed, learned, packed
from dbnet.training_set import Example, stacked

HALVES = ("torch", "mindspore")
REFEREE = "float64"
#: Of the names of the halves and the referee, the one that computes them.
_PACKAGES = {"torch": "torch_reference", "mindspore": "ms_models", REFEREE: "torch_reference"}
#: Drawn images are this many times as large as the crops, so that their lines are not thinner than a pixel.
_SHRINK = 3


def drawn_batch(seed: int, count: int = 2, height: int = 64, width: int = 96) -> Example:
    """`count` drawn images with their maps; another seed, other images."""
    return stacked([_drawn(1000 * seed + i, height, width) for i in range(count)])


def _drawn(seed: int, height: int, width: int) -> Example:
    image, polygons = draw(seed, _SHRINK * height, _SHRINK * width, words=2)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)[:, :, ::-1]
    maps = make_targets([polygon / _SHRINK for polygon in polygons], [False] * len(polygons), height, width,
                        min_text_size=4)
    return Example(np.ascontiguousarray(image), maps.binary_map.astype(np.uint8), maps.mask.astype(np.uint8),
                   maps.thresh_map, maps.thresh_mask.astype(np.uint8), (f"drawn {seed}",))


# Losses ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossInputs:
    """logits, threshold_logits: (N, 1, H, W) of any float type; the maps (N, H, W) float32."""

    logits: np.ndarray
    threshold_logits: np.ndarray
    binary_map: np.ndarray
    mask: np.ndarray
    thresh_map: np.ndarray
    thresh_mask: np.ndarray

    def arrays(self) -> tuple[np.ndarray, ...]:
        return (self.logits, self.threshold_logits, self.binary_map, self.mask, self.thresh_map, self.thresh_mask)


@dataclass(frozen=True)
class LossOutputs:
    """The four losses, and the gradients of the first by both logits, (N, 1, H, W) float64."""

    losses: Losses
    by_logits: np.ndarray
    by_threshold_logits: np.ndarray


def loss_function(name: str, settings: LossSettings,
                  step_function: StepFunction) -> Callable[[LossInputs], LossOutputs]:
    """The loss of a half, or of the referee, which takes the same values to float64 before it computes."""
    spec = replace(SPECS["dbnet_resnet18"], step_function=step_function)
    package = _PACKAGES[name]
    head = importlib.import_module(f"{package}.head").DBHead(spec)
    loss = importlib.import_module(f"{package}.loss").DBLoss(head, settings)
    if name == "mindspore":
        return _in_mindspore(loss)
    return _in_torch(loss, exact=name == REFEREE)


def _in_torch(loss: Any, exact: bool) -> Callable[[LossInputs], LossOutputs]:
    import torch

    def compute(inputs: LossInputs) -> LossOutputs:
        tensors = [torch.from_numpy(array.astype(np.float64) if exact else array) for array in inputs.arrays()]
        for logits in tensors[:2]:
            logits.requires_grad_()
        parts = loss(*tensors)
        parts[0].backward()
        by = [tensor.grad.double().numpy() for tensor in tensors[:2]]
        return LossOutputs(Losses(*(part.item() for part in parts)), *by)

    return compute


def _in_mindspore(loss: Any) -> Callable[[LossInputs], LossOutputs]:
    import mindspore as ms
    from mindspore import ops

    from ms_models import compat
    compat.set_device(None)
    ms.set_context(mode=ms.GRAPH_MODE)
    compat.cure_avx512()
    differentiate = ops.value_and_grad(loss, (0, 1), None, has_aux=True)

    def compute(inputs: LossInputs) -> LossOutputs:
        parts, by = differentiate(*(ms.Tensor(array) for array in inputs.arrays()))
        return LossOutputs(Losses(*(float(part.asnumpy()) for part in parts)),
                           *(each.asnumpy().astype(np.float64) for each in by))

    return compute


# Trainers -------------------------------------------------------------------------------------------------------------


def start_state(spec: ModelSpec, optimizer: OptimizerSettings, seed: int = 0) -> dict[str, np.ndarray]:
    """A trainer's state before its first step: initial weights, no moments."""
    weights = initial_weights(spec, seed)
    zeros = {p.name: np.zeros(p.shape, np.float32) for p in learned(spec)}
    average = weights if optimizer.ema_decay is not None else None
    return packed(TrainingState(weights, (zeros,) * len(MOMENTS[optimizer.name]), average, None, Progress()), optimizer)


def quiet_start(spec: ModelSpec, optimizer: OptimizerSettings, seed: int = 0) -> dict[str, np.ndarray]:
    """A start whose residual blocks add next to nothing, as of a network with `zero-init residual`: an error in one
    layer then does not grow by a factor in each of the next fifty."""
    state = start_state(spec, optimizer, seed)
    last = f".bn{2 if spec.backbone == 'resnet18' else 3}.gamma"
    return state | {name: array * np.float32(0.05) for name, array in state.items()
                    if name.startswith("backbone.layer") and name.endswith(last)}


def new_trainer(name: str, spec: ModelSpec, optimizer: OptimizerSettings, amp: Precision = "O0",
                device: str = "cpu") -> Any:
    """A trainer of a half, or the referee: torch's with everything in float64."""
    module = importlib.import_module(f"{_PACKAGES[name]}.train")
    kind = module.Trainer
    if name == REFEREE:
        import torch
        kind = type("Referee", (kind,), {"dtype": torch.float64})
    return kind(spec, initial_weights(spec, 0), optimizer, LossSettings(), device, amp)


@dataclass
class Gym:
    """Trainers, made and compiled once for all tests: each test puts its own state into them."""

    device_of: Callable[[str], str] = lambda name: "cpu"

    def __post_init__(self) -> None:
        self._trainers: dict[tuple[str, ModelSpec, OptimizerSettings], Any] = {}

    def trainer(self, name: str, spec: ModelSpec, optimizer: OptimizerSettings, state: Mapping[str, np.ndarray]) -> Any:
        """The trainer of that kind, at `state`."""
        key = (name, spec, optimizer)
        if key not in self._trainers:
            self._trainers[key] = new_trainer(name, spec, optimizer, device=self.device_of(name))
        self._trainers[key].load_state(state)
        return self._trainers[key]


def run_steps(trainer: Any, batches: Sequence[Example], rates: Sequence[float]) -> np.ndarray:
    """The four losses of each step, (steps, 4)."""
    parts = [trainer.step(batch, rate) for batch, rate in zip(batches, rates, strict=True)]
    return np.array([part.tolist() for part in parts])


def gradients(trainer: Any, batch: Example) -> dict[str, np.ndarray]:
    """Of every learned parameter, float64: at a rate of 0 a momentum optimizer's moments are the gradients of its first
    step, weight decay included, which is taken off again."""
    assert trainer.settings.name == "momentum" and trainer.settings.clip_norm is None
    trainer.step(batch, 0.0)
    state, pulled = trainer.state(), decayed(trainer.spec, trainer.settings)
    decay = {name: trainer.settings.weight_decay if name in pulled else 0.0 for name in state}
    return {p.name: state[f"moments.{p.name}"].astype(np.float64) - decay[p.name] * state[p.name].astype(np.float64)
            for p in learned(trainer.spec)}
