"""Runs the PyTorch half on arrays."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from dbnet.errors import DbnetError, short
from dbnet.parameters import parameters
from dbnet.precision import FORMATS, SIGMOID, Counts, HalfFormat, always_float32, kept_layers, taken
from dbnet.running import (
    Device,
    DeviceKind,
    check_images,
    check_stages,
    driver_version,
    parse_device,
    require_training_branch,
    runnable,
)
from dbnet.spec import STAGES, TRAINING_STAGES, ModelSpec
from torch_reference.compiled import CompiledStages
from torch_reference.dbnet import DBNet
from torch_reference.fpn import AdaptiveScaleFusion, ResidualSqueeze, SqueezeExciteConv
from torch_reference.mobilenet import HardSigmoid, InvertedResidual, SqueezeExcite
from torch_reference.resnet import BasicBlock, Bottleneck

#: torch's name of a kind of device -> ours.
_KINDS: dict[str, DeviceKind] = {"cpu": "cpu", "cuda": "gpu", "npu": "ascend"}
_TYPES = {"float32": torch.float32, "float64": torch.float64, "fp16": torch.float16, "bf16": torch.bfloat16}
#: Modules whose outputs are no selection of their inputs' values, but for the convolutions and norms.
_COMPUTING = (nn.Sigmoid, nn.Hardswish, HardSigmoid, SqueezeExcite, SqueezeExciteConv, ResidualSqueeze)
#: Layers that take what no module gives, and its name.
_AFTER = {"neck.fuse.chan_att.0": "neck.fuse.chan_mean", "neck.fuse.spat_att.0": "neck.fuse.spat_mean",
          "neck.fuse.scale_att.0": "neck.fuse.spat_add"}


class TorchRunner:
    """A model in evaluation mode; see `evaluation.runners.Runner`.

    weights: canonical names, any float type. device: `cpu`, `cuda:0`, `npu:0`, ...; default the best present.
    threads: of this process's CPU operators; default torch's own choice. precision: `float64` is the referee; its
    stages come as float64. `fp16`, `bf16`: weights, images and maps in that type, stages as float32; the layers of
    keep_float32 (or modules that hold them) and deformable convolutions stay float32, and an operator without weights
    takes the wider type. counts: layer -> what its outputs were, `taken(layer)` -> what it took, once
    `count` was called. compiled: by torch.compile, see `torch_reference.compiled`; float32 only. Raises DbnetError for
    a device that is not there, and for weights that are not the spec's.
    """

    name = "torch"
    digest: str | None = None

    def __init__(self, spec: ModelSpec, weights: Mapping[str, np.ndarray], device: str | None = None,
                 stages: tuple[str, ...] = ("probability",), threads: int | None = None,
                 precision: Literal["float32", "float64", "fp16", "bf16"] = "float32",
                 keep_float32: Collection[str] = (), compiled: bool = False):
        if precision not in _TYPES:
            raise DbnetError(f"precision cannot be {precision!r}; choose from {', '.join(_TYPES)}")
        if compiled and precision != "float32":
            raise DbnetError(f"torch.compile is for float32 here, not for {precision}; use --runner torch")
        self.spec, self.stages, self.precision = spec, check_stages(stages), precision
        self.kept = kept_layers(spec, keep_float32)
        self.counts: dict[str, Counts] = {}
        require_training_branch(self.stages, weights)
        self._device = choose_device(device)
        self.device = str(self._device)
        if threads is not None:
            torch.set_num_threads(threads)
        self._wide = torch.float64 if precision == "float64" else torch.float32
        arrays = runnable(spec, weights, np.float64 if precision == "float64" else np.float32)
        with torch.device("meta"):  # no time spent on initial values
            self.net = DBNet(spec)
        # The batch norms' counters, which have no home in the canonical names, are made by torch itself.
        self.net.load_state_dict({p.name_in("torch"): torch.from_numpy(arrays[p.name]) for p in parameters(spec)},
                                 strict=True, assign=True)
        self.net.to(self._device).train(False)
        self._compiled = CompiledStages(self.net, self.stages) if compiled else None
        if precision in FORMATS:
            _shorten(self.net, _TYPES[precision], self.kept | always_float32(spec))

    def count(self, form: HalfFormat) -> None:
        """From now on every run adds to `counts` what rounding to `form` would do to the outputs of each layer, and of
        the sums and products between them. What a run in half precision gives is rounded already.
        """
        def record(name: str, value: torch.Tensor) -> None:
            self.counts[name] = self.counts.get(name, Counts()) + _counted(value, form)
        for name, module in self.net.named_modules():
            _watch(name, module, record)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The stages of (N, 3, H, W) float32 images, which must be multiples of 32 px. Raises DbnetError otherwise."""
        check_images(images)
        with self._told(images), torch.inference_mode(), self._exact():
            x = torch.tensor(images, dtype=self._wide, device=self._device)
            if self._compiled is not None:
                return {stage: out.cpu().numpy() for stage, out in self._compiled(x).items()}
            maps = dict(zip(STAGES, self.net.stages(x), strict=True))
            if any(stage in TRAINING_STAGES for stage in self.stages):
                training_maps = self.net.head.training_maps(maps["fused"], maps["probability"])
                maps.update(zip(TRAINING_STAGES, training_maps, strict=True))
            return {stage: maps[stage].to(self._wide).cpu().numpy() for stage in self.stages}

    def parts(self, images: np.ndarray, maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every stage from the `maps` given for those before it. Raises DbnetError."""
        check_images(images)
        with self._told(images), torch.inference_mode(), self._exact():
            x = torch.tensor(images, dtype=self._wide, device=self._device)
            # What a layer in half precision gave before is of that type; beside kept ones either may be.
            kind = self._wide if self.kept else _TYPES[self.precision]
            given = tuple(torch.tensor(maps[stage], dtype=kind, device=self._device) for stage in STAGES)
            return {stage: out.to(self._wide).cpu().numpy()
                    for stage, out in zip(STAGES, self.net.parts(x, given), strict=True)}

    @contextlib.contextmanager
    def _told(self, images: np.ndarray) -> Iterator[None]:
        """A failure of torch's own, such as too little memory, as one line."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            why = short(str(error).partition("\n")[0] or "not enough memory")
            raise DbnetError(f"torch failed on {self.device} at {images.shape}: {why}; try a smaller image or another "
                             f"device") from error

    def _exact(self) -> contextlib.AbstractContextManager[None]:
        """On NVIDIA's cards torch runs float32 convolutions in TF32 by default, which keeps three decimal digits."""
        if self._device.type != "cuda":
            return contextlib.nullcontext()
        return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)

    def environment(self) -> dict[str, Any]:
        """What can move a number: versions, device, precision, threads."""
        kind: DeviceKind = _KINDS[self._device.type]
        return {
            "framework": "torch", "version": torch.__version__, "numpy": np.__version__, "device": self.device,
            "device_name": torch.cuda.get_device_name(self._device) if kind == "gpu" else None,
            "driver": driver_version(kind), "cuda": torch.version.cuda if kind == "gpu" else None,
            "precision": self.precision, **({"compiled": "inductor"} if self._compiled else {}),
            **({"kept_float32": sorted(self.kept)} if self.kept else {}),
            "tf32": False if kind == "gpu" else None, "hf32": None, "jit_level": None,
            "threads": torch.get_num_threads(), "onednn": torch.backends.mkldnn.is_available(),
        }


