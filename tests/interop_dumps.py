"""Run by the interpreter that has msprobe: dumps one of two networks on one image, as its users do, into a folder.

    python interop_dumps.py FOLDER mindspore|mhliao WEIGHTS.npz

`mindspore` is ms_models, `mhliao` a network with the modules of MhLiao/DB, written from its published definition.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

SHAPE = (1, 3, 64, 96)
IMAGE = np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32)


def mindspore(folder: str, weights: dict[str, np.ndarray]) -> None:
    """ms_models, in PyNative mode: msprobe's hooks need it."""
    import mindspore as ms
    from msprobe.mindspore import PrecisionDebugger

    from dbnet.spec import SPECS, with_semantics
    from ms_models.dbnet import DBNet
    ms.set_context(mode=ms.PYNATIVE_MODE)
    # msprobe's statistics need a norm, for which MindSpore has no kernel on CPUs.
    ms.mint.norm = lambda value: ms.ops.sqrt(ms.ops.ReduceSum()(value * value))
    net = DBNet(with_semantics(SPECS["dbnet_resnet18"], {"stem_pool": "symmetric"})).set_train(False)
    missing, _ = ms.load_param_into_net(net, {name: ms.Parameter(ms.Tensor(array), name=name)
                                              for name, array in weights.items()})
    assert not missing, missing
    debugger = PrecisionDebugger(dump_path=folder, task="statistics", level="L0")
    debugger.start(model=net)
    net(ms.Tensor(IMAGE))
    debugger.stop()
    debugger.step()


def mhliao(folder: str, weights: dict[str, np.ndarray]) -> None:
    """weights: under the names of that project's files."""
    import torch
    from msprobe.pytorch import PrecisionDebugger
    net = the_project_of_mhliao(torch.nn)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=True)
    net.eval()
    debugger = PrecisionDebugger(dump_path=folder, task="statistics", level="L0")
    with torch.no_grad():
        debugger.start(model=net)
        net(torch.from_numpy(IMAGE))
        debugger.stop()
        debugger.step()


def resnet18(nn: Any) -> Any:
    """backbones/resnet.py"""

    class Block(nn.Module):
        def __init__(self, into: int, out: int, stride: int):
            super().__init__()
            self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(out)
            self.relu = nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(out)
            self.downsample = None
            if stride != 1 or into != out:
                self.downsample = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))

        def forward(self, x: Any) -> Any:
            out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return self.relu(out + (x if self.downsample is None else self.downsample(x)))

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
            self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
            for i, (into, out) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512)), 1):
                setattr(self, f"layer{i}", nn.Sequential(Block(into, out, 1 if i == 1 else 2), Block(out, out, 1)))
            self.fc, self.smooth = nn.Linear(512, 1000), nn.Conv2d(2048, 256, 1)

        def forward(self, x: Any) -> Any:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            maps = []
            for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
                x = layer(x)
                maps.append(x)
            return tuple(maps)

    return Backbone()


def the_project_of_mhliao(nn: Any) -> Any:
    """SegDetectorModel of a ResNet-18: model (DataParallel) . module . backbone and decoder."""

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up5, self.up4, self.up3 = (nn.Upsample(scale_factor=2) for _ in range(3))
            for i, channels in enumerate((64, 128, 256, 512), 2):
                setattr(self, f"in{i}", nn.Conv2d(channels, 256, 1, bias=False))
                out = nn.Conv2d(256, 64, 3, padding=1, bias=False)
                setattr(self, f"out{i}", out if i == 2 else nn.Sequential(out, nn.Upsample(scale_factor=2 ** (i - 2))))
            self.binarize, self.thresh = self.branch(), self.branch()

        def branch(self) -> Any:
            return nn.Sequential(nn.Conv2d(256, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64),
                                 nn.ReLU(inplace=True), nn.ConvTranspose2d(64, 64, 2, 2), nn.BatchNorm2d(64),
                                 nn.ReLU(inplace=True), nn.ConvTranspose2d(64, 1, 2, 2), nn.Sigmoid())

        def forward(self, features: Any) -> Any:
            import torch
            c2, c3, c4, c5 = features
            in5 = self.in5(c5)
            in4 = self.up5(in5) + self.in4(c4)
            in3 = self.up4(in4) + self.in3(c3)
            in2 = self.up3(in3) + self.in2(c2)
            return self.binarize(torch.cat((self.out5(in5), self.out4(in4), self.out3(in3), self.out2(in2)), 1))

    class BasicModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.decoder = resnet18(nn), Decoder()

        def forward(self, x: Any) -> Any:
            return self.decoder(self.backbone(x))

    class SegDetectorModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.DataParallel(BasicModel())

        def forward(self, x: Any) -> Any:
            return self.model(x)

    return SegDetectorModel()


if __name__ == "__main__":
    with np.load(sys.argv[3]) as arrays:
        globals()[sys.argv[2]](sys.argv[1], dict(arrays))
