"""Every parameter of a spec, in MindOCR's order and under MindOCR's module paths, with its role and shape.

A convolution's kernel and a batch norm's scale are both called `weight` in torch; only the role tells them apart. The
role holds the leaf name in each framework, so native naming needs no pattern and completeness can be checked with no
framework installed. Module paths: MindOCR `mindocr/models/{backbones,necks,heads}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Literal

from dbnet.spec import STRIDE, ModelSpec

Framework = Literal["mindspore", "torch", "paddle"]


class Role(Enum):
    """What a parameter is for; the value holds its leaf name in (MindSpore, torch, Paddle)."""

    KERNEL = ("weight", "weight", "weight", "conv")
    TRANSPOSED_KERNEL = ("weight", "weight", "weight", "transposed conv")
    DENSE = ("weight", "weight", "weight", "dense")
    BIAS = ("bias", "bias", "bias", "bias")
    NORM_MEAN = ("moving_mean", "running_mean", "_mean", "norm mean")
    NORM_VARIANCE = ("moving_variance", "running_var", "_variance", "norm variance")
    NORM_SCALE = ("gamma", "weight", "weight", "norm scale")
    NORM_SHIFT = ("beta", "bias", "bias", "norm shift")

    def leaf(self, framework: Framework) -> str:
        """The last part of the parameter's name in that framework."""
        return self.value[("mindspore", "torch", "paddle").index(framework)]

    @property
    def is_norm(self) -> bool:
        return self.name.startswith("NORM")


@dataclass(frozen=True)
class Parameter:
    """One tensor. `path`: its module's path; `shape`: (O, I/groups, kh, kw), transposed (I, O, kh, kw), dense (O, I).

    `grid`: stride, relative to the image, of the positions at which a kernel is applied (a transposed convolution's
    input, else the output); 0 for a layer that runs once per image. It serves to count operations.
    """

    path: str
    role: Role
    shape: tuple[int, ...]
    grid: int = 0

    @property
    def name(self) -> str:
        """The canonical (MindOCR's) name."""
        return self.name_in("mindspore")

    def name_in(self, framework: Framework) -> str:
        """The native name in that framework, under the same module path."""
        return f"{self.path}.{self.role.leaf(framework)}"

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def training_only(self) -> bool:
        """True for the threshold branch, which inference does not use."""
        return self.path.startswith("head.thresh.")


@lru_cache(maxsize=64)
def parameters(spec: ModelSpec) -> tuple[Parameter, ...]:
    """All parameters of `spec`, the training branch included, in MindOCR's order."""
    backbone = _mobilenetv3(spec) if spec.backbone == "mobilenetv3" else _resnet(spec)
    return (*backbone, *_neck(spec), *_head("head.segm", spec.neck_channels), *_head("head.thresh", spec.neck_channels))


def count_operations(spec: ModelSpec, height: int, width: int, training: bool = False) -> float:
    """Operations (one multiply-add = 2) of the convolutions and dense layers for one image of height x width px."""
    total = 0.0
    for p in parameters(spec):
        if p.role in (Role.KERNEL, Role.TRANSPOSED_KERNEL, Role.DENSE) and (training or not p.training_only):
            total += 2.0 * p.size * (height * width / p.grid**2 if p.grid else 1)
    return total


# Backbones ------------------------------------------------------------------------------------------------------------

#: Output channels of c2..c5.
BACKBONE_CHANNELS = {"resnet18": (64, 128, 256, 512), "resnet50": (256, 512, 1024, 2048),
                     "mobilenetv3": (16, 24, 56, 480)}
#: Blocks in layer1..layer4.
RESNET_BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
#: Of `conv2_offset`: for each of the 3x3 taps, row by row, y and x in pixels; then a mask for each, before its sigmoid.
OFFSET_CHANNELS = 27


@dataclass(frozen=True)
class MobileBlock:
    """One inverted residual block: expand to `expanded`, depthwise `kernel`, project to `channels`."""

    kernel: int
    expanded: int
    channels: int
    squeeze: bool
    hard_swish: bool
    stride: int


