"""Modulated deformable convolution (DCNv2, arXiv:1811.11168): a 3x3 convolution whose taps look beside their places.

Composed of plain operators, alike in both halves: torch has none of its own, and MindSpore's takes static shapes only.
Sources: MhLiao/DB `assets/ops/dcn`, onnx `DeformConv`. Outside the image all is 0, corner by corner.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dbnet.parameters import OFFSET_CHANNELS
from dbnet.spec import Offsets


def offset_conv(channels: int, stride: int, offsets: Offsets) -> nn.Module:
    """What predicts offsets and masks: (N, channels, H, W) -> (N, OFFSET_CHANNELS, ...)."""
    return nn.Conv2d(channels, OFFSET_CHANNELS, 3, stride=stride if offsets == "strided" else 1, padding=1, bias=True)


def first_part(x: Tensor, stride: int) -> Tensor:
    """(N, C, H, W) -> (N, C, H / stride, W / stride): the first values of each image as they lie in memory."""
    n, c, h, w = x.shape
    return x.reshape(n, stride * stride, -1)[:, 0].reshape(n, c, h // stride, w // stride)


def sample(image: Tensor, y: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    """(N, C, H, W) at y, x (N, rows, columns, taps) in pixels, times mask: (N rows columns taps, C), bilinear."""
    n, c, h, w = image.shape
    # Pixels as rows, with a border of zeros, in which all that lies outside ends.
    pixels = nn.functional.pad(image, (1, 1, 1, 1)).permute(0, 2, 3, 1).reshape(-1, c)
    first = torch.arange(n, device=image.device).reshape(-1, 1, 1, 1) * ((h + 2) * (w + 2))
    top, left = torch.floor(y), torch.floor(x)
    down, right = y - top, x - left
    row, column = top.long(), left.long()
    rows = [first + (row.clamp(-1, h) + 1) * (w + 2), first + ((row + 1).clamp(-1, h) + 1) * (w + 2)]
    columns = [column.clamp(-1, w) + 1, (column + 1).clamp(-1, w) + 1]
    places = torch.stack([a + b for a in rows for b in columns], -1).reshape(-1, 4)
    shares = torch.stack([a * b * mask for a in (1 - down, down) for b in (1 - right, right)], -1).reshape(-1, 4)
    return nn.functional.embedding_bag(places, pixels, per_sample_weights=shares, mode="sum")


class DeformableConv2d(nn.Module):
    """3x3, padding 1, no bias: (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride), sides even."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, offsets: Offsets):
        super().__init__()
        self.stride = stride
        self.in_memory = offsets == "mhliao" and stride > 1
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        nn.init.kaiming_uniform_(self.weight, math.sqrt(5))

    def forward(self, x: Tensor, predicted: Tensor) -> Tensor:
        """predicted: what `offset_conv` predicts, by channel: y and x of the first tap, ..., of the ninth; nine masks
        before their sigmoid. Computed in the type of the weights, for a short one has no room for a position.
        """
        x, predicted = x.to(self.weight.dtype), predicted.to(self.weight.dtype)
        if not torch.amp.is_autocast_available(x.device.type):  # the meta device
            return self.convolve(x, predicted)
        with torch.autocast(x.device.type, enabled=False):
            return self.convolve(x, predicted)

    def convolve(self, x: Tensor, predicted: Tensor) -> Tensor:
        """The same with both in the type of the weights."""
        offset, mask = predicted[:, :18], predicted[:, 18:]
        if self.in_memory:
            offset, mask = first_part(offset, self.stride), first_part(mask, self.stride)
        n, _, rows, columns = mask.shape
        offset, mask = offset.permute(0, 2, 3, 1), torch.sigmoid(mask).permute(0, 2, 3, 1)
        tap = torch.arange(9, device=x.device)
        row = torch.arange(rows, device=x.device).reshape(-1, 1, 1) * self.stride + (tap // 3 - 1)
        column = torch.arange(columns, device=x.device).reshape(-1, 1) * self.stride + (tap % 3 - 1)
        taps = sample(x, row + offset[..., 0::2], column + offset[..., 1::2], mask)
        kernel = self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        return (taps.reshape(n * rows * columns, -1) @ kernel).reshape(n, rows, columns, -1).permute(0, 3, 1, 2)
