"""Modulated deformable convolution (DCNv2, arXiv:1811.11168): a 3x3 convolution whose taps look beside their places.

Composed of plain operators, alike in both halves: torch has none of its own, and MindSpore's takes static shapes only.
Sources: MhLiao/DB `assets/ops/dcn`, onnx `DeformConv`. Outside the image all is 0, corner by corner.
"""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import HeUniform, initializer

from dbnet.parameters import OFFSET_CHANNELS
from dbnet.spec import Offsets


def offset_conv(channels: int, stride: int, offsets: Offsets) -> nn.Cell:
    """What predicts offsets and masks: (N, channels, H, W) -> (N, OFFSET_CHANNELS, ...)."""
    return nn.Conv2d(channels, OFFSET_CHANNELS, 3, stride=stride if offsets == "strided" else 1, pad_mode="pad",
                     padding=1, has_bias=True)


def first_part(x: Tensor, stride: int) -> Tensor:
    """(N, C, H, W) -> (N, C, H / stride, W / stride): the first values of each image as they lie in memory."""
    n, c, h, w = x.shape
    return x.reshape(n, stride * stride, -1)[:, 0].reshape(n, c, h // stride, w // stride)


def sample(image: Tensor, y: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    """(N, C, H, W) at y, x (N, rows, columns, taps) in pixels, times mask: (N rows columns taps, C), bilinear."""
    n, c, h, w = image.shape
    # Pixels as rows, with a border of zeros, in which all that lies outside ends. The gradient of ops.pad sooner or
    # later does not return on MindSpore 2.10's CPU; that of the older ops.Pad is a slice.
    padded = ops.Pad(((0, 0), (0, 0), (1, 1), (1, 1)))(image)
    pixels = ops.transpose(padded, (0, 2, 3, 1)).reshape(-1, c)
    first = (ops.arange(0, n) * ((h + 2) * (w + 2))).reshape(-1, 1, 1, 1)
    top, left = ops.floor(y), ops.floor(x)
    down, right = y - top, x - left
    row, column = ops.cast(top, ms.int32), ops.cast(left, ms.int32)
    above = first + (ops.clamp(row, -1, h) + 1) * (w + 2)
    below = first + (ops.clamp(row + 1, -1, h) + 1) * (w + 2)
    before, behind = ops.clamp(column, -1, w) + 1, ops.clamp(column + 1, -1, w) + 1
    out = ops.gather(pixels, (above + before).reshape(-1), 0) * ((1 - down) * (1 - right) * mask).reshape(-1, 1)
    out = out + ops.gather(pixels, (above + behind).reshape(-1), 0) * ((1 - down) * right * mask).reshape(-1, 1)
    out = out + ops.gather(pixels, (below + before).reshape(-1), 0) * (down * (1 - right) * mask).reshape(-1, 1)
    return out + ops.gather(pixels, (below + behind).reshape(-1), 0) * (down * right * mask).reshape(-1, 1)


class DeformableConv2d(nn.Cell):
    """3x3, padding 1, no bias: (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride), sides even."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, offsets: Offsets):
        super().__init__()
        self.stride = stride
        self.in_memory = offsets == "mhliao" and stride > 1
        self.weight = Parameter(initializer(HeUniform(math.sqrt(5)), (out_channels, in_channels, 3, 3)), name="weight")

    def construct(self, x: Tensor, predicted: Tensor) -> Tensor:
        """predicted: what `offset_conv` predicts, by channel: y and x of the first tap, ..., of the ninth; nine masks
        before their sigmoid. Computed in the type of the weights, for a short one has no room for a position.
        """
        return self.convolve(ops.cast(x, self.weight.dtype), ops.cast(predicted, self.weight.dtype))

    def convolve(self, x: Tensor, predicted: Tensor) -> Tensor:
        """The same with both in the type of the weights."""
        offset, mask = predicted[:, :18], predicted[:, 18:]
        if self.in_memory:
            offset, mask = first_part(offset, self.stride), first_part(mask, self.stride)
        n, _, rows, columns = mask.shape
        offset, mask = ops.transpose(offset, (0, 2, 3, 1)), ops.transpose(ops.sigmoid(mask), (0, 2, 3, 1))
        tap = ops.arange(0, 9)
        row = (ops.arange(0, rows) * self.stride).reshape(-1, 1, 1) + (tap // 3 - 1)
        column = (ops.arange(0, columns) * self.stride).reshape(-1, 1) + (tap % 3 - 1)
        y = ops.cast(row, predicted.dtype) + offset[:, :, :, 0::2]
        taps = sample(x, y, ops.cast(column, predicted.dtype) + offset[:, :, :, 1::2], mask)
        kernel = ops.transpose(self.weight, (2, 3, 1, 0)).reshape(9 * x.shape[1], -1)
        return ops.transpose(ops.MatMul()(taps.reshape(n * rows * columns, -1), kernel).reshape(n, rows, columns, -1),
                             (0, 3, 1, 2))
