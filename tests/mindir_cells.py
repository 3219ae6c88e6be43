"""A neck that computes what ours does, written as MindOCR writes it: it adds in place, and leaves a map alone that has
its size already. In a file of its own, for MindSpore reads the source of what it compiles.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from ms_models.fpn import DBFPN


class InPlaceFPN(DBFPN):
    """DBFPN with `a += b`, and a choice at run time where the sizes are not known before."""

    def fit(self, x: Tensor, sides: tuple[int, int]) -> Tensor:
        """The map with these sides."""
        if x.shape[2:] == sides:
            return x
        return ops.ResizeNearestNeighbor(sides)(x)

    def construct(self, c2: Tensor, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, ...]:
        in5 = self.unify_channels[3](c5)
        in4 = self.unify_channels[2](c4)
        in4 += self.fit(in5, c4.shape[2:])
        in3 = self.unify_channels[1](c3)
        in3 += self.fit(in4, c3.shape[2:])
        in2 = self.unify_channels[0](c2)
        in2 += self.fit(in3, c2.shape[2:])
        p2, p3, p4, p5 = self.out[0](in2), self.out[1](in3), self.out[2](in4), self.out[3](in5)
        size = c2.shape[2:]
        fused = ops.concat((self.fit(p5, size), self.fit(p4, size), self.fit(p3, size), self.fit(p2, size)), 1)
        return p2, p3, p4, p5, fused


class Logits(nn.Cell):
    """A network that leaves out its last sigmoid."""

    def __init__(self, net: nn.Cell):
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, x: Tensor) -> Tensor:
        return self.net.stages(x)[9]


class Foreign(nn.Cell):
    """A network that nobody knows here: one convolution. logits: without its sigmoid."""

    def __init__(self, logits: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3)
        self.last = nn.Identity() if logits else nn.Sigmoid()

    def construct(self, x: Tensor) -> Tensor:
        return self.last(self.conv(x))