#: `backbone.features.{3..17}`: MobileNetV3-large at width 0.5 (arXiv:1905.02244, table 1; channels rounded to 8).
MOBILENET_BLOCKS = (
    MobileBlock(3, 8, 8, False, False, 1), MobileBlock(3, 32, 16, False, False, 2),
    MobileBlock(3, 40, 16, False, False, 1),
    MobileBlock(5, 40, 24, True, False, 2), MobileBlock(5, 64, 24, True, False, 1),
    MobileBlock(5, 64, 24, True, False, 1),
    MobileBlock(3, 120, 40, False, True, 2), MobileBlock(3, 104, 40, False, True, 1),
    MobileBlock(3, 96, 40, False, True, 1), MobileBlock(3, 96, 40, False, True, 1),
    MobileBlock(3, 240, 56, True, True, 1), MobileBlock(3, 336, 56, True, True, 1),
    MobileBlock(5, 336, 80, True, True, 2), MobileBlock(5, 480, 80, True, True, 1),
    MobileBlock(5, 480, 80, True, True, 1),
)
#: Channels of the stem and of the last 1x1 convolution.
MOBILENET_STEM, MOBILENET_LAST = 8, 480
#: Place of the first block in `backbone.features`, and of the modules whose outputs are c2..c5.
MOBILENET_FIRST_BLOCK = 3
MOBILENET_TAPS = (5, 8, 14, 20)


def _norm(path: str, channels: int) -> Iterator[Parameter]:
    for role in (Role.NORM_MEAN, Role.NORM_VARIANCE, Role.NORM_SCALE, Role.NORM_SHIFT):
        yield Parameter(path, role, (channels,))


def _resnet(spec: ModelSpec) -> Iterator[Parameter]:
    bottleneck = spec.backbone == "resnet50"
    yield Parameter("backbone.conv1", Role.KERNEL, (64, 3, 7, 7), 2)
    yield from _norm("backbone.bn1", 64)
    incoming = 64
    for layer, blocks in enumerate(RESNET_BLOCKS[spec.backbone], start=1):
        width = 64 * 2 ** (layer - 1)
        outgoing = width * (4 if bottleneck else 1)
        for block in range(blocks):
            path, grid = f"backbone.layer{layer}.{block}", 2 ** (layer + 1)
            entry = grid // 2 if block == 0 and layer > 1 else grid  # the 1x1 before the strided 3x3 sees the old grid
            kernels: tuple[tuple[int, int, int, int], ...]  # out, in, side, grid
            if bottleneck:
                kernels = ((width, incoming, 1, entry), (width, width, 3, grid), (outgoing, width, 1, grid))
            else:
                kernels = ((width, incoming, 3, grid), (width, width, 3, grid))
            for i, (out, into, k, g) in enumerate(kernels, start=1):
                if i == 2 and layer > 1 and spec.deformable == "modulated":
                    yield from _conv2_offset(path, width, entry if bottleneck and spec.offsets == "mhliao" else grid)
                yield Parameter(f"{path}.conv{i}", Role.KERNEL, (out, into, k, k), g)
                yield from _norm(f"{path}.bn{i}", out)
            if block == 0 and (layer > 1 or incoming != outgoing or spec.first_shortcut == "projection"):
                yield Parameter(f"{path}.down_sample.0", Role.KERNEL, (outgoing, incoming, 1, 1), grid)
                yield from _norm(f"{path}.down_sample.1", outgoing)
            incoming = outgoing


def _conv2_offset(block: str, channels: int, grid: int) -> Iterator[Parameter]:
    """What computes the offsets and masks of a block's deformable conv2. `grid`: of this convolution, not of conv2."""
    yield Parameter(f"{block}.conv2_offset", Role.KERNEL, (OFFSET_CHANNELS, channels, 3, 3), grid)
    yield Parameter(f"{block}.conv2_offset", Role.BIAS, (OFFSET_CHANNELS,))


