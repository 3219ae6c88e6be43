"""One training step, against MindOCR's own network, loss and step in the same MindSpore and process:
`python benchmarks/training_step.py [--steps 5 --batch 2 --size 640]`.

DBNet with ResNet-18 and the recipes' momentum optimizer, in graph mode, from arrays in memory: drawn images and their
maps, ours as uint8 pixels that the graph normalises, MindOCR's as the float32 that its input hands over. Both make a
step in turns; told are the fastest and the median step, and both networks' losses, which must fall. The first steps
compile and are not counted. Needs MindOCR: `pip install mindocr mindspore` in an environment of its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.dialects import alone
from dbnet.initial import initial_weights
from dbnet.loss_settings import LossSettings
from dbnet.spec import SPECS
from dbnet.train_settings import OptimizerSettings
from dbnet.training_set import Example
from parity.training import drawn_batch

SPEC = SPECS["dbnet_resnet18"]
RATE = 0.007


def ours(batch: Example) -> Callable[[], float]:
    """Makes a step and returns its loss."""
    from ms_models.train import Trainer
    trainer = Trainer(SPEC, initial_weights(SPEC, 0), OptimizerSettings(), LossSettings(), device="cpu")
    return lambda: float(trainer.step(batch, RATE).asnumpy()[0])


def mindocr(batch: Example) -> Callable[[], float]:
    """The same with MindOCR's code."""
    import mindspore as ms
    resnets = alone("mindocr.models.backbones.det_resnet", "mindocr.utils.misc", "mindocr.models.utils.attention_cells")
    necks, heads = alone("mindocr.models.necks.fpn"), alone("mindocr.models.heads.det_db_head")
    losses = alone("mindocr.losses.det_loss")
    wrappers, steps = alone("mindocr.utils.model_wrapper"), alone("mindocr.utils.train_step_wrapper")

    class Detector(ms.nn.Cell):
        def __init__(self, backbone: Any):
            super().__init__()
            self.backbone = backbone
            self.neck = necks.DBFPN(backbone.out_channels, out_channels=SPEC.neck_channels)
            self.head = heads.DBHead(SPEC.neck_channels)

        def construct(self, image: Any) -> Any:
            return self.head(self.neck(self.backbone(image)))

    net = Detector(resnets.det_resnet18(pretrained=False))
    optimizer = ms.nn.Momentum(net.trainable_params(), RATE, 0.9, weight_decay=1e-4)
    step = steps.TrainOneStepWrapper(wrappers.NetWithLossWrapper(net, losses.DBLoss()), optimizer, ms.Tensor(1.0),
                                     drop_overflow_update=False)
    step.set_train(True)
    image = (batch.image.astype(np.float32) - SPEC.pixels.mean) / SPEC.pixels.std
    arrays = [np.ascontiguousarray(array, np.float32) for array in (
        image.transpose(0, 3, 1, 2), batch.binary_map[:, None], batch.mask, batch.thresh_map, batch.thresh_mask)]
    return lambda: float(step(*map(ms.Tensor, arrays))[0].asnumpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=640)
    args = parser.parse_args()
    batch = drawn_batch(0, args.batch, args.size, args.size)
    runs = {"ours": ours(batch), "MindOCR": mindocr(batch)}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    losses: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(2 + args.steps):
        for name in list(runs)[::1 if i % 2 else -1]:
            start = time.perf_counter()
            losses[name].append(runs[name]())
            if i > 1:
                taken[name].append(time.perf_counter() - start)
    for name, seconds in taken.items():
        print(f"{name:8} fastest {min(seconds):.2f} s, median {statistics.median(seconds):.2f} s; losses "
              f"{losses[name][0]:.3f} to {losses[name][-1]:.3f}")
    print(f"MindOCR's step over ours: {min(taken['MindOCR']) / min(taken['ours']):.2f} of the fastest, "
          f"{statistics.median(taken['MindOCR']) / statistics.median(taken['ours']):.2f} of the medians")


if __name__ == "__main__":
    main()