def choose_device(text: str | None) -> torch.device:
    """torch's device of that name; None: the best present. Raises DbnetError if there is none."""
    npu = getattr(torch, "npu", None)  # there once torch_npu is installed
    counts = {"gpu": torch.cuda.device_count() if torch.cuda.is_available() else 0,
              "ascend": npu.device_count() if npu is not None and npu.is_available() else 0}
    if text is None:
        wanted = Device(next((kind for kind in ("gpu", "ascend") if counts[kind]), "cpu"))
    else:
        wanted = parse_device(text)
    if wanted.kind == "cpu":
        return torch.device("cpu")
    if wanted.index >= counts[wanted.kind]:
        needs = "torch_npu and CANN" if wanted.kind == "ascend" else "a CUDA build of torch and NVIDIA's driver"
        raise DbnetError(f"no device {text} for torch {torch.__version__}, which finds {counts[wanted.kind]} of that "
                         f"kind: it needs {needs}; or use --device cpu")
    return torch.device(next(name for name, kind in _KINDS.items() if kind == wanted.kind), wanted.index)


# Half precision -------------------------------------------------------------------------------------------------------


def _has_weights(name: str, module: nn.Module) -> bool:
    """Whether it is a layer that may be kept in float32, or one of the training branch."""
    return name == SIGMOID or any(True for _ in module.parameters(recurse=False))


