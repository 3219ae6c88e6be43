"""Images a second from files to boxes in OpenVINO, against OpenVINO alone: its own queue at its own setting for many.

`python benchmarks/openvino_speed.py [--model FILE --images FOLDER [--limit 40]]`; without them a seeded model and drawn
images. All run the same file on the same cores in one process, in turns of a few seconds; the first turn of each is not
counted. The peers get one ready tensor again and again: as the file is, and fixed to the size of the images, which
OpenVINO computes faster. The median of the rounds' own ratios is what to quote on a machine that others use too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

import converters
from benchmarks.detect import detecting
from benchmarks.throughput import SEED, SPEC, drawn_samples, measure
from dbnet.extras import require
from dbnet.preprocess import prepare, read_image
from dbnet.sample import Sample
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from evaluation import pipeline
from evaluation.detecting import Looks
from evaluation.detecting_files import KINDS
from evaluation.detecting_inputs import Inputs, find_images
from evaluation.runners import Runner, cores, open_runner

BARE, FIXED = "openvino alone", "openvino alone, fixed"


def bare(model: Path, tensor: np.ndarray, images: int, threads: int, fixed: bool) -> Callable[[], object]:
    """The engine at its best: as many requests under way as its hint for throughput asks for, and nothing copied."""
    ov = require("openvino")
    core = ov.Core()
    graph = core.read_model(str(model))
    if fixed:
        graph.reshape(list(tensor.shape))
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    queue = ov.AsyncInferQueue(core.compile_model(graph, "CPU", settings))

    def run() -> None:
        for _ in range(images):
            queue.start_async([tensor], share_inputs=True)
        queue.wait_all()

    return run


def from_files(runner: Runner, samples: list[Sample]) -> Callable[[], object]:
    """Decoding, resizing, network, boxes."""
    spec = runner.spec
    return lambda: list(pipeline.run(runner, samples, spec.pixels, [spec.boxes], lambda found: found.checksum))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a weight file of any supported format")
    parser.add_argument("--images", type=Path, help="a folder of photographs, best all of one size")
    parser.add_argument("--limit", type=int, default=40, help="of them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=min(2, cores()))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.onnx"
        if args.model is None:
            converters.save_weights(seeded_weights(SPECS[SPEC], SEED), model, spec=SPEC)
        else:
            converters.convert(args.model, model)
        if args.images is None:
            drawn_samples(folder)
        found = find_images([str(args.images or folder)])
        inputs = Inputs(found.files[:args.limit], found.names[:args.limit])
        samples = [Sample(Path(file), [], np.zeros(0, bool), []) for file in inputs.files]
        runner = open_runner(model, "openvino", stages=("probability",), threads=args.threads, concurrent=True)
        tensor = prepare(read_image(samples[0].image), runner.spec.pixels).tensor
        contenders: dict[str, Any] = {
            BARE: bare(model, tensor, len(samples), args.threads, False),
            FIXED: bare(model, tensor, len(samples), args.threads, True),
            "files to boxes": from_files(runner, samples),
            "detect, no pictures": detecting(model, inputs, args.threads, folder / "none",
                                             tuple(kind for kind in KINDS if kind not in ("pictures", "crops")),
                                             Looks(pictures=False), "openvino")}
        rates = measure(contenders, len(samples), args.rounds)
    told(rates, len(samples), tensor.shape[2:], args.threads)


def told(rates: dict[str, list[float]], images: int, size: tuple[int, ...], threads: int) -> None:
    print(f"{images} images at {size[0]}x{size[1]}, {threads} threads, {len(rates[BARE])} rounds in turns, openvino "
          f"{require('openvino').__version__}, opencv {cv2.__version__}")
    for who, found in rates.items():
        ratios = {peer: [a / b for a, b in zip(found, rates[peer], strict=True)] for peer in (BARE, FIXED)}
        against = "   ".join(f"{statistics.median(ratios[peer]):6.1%} of {peer}" for peer in ratios if peer != who)
        print(f"{who:22}{max(found):6.1f} images/s   median of rounds {against}   "
              f"all rounds: {' '.join(f'{value:.1f}' for value in found)}")


if __name__ == "__main__":
    main()
