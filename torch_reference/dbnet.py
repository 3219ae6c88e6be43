"""DBNet and DBNet++: backbone, neck and head put together (arXiv:1911.08947, arXiv:2202.10304)."""

from __future__ import annotations

from torch import Tensor, nn

from dbnet.spec import ModelSpec
from torch_reference.fpn import DBFPN, RSEFPN
from torch_reference.head import DBHead
from torch_reference.mobilenet import MobileNetV3
from torch_reference.resnet import ResNet


class DBNet(nn.Module):
    """The detector that `spec` describes. Input (N, 3, H, W) float32, sides multiples of 32."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.backbone = MobileNetV3(spec) if spec.backbone == "mobilenetv3" else ResNet(spec)
        self.neck = RSEFPN(spec) if spec.neck == "rsefpn" else DBFPN(spec)
        self.head = DBHead(spec)

    def forward(self, x: Tensor) -> Tensor:
        """The probability of text, (N, 1, H, W) in [0, 1]."""
        return self.stages(x)[-1]

    def stages(self, x: Tensor) -> tuple[Tensor, ...]:
        """Every map of `dbnet.spec.STAGES`, in that order."""
        c2, c3, c4, c5 = self.backbone(x)
        p2, p3, p4, p5, fused = self.neck(c2, c3, c4, c5)
        logits, probability = self.head(fused)
        return c2, c3, c4, c5, p2, p3, p4, p5, fused, logits, probability

    def parts(self, x: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Every stage, each computed from the maps given for those before it (of `stages`), not from its own."""
        c2, c3, c4, c5, p2, p3, p4, p5, fused, logits = maps[:10]
        pyramid = self.neck(c2, c3, c4, c5)
        return (*self.backbone.parts(x, c2, c3, c4), *pyramid[:4], self.neck.join(p2, p3, p4, p5),
                self.head(fused)[0], self.head.sigmoid(logits))

    def training_outputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probability, threshold and approximate binary map, each (N, 1, H, W)."""
        stages = self.stages(x)
        threshold, binary = self.head.training_maps(stages[8], stages[10])
        return stages[10], threshold, binary

    def training_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Probability and threshold before their sigmoid, each (N, 1, H, W): what `loss.DBLoss` compares."""
        stages = self.stages(x)
        return stages[9], self.head.thresh(stages[8])
