"""The other projects' networks as plain functions of the tensors in their files, under their names.

Written from the published definitions and independent of `torch_reference`: no class of it, none of its names. x:
float (N, 3, H, W); the result is the probability, (N, 1, H, W). The projects' own code gives the same, see
benchmarks/dialects.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Tensors = dict[str, Tensor]
LEAVES = {"torch": ("running_mean", "running_var", "weight", "bias"),
          "paddle": ("_mean", "_variance", "weight", "bias"),
          "mindspore": ("moving_mean", "moving_variance", "gamma", "beta")}
#: kernel, expanded, channels, squeeze, hard swish, stride of MobileNetV3-large x0.5; blocks in each stage.
MOBILE = ((3, 8, 8, 0, 0, 1), (3, 32, 16, 0, 0, 2), (3, 40, 16, 0, 0, 1), (5, 40, 24, 1, 0, 2), (5, 64, 24, 1, 0, 1),
          (5, 64, 24, 1, 0, 1), (3, 120, 40, 0, 1, 2), (3, 104, 40, 0, 1, 1), (3, 96, 40, 0, 1, 1),
          (3, 96, 40, 0, 1, 1), (3, 240, 56, 1, 1, 1), (3, 336, 56, 1, 1, 1), (5, 336, 80, 1, 1, 2),
          (5, 480, 80, 1, 1, 1), (5, 480, 80, 1, 1, 1))
STAGES = (3, 3, 6, 3)


class Net:
    """Layers by the names of their tensors."""

    def __init__(self, tensors: Tensors, framework: str):
        self.t, self.leaves = tensors, LEAVES[framework]

    def conv(self, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = self.t[f"{name}.weight"]
        return functional.conv2d(x, kernel, self.t.get(f"{name}.bias"), stride, kernel.shape[2] // 2, groups=groups)

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, variance, scale, shift = (self.t[f"{name}.{leaf}"] for leaf in self.leaves)
        return functional.batch_norm(x, mean, variance, scale, shift, eps=1e-5)

    def up(self, name: str, x: Tensor) -> Tensor:
        return functional.conv_transpose2d(x, self.t[f"{name}.weight"], self.t[f"{name}.bias"], stride=2)

    def branch(self, names: list[str], x: Tensor) -> Tensor:
        """A head's branch; names of its five layers with tensors."""
        x = functional.relu(self.norm(names[1], self.conv(names[0], x)))
        x = functional.relu(self.norm(names[3], self.up(names[2], x)))
        return torch.sigmoid(self.up(names[4], x))

    def squeeze(self, name: str, x: Tensor, slope: float) -> Tensor:
        weight = self.conv(f"{name}.conv2", functional.relu(self.conv(f"{name}.conv1", x.mean((2, 3), keepdim=True))))
        return x * torch.clamp(weight * slope + 0.5, 0, 1)


def nearest(x: Tensor, factor: int) -> Tensor:
    return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def aligned(x: Tensor, factor: int) -> Tensor:
    """MindSpore's ResizeNearestNeighbor(align_corners=True), in float64."""
    def places(old: int) -> Tensor:
        new = old * factor
        return torch.floor(torch.arange(new, dtype=torch.float64) * ((old - 1) / (new - 1)) + 0.5).long()
    return x.index_select(2, places(x.shape[2])).index_select(3, places(x.shape[3]))


def pyramid(lateral: Callable[[int, Tensor], Tensor], smooth: Callable[[int, Tensor], Tensor], maps: list[Tensor],
            larger: Callable[[Tensor, int], Tensor] = nearest) -> list[Tensor]:
    """p2..p5, all at stride 4."""
    merged = [lateral(i, x) for i, x in enumerate(maps)]
    for i in (2, 1, 0):
        merged[i] = merged[i] + larger(merged[i + 1], 2)
    outs = [smooth(i, x) for i, x in enumerate(merged)]
    return [outs[0], *(larger(outs[i], 2**i) for i in (1, 2, 3))]


def mmocr(tensors: Tensors, x: Tensor, head: str = "det_head") -> Tensor:
    """DBNet of MMOCR (ResNet-18 or -50, plain): the maps are joined from p2 to p5."""
    net, maps = Net(tensors, "torch"), []
    bottleneck = "backbone.layer1.0.conv3.weight" in tensors
    x = functional.relu(net.norm("backbone.bn1", net.conv("backbone.conv1", x, 2)))
    x = functional.max_pool2d(x, 3, 2, 1)
    for layer, count in enumerate((3, 4, 6, 3) if bottleneck else (2, 2, 2, 2), start=1):
        for i in range(count):
            block, stride = f"backbone.layer{layer}.{i}", 2 if i == 0 and layer > 1 else 1
            strides = (1, stride, 1) if bottleneck else (stride, 1)
            out = x
            for n, step in enumerate(strides, start=1):
                out = net.norm(f"{block}.bn{n}", net.conv(f"{block}.conv{n}", out, step))
                out = functional.relu(out) if n < len(strides) else out
            if f"{block}.downsample.0.weight" in tensors:
                kernel = tensors[f"{block}.downsample.0.weight"]
                x = net.norm(f"{block}.downsample.1", functional.conv2d(x, kernel, stride=stride))
            x = functional.relu(out + x)
        maps.append(x)
    outs = pyramid(lambda i, m: net.conv(f"neck.lateral_convs.{i}.conv", m),
                   lambda i, m: net.conv(f"neck.smooth_convs.{i}.conv", m), maps)
    return net.branch([f"{head}.binarize.{i}" for i in (0, 1, 3, 4, 6)], torch.cat(outs, 1))


