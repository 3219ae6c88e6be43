"""The head: probability, threshold and approximate binary map (arXiv:1911.08947, section 3).

Source: MindOCR `mindocr/models/heads/det_db_head.py`.
"""

from __future__ import annotations

from torch import Tensor, nn

from dbnet.spec import ModelSpec


def branch(channels: int, eps: float) -> nn.Sequential:
    """(N, channels, H, W) -> logits (N, 1, 4 H, 4 W)."""
    quarter = channels // 4
    return nn.Sequential(
        nn.Conv2d(channels, quarter, 3, stride=1, padding=1, bias=False),
        nn.BatchNorm2d(quarter, eps=eps, momentum=0.1),
        nn.ReLU(),
        nn.ConvTranspose2d(quarter, quarter, 2, stride=2, padding=0, bias=True),
        nn.BatchNorm2d(quarter, eps=eps, momentum=0.1),
        nn.ReLU(),
        nn.ConvTranspose2d(quarter, 1, 2, stride=2, padding=0, bias=True),
    )


class DBHead(nn.Module):
    """Two equal branches on the fused map; inference uses `segm` alone."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.k = spec.k
        self.paper = spec.step_function == "paper"
        self.segm = branch(spec.neck_channels, spec.norm_eps)
        self.thresh = branch(spec.neck_channels, spec.norm_eps)
        self.sigmoid = nn.Sigmoid()

    def forward(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> logits and probability, each (N, 1, 4 H, 4 W)."""
        logits = self.segm(fused)
        return logits, self.sigmoid(logits)

    def training_maps(self, fused: Tensor, probability: Tensor) -> tuple[Tensor, Tensor]:
        """Threshold and approximate binary map, each (N, 1, 4 H, 4 W)."""
        threshold = self.sigmoid(self.thresh(fused))
        return threshold, self.step(probability, threshold)

    def step(self, probability: Tensor, threshold: Tensor) -> Tensor:
        """The approximate binary map. MindOCR multiplies the probability alone by k; the paper the difference."""
        if self.paper:
            return self.sigmoid(self.k * (probability - threshold))
        return self.sigmoid(self.k * probability - threshold)
