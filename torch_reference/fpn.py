"""The neck: DBFPN, with adaptive scale fusion for DBNet++ (arXiv:1911.08947, arXiv:2202.10304).

Source: MindOCR `mindocr/models/necks/{fpn,asf}.py`. The maps are joined in the order p5, p4, p3, p2, as by the
original authors and Paddle; MMOCR joins them the other way round.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dbnet.parameters import BACKBONE_CHANNELS
from dbnet.spec import ModelSpec


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Nearest-neighbour enlargement: (N, C, H, W) -> (N, C, factor H, factor W)."""
    return nn.functional.interpolate(x, scale_factor=factor, mode="nearest")


class AdaptiveScaleFusion(nn.Module):
    """Weighs four maps (N, C / 4, H, W) by attention over channels, places and scales: (N, C, H, W).

    The attentions are added, not multiplied, and the first convolution has a bias: both as published.
    """

    def __init__(self, channels: int):
        super().__init__()
        quarter = channels // 4
        self.conv = nn.Conv2d(channels, quarter, 3, stride=1, padding=1, bias=True)
        self.chan_att = nn.Sequential(
            nn.Conv2d(quarter, quarter // 4, 1, stride=1, padding=0, bias=False),
            nn.ReLU(),
            nn.Conv2d(quarter // 4, quarter, 1, stride=1, padding=0, bias=False),
            nn.Sigmoid(),
        )
        self.spat_att = nn.Sequential(
            nn.Conv2d(1, 1, 3, stride=1, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(1, 1, 1, stride=1, padding=0, bias=False),
            nn.Sigmoid(),
        )
        self.scale_att = nn.Sequential(
            nn.Conv2d(quarter, 4, 1, stride=1, padding=0, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        x = self.conv(torch.cat(maps, 1))
        x = self.chan_att(torch.mean(x, (2, 3), True)) + x
        x = self.spat_att(torch.mean(x, 1, True)) + x
        weights = self.scale_att(x)
        return torch.cat((weights[:, 0:1] * maps[0], weights[:, 1:2] * maps[1],
                           weights[:, 2:3] * maps[2], weights[:, 3:4] * maps[3]), 1)


class DBFPN(nn.Module):
    """c2..c5 -> p2..p5 (neck_channels / 4 each, at their own strides) and fused (neck_channels, stride 4)."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        width = spec.neck_channels
        self.asf = spec.fusion == "asf"
        self.unify_channels = nn.ModuleList([
            nn.Conv2d(channels, width, 1, stride=1, padding=0, bias=False)
            for channels in BACKBONE_CHANNELS[spec.backbone]])
        self.out = nn.ModuleList([
            nn.Conv2d(width, width // 4, 3, stride=1, padding=1, bias=False) for _ in range(4)])
        self.fuse = AdaptiveScaleFusion(width) if self.asf else None

    def forward(self, c2: Tensor, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, ...]:
        in5 = self.unify_channels[3](c5)
        in4 = self.unify_channels[2](c4) + enlarge(in5, 2)
        in3 = self.unify_channels[1](c3) + enlarge(in4, 2)
        in2 = self.unify_channels[0](c2) + enlarge(in3, 2)
        p2, p3, p4, p5 = self.out[0](in2), self.out[1](in3), self.out[2](in4), self.out[3](in5)
        maps = (enlarge(p5, 8), enlarge(p4, 4), enlarge(p3, 2), p2)
        fused = self.fuse(maps) if self.asf else torch.cat(maps, 1)
        return p2, p3, p4, p5, fused