def mobile(net: Net, x: Tensor, stage: str, slope: float) -> list[Tensor]:
    """MobileNetV3-large x0.5 of PaddleOCR and of MindOCR's det_mobilenet_v3_enhance; SE where the file has it."""
    def layer(name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        return net.norm(f"{name}.bn", net.conv(f"{name}.conv", x, stride, groups))

    maps, blocks = [], iter(MOBILE)
    x = functional.hardswish(layer("backbone.conv", x, 2))
    for number, count in enumerate(STAGES):
        for i in range(count):
            _, expanded, channels, _, swish, stride = next(blocks)
            name, act = f"backbone.{stage.format(number)}.{i}", functional.hardswish if swish else functional.relu
            out = act(layer(f"{name}.expand_conv", x))
            out = act(layer(f"{name}.bottleneck_conv", out, stride, expanded))
            if f"{name}.mid_se.conv1.weight" in net.t:
                out = net.squeeze(f"{name}.mid_se", out, slope)
            out = layer(f"{name}.linear_conv", out)
            x = out + x if stride == 1 and x.shape[1] == channels else out
        if number == 3:
            x = functional.hardswish(layer(f"backbone.{stage.format(3)}.3", x))
        maps.append(x)
    return maps


def rsefpn(net: Net, maps: list[Tensor], slope: float, larger: Callable[[Tensor, int], Tensor]) -> Tensor:
    def residual(name: str, x: Tensor) -> Tensor:
        x = net.conv(f"{name}.in_conv", x)
        return x + net.squeeze(f"{name}.se_block", x, slope)
    outs = pyramid(lambda i, m: residual(f"neck.ins_conv.{i}", m), lambda i, m: residual(f"neck.inp_conv.{i}", m),
                   maps, larger)
    return torch.cat(outs[::-1], 1)


def paddles_resnet(net: Net, x: Tensor) -> list[Tensor]:
    """PaddleOCR's ResNet-18: stages res2..res5 of two blocks a and b, each a with a projection as its shortcut."""
    def layer(name: str, x: Tensor, stride: int = 1) -> Tensor:
        return net.norm(f"{name}._batch_norm", net.conv(f"{name}._conv", x, stride))

    maps = []
    x = functional.max_pool2d(functional.relu(layer("backbone.conv", x, 2)), 3, 2, 1)
    for stage in (2, 3, 4, 5):
        for block in "ab":
            name, stride = f"backbone.res{stage}{block}", 2 if block == "a" and stage > 2 else 1
            out = layer(f"{name}.conv1", functional.relu(layer(f"{name}.conv0", x, stride)))
            x = functional.relu(out + (layer(f"{name}.short", x, stride) if block == "a" else x))
        maps.append(x)
    return maps


def paddle(tensors: Tensors, x: Tensor) -> Tensor:
    """PaddleOCR's det_mv3_db, with or without SE, PP-OCRv3's student, and its ResNet-18."""
    net = Net(tensors, "paddle")
    maps = paddles_resnet(net, x) if "backbone.res2a.short._conv.weight" in tensors else mobile(net, x, "stage{}", 0.2)
    if "neck.ins_conv.0.in_conv.weight" in tensors:
        fused = rsefpn(net, maps, 0.2, nearest)
    else:
        fused = torch.cat(pyramid(lambda i, m: net.conv(f"neck.in{i + 2}_conv", m),
                                  lambda i, m: net.conv(f"neck.p{i + 2}_conv", m), maps)[::-1], 1)
    return net.branch([f"head.binarize.{n}" for n in ("conv1", "conv_bn1", "conv2", "conv_bn2", "conv3")], fused)


def mindocr_enhance(tensors: Tensors, x: Tensor) -> Tensor:
    """MindOCR's det_mobilenet_v3_enhance with RSEFPN or DBFPN."""
    net = Net(tensors, "mindspore")
    maps = mobile(net, x, "stages.{}", 1 / 6)
    if "neck.ins_conv.0.in_conv.weight" in tensors:
        fused = rsefpn(net, maps, 1 / 6, aligned)
    else:
        fused = torch.cat(pyramid(lambda i, m: net.conv(f"neck.unify_channels.{i}", m),
                                  lambda i, m: net.conv(f"neck.out.{i}", m), maps)[::-1], 1)
    return net.branch([f"head.segm.{i}" for i in (0, 1, 3, 4, 6)], fused)


#: dialect -> its network.
NETWORKS: dict[str, Callable[..., Any]] = {
    "mmocr": mmocr, "mmocr0": lambda tensors, x: mmocr(tensors, x, "bbox_head"), "paddle": paddle,
    "mindocr_enhance": mindocr_enhance}