def _mobilenetv3(spec: ModelSpec) -> Iterator[Parameter]:
    yield Parameter("backbone.features.0", Role.KERNEL, (MOBILENET_STEM, 3, 3, 3), 2)
    yield from _norm("backbone.features.1", MOBILENET_STEM)
    incoming, grid = MOBILENET_STEM, 2
    for i, block in enumerate(MOBILENET_BLOCKS, start=MOBILENET_FIRST_BLOCK):
        path = f"backbone.features.{i}.layers"
        yield Parameter(f"{path}.0", Role.KERNEL, (block.expanded, incoming, 1, 1), grid)
        yield from _norm(f"{path}.1", block.expanded)
        grid *= block.stride
        yield Parameter(f"{path}.3", Role.KERNEL, (block.expanded, 1, block.kernel, block.kernel), grid)
        yield from _norm(f"{path}.4", block.expanded)
        last = 6
        if block.squeeze and spec.se_gate != "none":
            squeezed = block.expanded // 4
            for leaf, shape in (("conv_reduce", (squeezed, block.expanded)),
                                ("conv_expand", (block.expanded, squeezed))):
                yield Parameter(f"{path}.6.{leaf}", Role.DENSE, shape)
                yield Parameter(f"{path}.6.{leaf}", Role.BIAS, shape[:1])
            last = 7
        yield Parameter(f"{path}.{last}", Role.KERNEL, (block.channels, block.expanded, 1, 1), grid)
        yield from _norm(f"{path}.{last + 1}", block.channels)
        incoming = block.channels
    yield Parameter("backbone.features.18", Role.KERNEL, (MOBILENET_LAST, incoming, 1, 1), STRIDE)
    yield from _norm("backbone.features.19", MOBILENET_LAST)


# Neck and head --------------------------------------------------------------------------------------------------------


def _squeezed(path: str, out: int, into: int, kernel: int, grid: int) -> Iterator[Parameter]:
    """RSEFPN's convolution with its squeeze-and-excitation, which is made of 1x1 kernels with biases."""
    yield Parameter(f"{path}.in_conv", Role.KERNEL, (out, into, kernel, kernel), grid)
    for leaf, shape in (("conv1", (out // 4, out, 1, 1)), ("conv2", (out, out // 4, 1, 1))):
        yield Parameter(f"{path}.se_block.{leaf}", Role.KERNEL, shape)
        yield Parameter(f"{path}.se_block.{leaf}", Role.BIAS, shape[:1])


def _rsefpn(spec: ModelSpec) -> Iterator[Parameter]:
    width, quarter = spec.neck_channels, spec.neck_channels // 4
    for i, channels in enumerate(BACKBONE_CHANNELS[spec.backbone]):
        yield from _squeezed(f"neck.ins_conv.{i}", width, channels, 1, 4 * 2**i)
    for i in range(4):
        yield from _squeezed(f"neck.inp_conv.{i}", quarter, width, 3, 4 * 2**i)


def _neck(spec: ModelSpec) -> Iterator[Parameter]:
    width, quarter = spec.neck_channels, spec.neck_channels // 4
    if spec.neck == "rsefpn":
        yield from _rsefpn(spec)
        return
    for i, channels in enumerate(BACKBONE_CHANNELS[spec.backbone]):
        yield Parameter(f"neck.unify_channels.{i}", Role.KERNEL, (width, channels, 1, 1), 4 * 2**i)
    for i in range(4):
        yield Parameter(f"neck.out.{i}", Role.KERNEL, (quarter, width, 3, 3), 4 * 2**i)
    if spec.fusion != "concat":
        yield Parameter("neck.fuse.conv", Role.KERNEL, (quarter, width, 3, 3), 4)
        yield Parameter("neck.fuse.conv", Role.BIAS, (quarter,))
        if spec.fusion == "asf":
            yield Parameter("neck.fuse.chan_att.0", Role.KERNEL, (quarter // 4, quarter, 1, 1), 0)
            yield Parameter("neck.fuse.chan_att.2", Role.KERNEL, (quarter, quarter // 4, 1, 1), 0)
        yield Parameter("neck.fuse.spat_att.0", Role.KERNEL, (1, 1, 3, 3), 4)
        yield Parameter("neck.fuse.spat_att.2", Role.KERNEL, (1, 1, 1, 1), 4)
        yield Parameter("neck.fuse.scale_att.0", Role.KERNEL, (4, quarter, 1, 1), 4)


def _head(path: str, width: int) -> Iterator[Parameter]:
    quarter = width // 4
    yield Parameter(f"{path}.0", Role.KERNEL, (quarter, width, 3, 3), 4)
    yield from _norm(f"{path}.1", quarter)
    yield Parameter(f"{path}.3", Role.TRANSPOSED_KERNEL, (quarter, quarter, 2, 2), 4)
    yield Parameter(f"{path}.3", Role.BIAS, (quarter,))
    yield from _norm(f"{path}.4", quarter)
    yield Parameter(f"{path}.6", Role.TRANSPOSED_KERNEL, (quarter, 1, 2, 2), 2)
    yield Parameter(f"{path}.6", Role.BIAS, (1,))
