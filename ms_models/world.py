"""The processes that train one network together, each with its share of every batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, communication, nn, ops

from dbnet.errors import DbnetError
from dbnet.launch import Launch, own_device
from dbnet.running import parse_device
from ms_models import compat


class World:
    """All processes of a launcher, which wait here for each other.

    rank: this one's number, from 0. size: how many there are. device: this one's own. Raises DbnetError for a device
    that is not there, and if the processes do not come together.
    """

    def __init__(self, launch: Launch, device: str | None = None):
        try:
            self.device = own_device(device, compat.best_kind(), launch)
            chosen = compat.set_device(parse_device(self.device))
        except DbnetError:
            compat.let_go(launch)
            raise
        ms.set_context(mode=ms.GRAPH_MODE)
        try:
            compat.come_together(launch, chosen)
        except (RuntimeError, ValueError) as error:
            raise DbnetError(f"the {launch.size} processes of {launch.launcher} do not come together: "
                             f"{compat.first_sentence(error)}") from error
        self.rank, self.size = communication.get_rank(), communication.get_group_size()

    def total(self, values: np.ndarray) -> np.ndarray:
        """(N,) float32, added up over all processes, of which each gives as many."""
        tensor = Tensor(values)
        summed = Mean((values.shape,), 1)((tensor,))[0]
        return np.array(summed.asnumpy())

    def leave(self) -> None:
        """This process computes nothing with the others any more."""
        compat.part()


class Mean(nn.Cell):
    """The mean over all processes of each of several float32 tensors, in one exchange. shapes: theirs."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], size: int):
        super().__init__(auto_prefix=False)
        self.lengths = tuple(math.prod(shape) for shape in shapes)
        self.starts = tuple(itertools.accumulate(self.lengths, initial=0))[:-1]
        self.size = size
        self.total = ops.AllReduce()
        self.map = ops.HyperMap()

    def construct(self, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Every process gets the same, bit for bit. Fails after 30 s on a CPU if one of them is gone."""
        flat = self.total(ops.concat(self.map(self.flat, values))) / self.size
        # Not ops.split, which graph mode unrolls into so many nested calls that MobileNetV3 is too deep for it.
        return self.map(ops.partial(self.piece, flat), self.starts, self.lengths, values)

    def flat(self, value: Tensor) -> Tensor:
        return ops.reshape(value, (-1,))

    def piece(self, flat: Tensor, start: int, length: int, value: Tensor) -> Tensor:
        return ops.reshape(ops.slice(flat, (start,), (length,)), value.shape)
