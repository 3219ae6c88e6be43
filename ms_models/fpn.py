"""The neck: DBFPN, with adaptive scale fusion for DBNet++ (arXiv:1911.08947, arXiv:2202.10304); RSEFPN.

Sources: MindOCR `mindocr/models/necks/{fpn,asf}.py`, PaddleOCR `ppocr/modeling/necks/db_fpn.py`. The maps are joined in
the order p5, p4, p3, p2, as by the original authors and Paddle; MMOCR joins them the other way round.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from dbnet.parameters import BACKBONE_CHANNELS
from dbnet.spec import ModelSpec, SeGate, Upsampling
from ms_models.mobilenet import gate


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Nearest-neighbour enlargement: (N, C, H, W) -> (N, C, factor H, factor W)."""
    return ops.ResizeNearestNeighbor((x.shape[2] * factor, x.shape[3] * factor))(x)


def enlarge_aligned(x: Tensor, factor: int) -> Tensor:
    """The same with the centres of the corners where they were: pixel i shows round(i (n - 1) / (factor n - 1))."""
    return ops.ResizeNearestNeighbor((x.shape[2] * factor, x.shape[3] * factor), True)(x)


def shifted(x: Tensor, by: int) -> Tensor:
    """Everything `by` pixels further up and left; the last rows and columns stay."""
    if by == 0:
        return x
    x = ops.concat((x[:, :, by:], x[:, :, -by:]), 2)
    return ops.concat((x[:, :, :, by:], x[:, :, :, -by:]), 3)


