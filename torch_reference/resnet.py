"""ResNet-18 and ResNet-50 as feature extractors (arXiv:1512.03385), under MindOCR's names.

Source: MindOCR `mindocr/models/backbones/mindcv_models/resnet.py`. The stride sits in the bottleneck's 3x3, as in
torchvision; no convolution has a bias. With deformable convolutions: MhLiao/DB `backbones/resnet.py`.
"""

from __future__ import annotations

from torch import Tensor, nn

from dbnet.parameters import RESNET_BLOCKS
from dbnet.spec import ModelSpec, Offsets, Padding
from torch_reference.deform import DeformableConv2d, offset_conv


def stem_pool(padding: Padding) -> nn.Module:
    """3x3 max-pool of stride 2 for even sides; `same` pads the bottom and right only."""
    if padding == "same":
        # The last window hangs over the edge by one, which for even sides is the padding that `same` means.
        return nn.MaxPool2d(3, stride=2, padding=0, ceil_mode=True)
    return nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=False)


def down_sample(in_channels: int, out_channels: int, stride: int, eps: float, projected: bool) -> nn.Module:
    """The shortcut: 1x1 convolution and batch norm where the shape changes or it is `projected`, else the identity."""
    if stride == 1 and in_channels == out_channels and not projected:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, padding=0, bias=False),
        nn.BatchNorm2d(out_channels, eps=eps, momentum=0.1),
    )


def conv2(channels: int, stride: int, offsets: Offsets | None) -> nn.Module:
    """A block's second convolution, 3x3. Deformable, it takes the output of `deform.offset_conv` beside its input."""
    if offsets is not None:
        return DeformableConv2d(channels, channels, stride, offsets)
    return nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, eps: float, offsets: Offsets | None,
                 projected: bool):
        super().__init__()
        self.deformable = offsets is not None
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, eps=eps, momentum=0.1)
        self.relu = nn.ReLU()
        self.conv2_offset = offset_conv(channels, 1, offsets) if offsets else None
        self.conv2 = conv2(channels, 1, offsets)
        self.bn2 = nn.BatchNorm2d(channels, eps=eps, momentum=0.1)
        self.down_sample = down_sample(in_channels, channels, stride, eps, projected)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.conv2(out, self.conv2_offset(out)) if self.deformable else self.conv2(out)
        out = self.bn2(out)
        return self.relu(out + self.down_sample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 beside a shortcut: (N, in_channels, H, W) -> (N, 4 channels, H / stride, W / stride)."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, eps: float, offsets: Offsets | None,
                 projected: bool):
        super().__init__()
        out_channels = channels * self.expansion
        self.deformable = offsets is not None
        self.conv1 = nn.Conv2d(in_channels, channels, 1, stride=1, padding=0, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, eps=eps, momentum=0.1)
        self.conv2_offset = offset_conv(channels, stride, offsets) if offsets else None
        self.conv2 = conv2(channels, stride, offsets)
        self.bn2 = nn.BatchNorm2d(channels, eps=eps, momentum=0.1)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, stride=1, padding=0, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels, eps=eps, momentum=0.1)
        self.relu = nn.ReLU()
        self.down_sample = down_sample(in_channels, out_channels, stride, eps, projected)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.conv2(out, self.conv2_offset(out)) if self.deformable else self.conv2(out)
        out = self.relu(self.bn2(out))
        out = self.bn3(self.conv3(out))
        return self.relu(out + self.down_sample(x))


class ResNet(nn.Module):
    """(N, 3, H, W) -> c2, c3, c4, c5 at strides 4, 8, 16, 32."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        block = BasicBlock if spec.backbone == "resnet18" else Bottleneck
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64, eps=spec.norm_eps, momentum=0.1)
        self.relu = nn.ReLU()
        self.max_pool = stem_pool(spec.stem_pool)
        blocks = RESNET_BLOCKS[spec.backbone]
        offsets = spec.offsets if spec.deformable == "modulated" else None
        self.layer1 = make_layer(block, 64, 64, blocks[0], 1, spec.norm_eps, None,
                                 spec.first_shortcut == "projection")
        self.layer2 = make_layer(block, 64 * block.expansion, 128, blocks[1], 2, spec.norm_eps, offsets, False)
        self.layer3 = make_layer(block, 128 * block.expansion, 256, blocks[2], 2, spec.norm_eps, offsets, False)
        self.layer4 = make_layer(block, 256 * block.expansion, 512, blocks[3], 2, spec.norm_eps, offsets, False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        c2 = self.layer1(self.stem(x))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        c5 = self.layer4(c4)
        return c2, c3, c4, c5

    def stem(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 64, H / 4, W / 4)."""
        return self.max_pool(self.relu(self.bn1(self.conv1(x))))

    def parts(self, x: Tensor, c2: Tensor, c3: Tensor, c4: Tensor) -> tuple[Tensor, ...]:
        """c2 of the image, c3 of the given c2, c4 of the given c3, c5 of the given c4."""
        return self.layer1(self.stem(x)), self.layer2(c2), self.layer3(c3), self.layer4(c4)


def make_layer(block: type[BasicBlock] | type[Bottleneck], in_channels: int, channels: int, count: int, stride: int,
               eps: float, offsets: Offsets | None, projected: bool) -> nn.Sequential:
    """`count` blocks, of which the first changes the shape. `offsets`: of deformable convolutions; None for plain ones.
    """
    blocks = [block(in_channels, channels, stride, eps, offsets, projected)]
    for _ in range(1, count):
        blocks.append(block(channels * block.expansion, channels, 1, eps, offsets, False))
    return nn.Sequential(*blocks)