def _shorten(net: DBNet, kind: torch.dtype, keep: Collection[str]) -> None:
    """Every layer takes its inputs and has its weights in `kind`, those to `keep` in float32."""
    for name, module in net.named_modules():
        if _has_weights(name, module):
            own = torch.float32 if name in keep else kind
            module.to(own)
            module.register_forward_pre_hook(
                lambda _module, inputs, own=own: tuple(x.to(own) for x in inputs))  # type: ignore[misc]


def _watch(name: str, module: nn.Module, record: Callable[[str, torch.Tensor], None]) -> None:
    """Has `record` called with what a module computes, or takes where that is a sum of two maps. The names are those of
    the nodes in our ONNX graphs.
    """
    def output(called: str) -> None:
        module.register_forward_hook(lambda _module, _inputs, value: record(called, value))

    def takes(called: str) -> None:  # before the hook that shortens it
        module.register_forward_pre_hook(lambda _module, inputs: record(called, inputs[0]), prepend=True)

    if name.startswith("head.thresh"):
        return
    if _has_weights(name, module) or isinstance(module, _COMPUTING):
        output(name.removesuffix(".0") if name.endswith(".layers.2.0") else name)
    if _has_weights(name, module):
        takes(taken(name))
    if isinstance(module, InvertedResidual) and module.residual:
        output(f"{name}.add")
    if isinstance(module, BasicBlock | Bottleneck):
        module.relu.register_forward_pre_hook(_last_of(
            2 if isinstance(module, BasicBlock) else 3, lambda value: record(f"{name}.add", value)))
    if isinstance(module, AdaptiveScaleFusion):
        if module.chan_att is not None:
            kept: list[torch.Tensor] = []
            module.conv.register_forward_hook(lambda _module, _inputs, value: kept.append(value))
            module.chan_att.register_forward_hook(
                lambda _module, _inputs, value: record(f"{name}.chan_add", value + kept.pop()))
        for i in range(4):
            module.register_forward_hook(
                lambda _module, _inputs, value, i=i: record(f"{name}.weigh.{i}", value.chunk(4, 1)[i]))  # type: ignore[misc]
    parent, _, last = name.rpartition(".")
    if parent in ("neck.out", "neck.inp_conv") and last != "3":
        takes(f"neck.add.{last}")
    elif last == "conv_reduce" or (parent.endswith(".se_block") and last == "conv1"):
        takes(f"{parent}.mean")
    elif name in _AFTER:
        takes(_AFTER[name])


def _last_of(calls: int, record: Callable[[torch.Tensor], None]) -> Callable[..., None]:
    """A hook that has the input of every `calls`th call recorded: a block's one activation takes its sum last."""
    done = itertools.count(1)

    def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if next(done) % calls == 0:
            record(inputs[0])
    return hook


def _counted(value: torch.Tensor, form: HalfFormat) -> Counts:
    """`dbnet.precision.count` on the device."""
    size = value.abs().float()
    finite = size <= torch.finfo(torch.float32).max
    size = torch.where(finite, size, 0.0)
    sums = [finite.sum(), (size >= form.overflow).sum(), (size > 0).sum(), (size > form.vanishes).sum(),
            (size >= form.normal).sum()]
    some, beyond, nonzero, alive, normal = (int(number) for number in torch.stack(sums).tolist())
    return Counts(value.numel(), value.numel() - some, beyond, nonzero - alive, alive - normal, float(size.max()))
