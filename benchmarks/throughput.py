"""Images a second from file to boxes, against ONNX Runtime alone and rapidocr-onnxruntime (where it is installed).

`python benchmarks/throughput.py [--model FILE --root FOLDER]`; without them a seeded model and drawn images. All run
the same graph on the same images with the same number of threads, in turns; the fastest round counts, the ratios are
what to quote. rapidocr decodes, resizes and draws boxes as it does itself, with the model's own thresholds.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import onnxruntime

import converters
from dbnet.datasets import icdar2015
from dbnet.datasets.drawn import draw
from dbnet.preprocess import prepare, read_image
from dbnet.sample import Sample
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS, ModelSpec
from evaluation.detect import detect
from evaluation.evaluate import evaluate
from evaluation.runners import cores, open_runner

DRAWN, HEIGHT, WIDTH, SPEC, SEED = 24, 720, 1280, "db_mv3_paddle", 8


def drawn_samples(folder: Path, count: int = DRAWN) -> list[Sample]:
    """Images of the size of ICDAR 2015's."""
    samples = []
    for i in range(count):
        image, polygons = draw(i, HEIGHT, WIDTH, words=8)
        cv2.imwrite(str(folder / f"img_{i}.jpg"), image)
        samples.append(Sample(folder / f"img_{i}.jpg", polygons, np.zeros(len(polygons), bool), [""] * len(polygons)))
    return samples


def one_by_one(model: Path, samples: list[Sample], threads: int) -> Callable[[], object]:
    runner = open_runner(model, "onnxruntime", stages=("probability",), threads=threads)
    return lambda: [detect(runner, read_image(sample.image), runner.spec.pixels, runner.spec.boxes)
                    for sample in samples]


def overlapping(model: Path, samples: list[Sample], threads: int, concurrent: bool) -> Callable[[], object]:
    runner = open_runner(model, "onnxruntime", stages=("probability",), threads=threads, concurrent=concurrent)
    return lambda: evaluate(runner, samples, runner.spec.pixels, runner.spec.boxes)


def bare(model: Path, samples: list[Sample], spec: ModelSpec, threads: int) -> Callable[[], object]:
    """The engine alone: a ready tensor of the first image's size, again and again."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    tensor = prepare(read_image(samples[0].image), spec.pixels).tensor
    name = session.get_inputs()[0].name
    return lambda: [session.run(["probability"], {name: tensor}) for _ in samples]


def rapidocr(model: Path, samples: list[Sample], spec: ModelSpec, threads: int) -> Callable[[], object] | None:
    """Its detector on the same file, as it is but for the model's thresholds; None where it is not installed."""
    try:
        from rapidocr_onnxruntime.ch_ppocr_det import TextDetector
    except ImportError:
        return None
    detector = TextDetector({
        "model_path": str(model), "intra_op_num_threads": threads, "inter_op_num_threads": -1, "use_cuda": False,
        "use_dml": False, "limit_type": "min", "limit_side_len": spec.pixels.size[0],
        "mean": [value / 255 for value in spec.pixels.mean], "std": [value / 255 for value in spec.pixels.std],
        "thresh": spec.boxes.binary_thresh, "box_thresh": spec.boxes.box_thresh, "use_dilation": spec.boxes.dilation,
        "max_candidates": spec.boxes.max_candidates, "unclip_ratio": spec.boxes.unclip_ratio, "score_mode": "fast"})
    return lambda: [detector(cv2.imread(str(sample.image))) for sample in samples]


def measure(contenders: dict[str, Callable[[], object]], images: int, rounds: int) -> dict[str, list[float]]:
    """Images a second of every counted round; the first round, which warms up, is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number, (name, run) in itertools.product(range(rounds + 1), contenders.items()):
        start = time.perf_counter()
        run()
        if number:
            rates[name].append(images / (time.perf_counter() - start))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a weight file of any supported format")
    parser.add_argument("--root", type=Path, help="a folder in ICDAR 2015's layout")
    parser.add_argument("--limit", type=int, default=40, help="images of it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, cores()))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.onnx"
        if args.model is None:
            converters.save_weights(seeded_weights(SPECS[SPEC], SEED), model, spec=SPEC)
        else:
            converters.convert(args.model, model)
        samples = icdar2015.load(args.root)[:args.limit] if args.root else drawn_samples(folder)
        spec = open_runner(model, "onnxruntime", stages=("probability",)).spec
        contenders = {"onnxruntime alone": bare(model, samples, spec, args.threads),
                      "ours": overlapping(model, samples, args.threads, True),
                      "ours, one call at once": overlapping(model, samples, args.threads, False),
                      "ours, no overlap": one_by_one(model, samples, args.threads)}
        peer = rapidocr(model, samples, spec, args.threads)
        if peer is None:
            print("rapidocr-onnxruntime is not installed, and not compared")
        else:
            contenders["rapidocr-onnxruntime"] = peer
        rates = measure(contenders, len(samples), args.rounds)
        size = prepare(read_image(samples[0].image), spec.pixels).tensor.shape[2:]
    print(f"{len(samples)} images at {size[0]}x{size[1]}, {args.threads} threads, the fastest of {args.rounds} rounds, "
          f"onnxruntime {onnxruntime.__version__}, opencv {cv2.__version__}")
    best = {who: max(found) for who, found in rates.items()}
    for who, rate in best.items():
        print(f"{who:24}{rate:6.1f} images/s   {rate / best['onnxruntime alone']:6.1%} of onnxruntime alone   "
              f"all rounds: {' '.join(f'{value:.1f}' for value in rates[who])}")


if __name__ == "__main__":
    main()
