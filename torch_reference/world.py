"""The processes that train one network together, each with its share of every batch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, distributed, nn

from dbnet.errors import DbnetError
from dbnet.launch import BrokenOffError, Launch, own_device
from torch_reference.runner import choose_device


class World:
    """All processes of a launcher, which wait here for each other.

    rank: this one's number, from 0. size: how many there are. device: this one's own. Raises DbnetError for a device
    that is not there, and if the processes do not come together.
    """

    def __init__(self, launch: Launch, device: str | None = None):
        kind = choose_device(None).type
        self.device = own_device(device, "gpu" if kind == "cuda" else "ascend" if kind == "npu" else "cpu", launch)
        chosen = choose_device(self.device)
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        try:
            distributed.init_process_group({"cuda": "nccl", "npu": "hccl"}.get(chosen.type, "gloo"))
        except (RuntimeError, ValueError) as error:
            raise DbnetError(f"the {launch.size} processes of {launch.launcher} do not come together: "
                             f"{str(error).splitlines()[0]}") from error
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def total(self, values: np.ndarray) -> np.ndarray:
        """(N,) float32, added up over all processes, of which each gives as many."""
        tensor = torch.from_numpy(values).to(choose_device(self.device))
        distributed.all_reduce(tensor)
        return np.array(tensor.cpu().numpy())

    def leave(self) -> None:
        """This process computes nothing with the others any more."""
        distributed.destroy_process_group()


class Mean(nn.Module):
    """The mean over all processes of each of several float32 tensors, in one exchange. shapes: theirs."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], size: int):
        super().__init__()
        self.lengths = tuple(math.prod(shape) for shape in shapes)
        self.size = size

    def forward(self, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Every process gets the same, bit for bit. Raises BrokenOffError if one of them is gone."""
        flat = torch.cat([value.reshape(-1) for value in values])
        try:
            distributed.all_reduce(flat)
        except RuntimeError as error:
            raise BrokenOffError(f"the exchange with the other processes broke off: {_plain(error)}") from error
        pieces = torch.split(flat / self.size, self.lengths)
        return tuple(piece.reshape(value.shape) for piece, value in zip(pieces, values, strict=True))


def _plain(error: BaseException) -> str:
    """Gloo's text without the place in its source and its greeting."""
    line = (str(error).splitlines() or [""])[0]
    return re.sub(r"\[\S*:\d+\] *|[ .]*GLHF!?", "", line) or type(error).__name__