def larger(x: Tensor, factor: int, kind: Upsampling) -> Tensor:
    """Enlargement as the spec wants it; the factor is even."""
    if kind == "align_corners":
        return enlarge_aligned(x, factor)
    if kind == "rounded":
        return shifted(enlarge(x, factor), factor // 2 - 1)
    return enlarge(x, factor)


class AdaptiveScaleFusion(nn.Cell):
    """Weighs four maps (N, C / 4, H, W) by attention over channels, places and scales: (N, C, H, W).

    The attentions are added, not multiplied, and the first convolution has a bias: both as published. Paddle leaves out
    the one over channels.
    """

    def __init__(self, channels: int, channel_attention: bool):
        super().__init__()
        quarter = channels // 4
        self.attentive = channel_attention
        self.conv = nn.Conv2d(channels, quarter, 3, stride=1, pad_mode="pad", padding=1, has_bias=True)
        self.chan_att = nn.SequentialCell(
            nn.Conv2d(quarter, quarter // 4, 1, stride=1, pad_mode="pad", padding=0, has_bias=False),
            nn.ReLU(),
            nn.Conv2d(quarter // 4, quarter, 1, stride=1, pad_mode="pad", padding=0, has_bias=False),
            nn.Sigmoid(),
        ) if channel_attention else None
        self.spat_att = nn.SequentialCell(
            nn.Conv2d(1, 1, 3, stride=1, pad_mode="pad", padding=1, has_bias=False),
            nn.ReLU(),
            nn.Conv2d(1, 1, 1, stride=1, pad_mode="pad", padding=0, has_bias=False),
            nn.Sigmoid(),
        )
        self.scale_att = nn.SequentialCell(
            nn.Conv2d(quarter, 4, 1, stride=1, pad_mode="pad", padding=0, has_bias=False),
            nn.Sigmoid(),
        )

    def construct(self, maps: tuple[Tensor, ...]) -> Tensor:
        x = self.conv(ops.concat(maps, 1))
        if self.attentive:
            x = self.chan_att(ops.mean(x, (2, 3), True)) + x
        x = self.spat_att(ops.mean(x, 1, True)) + x
        weights = self.scale_att(x)
        return ops.concat((weights[:, 0:1] * maps[0], weights[:, 1:2] * maps[1],
                           weights[:, 2:3] * maps[2], weights[:, 3:4] * maps[3]), 1)


class DBFPN(nn.Cell):
    """c2..c5 -> p2..p5 (neck_channels / 4 each, at their own strides) and fused (neck_channels, stride 4)."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        width = spec.neck_channels
        self.asf = spec.fusion != "concat"
        self.upsampling = spec.upsampling
        self.unify_channels = nn.CellList([
            nn.Conv2d(channels, width, 1, stride=1, pad_mode="pad", padding=0, has_bias=False)
            for channels in BACKBONE_CHANNELS[spec.backbone]])
        self.out = nn.CellList([
            nn.Conv2d(width, width // 4, 3, stride=1, pad_mode="pad", padding=1, has_bias=False) for _ in range(4)])
        self.fuse = AdaptiveScaleFusion(width, spec.fusion == "asf") if self.asf else None

    def construct(self, c2: Tensor, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, ...]:
        in5 = self.unify_channels[3](c5)
        in4 = self.unify_channels[2](c4) + larger(in5, 2, self.upsampling)
        in3 = self.unify_channels[1](c3) + larger(in4, 2, self.upsampling)
        in2 = self.unify_channels[0](c2) + larger(in3, 2, self.upsampling)
        p2, p3, p4, p5 = self.out[0](in2), self.out[1](in3), self.out[2](in4), self.out[3](in5)
        return p2, p3, p4, p5, self.join(p2, p3, p4, p5)

    def join(self, p2: Tensor, p3: Tensor, p4: Tensor, p5: Tensor) -> Tensor:
        """p2..p5 -> fused."""
        kind = self.upsampling
        maps = (larger(p5, 8, kind), larger(p4, 4, kind), larger(p3, 2, kind), p2)
        return self.fuse(maps) if self.asf else ops.concat(maps, 1)


class SqueezeExciteConv(nn.Cell):
    """Weighs each channel by a function of all channels' means; shape unchanged. Its layers are 1x1 convolutions."""

    def __init__(self, channels: int, kind: SeGate):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 4, 1, stride=1, pad_mode="pad", padding=0, has_bias=True)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(channels // 4, channels, 1, stride=1, pad_mode="pad", padding=0, has_bias=True)
        self.gate = gate(kind)

    def construct(self, x: Tensor) -> Tensor:
        weight = ops.mean(x, (2, 3), True)
        return x * self.gate(self.conv2(self.act(self.conv1(weight))))


class ResidualSqueeze(nn.Cell):
    """A convolution, and its output once more as squeeze-and-excitation weighs it."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, kind: SeGate):
        super().__init__()
        self.in_conv = nn.Conv2d(in_channels, out_channels, kernel, stride=1, pad_mode="pad", padding=kernel // 2,
                                 has_bias=False)
        self.se_block = SqueezeExciteConv(out_channels, kind)

    def construct(self, x: Tensor) -> Tensor:
        x = self.in_conv(x)
        return x + self.se_block(x)


class RSEFPN(nn.Cell):
    """PP-OCRv3's neck: DBFPN of residual squeeze-and-excitations (arXiv:2206.03001). Inputs and outputs are DBFPN's."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        width, kind = spec.neck_channels, spec.neck_gate
        self.upsampling = spec.upsampling
        self.ins_conv = nn.CellList([
            ResidualSqueeze(channels, width, 1, kind) for channels in BACKBONE_CHANNELS[spec.backbone]])
        self.inp_conv = nn.CellList([ResidualSqueeze(width, width // 4, 3, kind) for _ in range(4)])

    def construct(self, c2: Tensor, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, ...]:
        in5 = self.ins_conv[3](c5)
        in4 = self.ins_conv[2](c4) + larger(in5, 2, self.upsampling)
        in3 = self.ins_conv[1](c3) + larger(in4, 2, self.upsampling)
        in2 = self.ins_conv[0](c2) + larger(in3, 2, self.upsampling)
        p2, p3, p4, p5 = self.inp_conv[0](in2), self.inp_conv[1](in3), self.inp_conv[2](in4), self.inp_conv[3](in5)
        return p2, p3, p4, p5, self.join(p2, p3, p4, p5)

    def join(self, p2: Tensor, p3: Tensor, p4: Tensor, p5: Tensor) -> Tensor:
        """p2..p5 -> fused."""
        kind = self.upsampling
        return ops.concat((larger(p5, 8, kind), larger(p4, 4, kind), larger(p3, 2, kind), p2), 1)
