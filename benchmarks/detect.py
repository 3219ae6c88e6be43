"""Images a second of `dbnet detect` from files to files, pictures included, against ONNX Runtime alone.

`python benchmarks/detect.py [--model FILE --images FOLDER [--limit 200]]`; without them a seeded model and drawn
images. All run in turns with the same number of threads. Two ratios are told: of the fastest rounds, and the median of
the rounds' own ratios, which is what to quote on a machine that others use too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import onnxruntime

import converters
from benchmarks.throughput import SEED, SPEC, bare, drawn_samples, measure
from dbnet.preprocess import prepare, read_image
from dbnet.sample import Sample
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from evaluation.detecting import Looks, detect_images, settings_of
from evaluation.detecting_files import KINDS, Writer
from evaluation.detecting_inputs import Inputs, find_images
from evaluation.detecting_output import OutputFolder
from evaluation.runners import cores, open_runner

BARE = "onnxruntime alone"


def detecting(model: Path, inputs: Inputs, threads: int, out: Path, kinds: tuple[str, ...],
              looks: Looks, framework: str = "onnxruntime") -> Callable[[], object]:
    """All that `dbnet detect` does once the model is open."""
    runner = open_runner(model, framework, stages=("probability",), threads=threads, concurrent=True)
    pixels, boxes = runner.spec.pixels, runner.spec.boxes

    def run() -> None:
        writer = Writer(OutputFolder(out), kinds, inputs.names, looks.suffix,
                        settings_of(runner, model, pixels, boxes))
        summary = detect_images(runner, inputs, pixels, boxes, looks, writer)
        if summary.failed or summary.stopped:
            raise SystemExit(f"{summary.stopped or summary.failed[0]}")

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a weight file of any supported format")
    parser.add_argument("--images", type=Path, help="a folder of photographs, best all of one size")
    parser.add_argument("--limit", type=int, default=40, help="of them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, cores()))
    parser.add_argument("--out", type=Path, help="where to write; default a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.out) as name:
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
        spec = open_runner(model, "onnxruntime", stages=("probability",)).spec
        without = tuple(kind for kind in KINDS if kind not in ("pictures", "crops"))
        contenders = {
            BARE: bare(model, samples, spec, args.threads),
            "detect": detecting(model, inputs, args.threads, folder / "all", (*without, "pictures"), Looks()),
            "detect, no overlay": detecting(model, inputs, args.threads, folder / "plain", (*without, "pictures"),
                                            Looks(overlay=False)),
            "detect, no pictures": detecting(model, inputs, args.threads, folder / "none", without,
                                             Looks(pictures=False))}
        rates = measure(contenders, len(samples), args.rounds)
        size = prepare(read_image(samples[0].image), spec.pixels).tensor.shape[2:]
    print(f"{len(samples)} images at {size[0]}x{size[1]}, {args.threads} threads, {args.rounds} rounds in turns, "
          f"onnxruntime {onnxruntime.__version__}, opencv {cv2.__version__}")
    for who, found_rates in rates.items():
        ratios = [mine / alone for mine, alone in zip(found_rates, rates[BARE], strict=True)]
        print(f"{who:22}{max(found_rates):6.1f} images/s   fastest rounds {max(found_rates) / max(rates[BARE]):6.1%}   "
              f"median of rounds {statistics.median(ratios):6.1%}   "
              f"all rounds: {' '.join(f'{value:.1f}' for value in found_rates)}")


if __name__ == "__main__":
    main()
