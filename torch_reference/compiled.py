"""A network's stages by torch.compile: inductor makes one program of them, which it writes in C++ and has compiled."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable

import torch

from dbnet.errors import DbnetError, short
from dbnet.spec import STAGES, STRIDE, TRAINING_STAGES
from torch_reference.dbnet import DBNet


class CompiledStages:
    """Those `stages` of one image after the other; nothing else is computed.

    The first call compiles, for a minute or more, and one program serves all sizes of about 600 x 600 px or more: it
    takes the sides in units of STRIDE, for of any sides torch derives hundreds of conditions. Smaller images have a few
    programs of their own, because torch convolves small maps another way.
    """

    def __init__(self, net: DBNet, stages: tuple[str, ...]):
        self._stages, self._net = stages, net
        self._call: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] = torch.compile(self._computed, dynamic=True)

    def _computed(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """x: (1, 3, H / STRIDE, STRIDE, W / STRIDE, STRIDE)."""
        _, _, rows, _, columns, _ = x.shape
        maps = dict(zip(STAGES, self._net.stages(x.reshape(1, 3, rows * STRIDE, columns * STRIDE)), strict=True))
        if any(stage in TRAINING_STAGES for stage in self._stages):
            training = self._net.head.training_maps(maps["fused"], maps["probability"])
            maps.update(zip(TRAINING_STAGES, training, strict=True))
        return tuple(maps[stage] for stage in self._stages)

    def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """x: (N, 3, H, W). Raises DbnetError if it cannot be compiled here."""
        n, _, height, width = x.shape
        parts = x.reshape(n, 3, height // STRIDE, STRIDE, width // STRIDE, STRIDE)
        try:
            with _settings():
                found = [self._call(parts[i:i + 1]) for i in range(n)]
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise DbnetError(f"torch {torch.__version__} could not compile the network ({_why(error)}); it needs a C++ "
                             f"compiler (g++, or CXX=...) and Python's header files; --runner torch needs neither"
                             ) from error
        return {stage: torch.cat(maps) for stage, maps in zip(self._stages, zip(*found, strict=True), strict=True)}


def _settings() -> contextlib.ExitStack:
    """A square image is no case of its own, and the few small sizes that are do not end in eager mode after eight."""
    wanted: dict[str, dict[str, object]] = {
        "torch.fx.experimental._config": {"use_duck_shape": False},
        "torch._dynamo.config": {"recompile_limit": 64, "cache_size_limit": 64}}  # names of new and old ones
    entered = contextlib.ExitStack()
    for name, values in wanted.items():
        module = importlib.import_module(name)
        entered.enter_context(module.patch({key: value for key, value in values.items() if hasattr(module, key)}))
    return entered


def _why(error: BaseException) -> str:
    """The cause, without the advice that torch adds."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = next((line for line in lines if "error:" in line or "Error" in line or "No working" in line), "")
    return short(named or (lines[0] if lines else type(error).__name__), 200)
