"""Images a second of the training input, against MindOCR's own transforms with the same recipe and images:
`python benchmarks/training_input.py [--data FOLDER --workers 1 2]`.

Both read ICDAR 2015's training images in as many processes, one thread each, in turns: from the file to the crop and
its four maps, and, in a second row, to the normalised (3, H, W) tensor. Told are the fastest rounds, and the median of
the rounds' own ratios, which is what to quote on a machine that others use too. MindOCR's transforms give their results
to nobody here; a third row is the whole `Loader`, with the shared memory and the program that takes the batches.
Needs MindOCR: `pip install mindocr mindspore` in an environment of its own.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import contextlib
import importlib
import json
import multiprocessing
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from benchmarks.postprocess import module_alone
from dbnet.augment import Augmentation
from dbnet.datasets import icdar2015
from dbnet.heap import keep_freed
from dbnet.loader import Loader
from dbnet.preprocess import normalise_bytes
from dbnet.sample import Sample
from dbnet.spec import MINDOCR_PIXELS
from dbnet.training_set import TargetSettings, TrainingSet, batches_of

#: The recipes' own, between DetLabelEncode and NormalizeImage.
PIPELINE: list[tuple[str, dict[str, Any]]] = [
    ("RandomColorAdjust", {"brightness": 0.1255, "saturation": 0.5}), ("RandomHorizontalFlip", {"p": 0.5}),
    ("RandomRotate", {"degrees": [-10, 10], "expand_canvas": False, "p": 1.0}),
    ("RandomScale", {"scale_range": [0.5, 3.0], "p": 1.0}),
    ("RandomCropWithBBox", {"max_tries": 10, "min_crop_ratio": 0.1, "crop_size": [640, 640], "p": 1.0}),
    ("ValidatePolygons", {}), ("ShrinkBinaryMap", {"min_text_size": 8, "shrink_ratio": 0.4}),
    ("BorderMap", {"shrink_ratio": 0.4, "thresh_min": 0.3, "thresh_max": 0.7})]
BATCH = 4
#: Makes the example at a place of the data set; whether it is normalised.
Make = Callable[[int, bool], object]


def mindocr(samples: list[Sample]) -> Make:
    detection = "mindocr.data.transforms.det_transforms"
    modules = (module_alone("mindocr.data.transforms.general_transforms", "mindocr.data.constants", detection),
               importlib.import_module(detection))
    vars(np).setdefault("bool", np.bool_)  # MindOCR asks for NumPy's name of old
    classes = {name: value for module in modules for name, value in vars(module).items()}
    steps = [classes["DecodeImage"](img_mode="RGB", to_float32=False), classes["DetLabelEncode"](),
             *(classes[name](**arguments) for name, arguments in PIPELINE)]
    last = [classes["NormalizeImage"](bgr_to_rgb=False, is_hwc=True, mean="imagenet", std="imagenet"),
            classes["ToCHWImage"]()]
    labels = [json.dumps([{"transcription": "###" if flag else "x", "points": polygon.tolist()}
                          for polygon, flag in zip(sample.polygons, sample.ignore, strict=True)]) for sample in samples]

    def make(index: int, normalised: bool) -> object:
        data = {"img_path": str(samples[index].image), "label": labels[index]}
        for step in steps + last * normalised:
            data = step(data)
        return [data[key] for key in ("image", "binary_map", "mask", "thresh_map", "thresh_mask")]

    return make


def ours(samples: list[Sample]) -> Make:
    keep_freed()  # as the `Loader` has its processes do; MindOCR's gain nothing by it (measured)
    training_set = TrainingSet(samples, Augmentation(), TargetSettings(), 0)
    epoch = random.randrange(1000)

    def make(index: int, normalised: bool) -> object:
        example = training_set.draw(epoch, index)
        if normalised:
            tensor = np.empty((3, *example.image.shape[:2]), np.float32)
            normalise_bytes(cv2.split(example.image), MINDOCR_PIXELS, tensor)
            return [tensor, *example[1:]]
        return example

    return make


MAKERS = {"MindOCR": mindocr, "ours": ours}

# In the processes -----------------------------------------------------------------------------------------------------

_make: Make | None = None


def _begin(name: str, samples: list[Sample]) -> None:
    global _make
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)
    with contextlib.redirect_stdout(sys.stderr):
        _make = MAKERS[name](samples)


def _run(index: int, normalised: bool) -> int:
    assert _make is not None
    return bool(_make(index, normalised))


# Measuring ------------------------------------------------------------------------------------------------------------


def measured(pool: ProcessPoolExecutor, images: int, normalised: bool) -> float:
    """Images a second."""
    start = time.perf_counter()
    done = sum(pool.map(_run, range(images), [normalised] * images, chunksize=4))
    return done / (time.perf_counter() - start)


def loaded(loader: Loader, training_set: TrainingSet, epoch: int) -> float:
    """Images a second that reach the program, once the processes run."""
    start = time.perf_counter()
    done = sum(len(batch.names) for batch in loader.batches(epoch, batches_of(training_set.order(epoch), BATCH)))
    return done / (time.perf_counter() - start)


def tell(what: str, theirs: list[float], own: list[float]) -> None:
    ratio = statistics.median(b / a for a, b in zip(theirs, own, strict=True))
    print(f"{what:36}{max(theirs):9.1f}{max(own):9.1f}{max(own) / max(theirs):8.2f}{ratio:8.2f}", flush=True)


def compare(samples: list[Sample], workers: int, rounds: int) -> None:
    context = multiprocessing.get_context("spawn")
    training_set = TrainingSet(samples, Augmentation(), TargetSettings(), 0)
    with contextlib.ExitStack() as stack:
        pools = {name: stack.enter_context(ProcessPoolExecutor(workers, context, _begin, (name, samples)))
                 for name in MAKERS}
        loader = stack.enter_context(Loader(training_set, BATCH, workers))
        taken: dict[tuple[str, bool], list[float]] = {(name, flag): [] for name in MAKERS for flag in (False, True)}
        whole = []
        for i in range(-1, rounds):  # the first starts the processes and reads the files
            for (name, normalised), rates in taken.items():
                rate = measured(pools[name], len(samples), normalised)
                rates.extend([rate] if i >= 0 else [])
            rate = loaded(loader, training_set, i + 1)
            whole.extend([rate] if i >= 0 else [])
    print(f"\n{workers} process{'es' * (workers > 1)}, {len(samples)} images, {rounds} rounds\n"
          f"{'images a second':36}{'MindOCR':>9}{'ours':>9}{'ratio':>8}{'median':>8}")
    tell("crop and maps", taken["MindOCR", False], taken["ours", False])
    tell("normalised tensor and maps", taken["MindOCR", True], taken["ours", True])
    tell("crop and maps / the whole Loader", taken["MindOCR", False], whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared",
                        help="the data folder, which has data/icdar2015/train")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    samples = icdar2015.load(args.data / "data" / "icdar2015" / "train")[:args.images]
    print(f"OpenCV {cv2.__version__}, NumPy {np.__version__}, Python {sys.version.split()[0]}")
    for workers in args.workers:
        compare(samples, workers, args.rounds)


if __name__ == "__main__":
    main()
