"""Training targets, against MindOCR's own ShrinkBinaryMap and BorderMap on the same texts in one process:
`python benchmarks/targets.py [--data FOLDER]`.

One thread. Both make all layouts in every round, in two ways: one after the other, as a training run does, which has
only one of them; and in turns, layout by layout, each of which then finds the caches full of the other's maps. Told are
the means over the layouts of their fastest and of their median times, and the largest difference of each map. The
layouts are those of ICDAR 2015's training images brought to 640x640 in three ways, and drawn images with 20 curved
words of 14 points.

Both are spared new memory, which either would wait longer for than for anything else: they run in one process, and what
one gives back the other is given.

Some pixels on an outline MindOCR loses: its cosine is -1 less a rounding error there, and the square root of what is
left no number, so that it leaves the threshold map as it was (a fault that its code knows of). They are counted apart.
Needs MindOCR: `pip install mindocr mindspore` in an environment of its own.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from benchmarks.postprocess import module_alone
from dbnet.datasets import icdar2015
from dbnet.sample import Sample
from dbnet.targets import Targets, make_targets

SIZE = 640
#: Polygons (P, 2) in pixels of a square of SIZE, and whether nobody cares about each.
Layout = tuple[list[np.ndarray], list[bool]]
Make = Callable[[list[np.ndarray], list[bool]], Sequence[np.ndarray]]


def mindocr() -> Make:
    """MindOCR's two steps with their defaults."""
    module = module_alone("mindocr.data.transforms.det_transforms", "mindocr.data.utils.polygon_utils")
    shrink, border = module.ShrinkBinaryMap(), module.BorderMap()
    image = np.zeros((SIZE, SIZE, 3), np.uint8)

    def make(polygons: list[np.ndarray], ignore: list[bool]) -> Sequence[np.ndarray]:
        data = border(shrink({"image": image, "polys": polygons, "ignore_tags": np.array(ignore, bool)}))
        return data["binary_map"][0], data["mask"], data["thresh_map"], data["thresh_mask"]

    return make


def ours(polygons: list[np.ndarray], ignore: list[bool]) -> Targets:
    return make_targets(polygons, ignore, SIZE, SIZE)


# Layouts --------------------------------------------------------------------------------------------------------------


def scaled(samples: Sequence[Sample], x: float, y: float) -> list[Layout]:
    """Whole photographs."""
    return [([(polygon * (x, y)).astype(np.float32) for polygon in sample.polygons], sample.ignore.tolist())
            for sample in samples]


def cropped(samples: Sequence[Sample], rng: np.random.Generator) -> list[Layout]:
    """Parts of enlarged and reduced photographs; MindOCR stops at a text that lies outside."""
    layouts = []
    for sample in samples:
        factor, corner = rng.uniform(0.5, 1.5), rng.uniform(0, 200, 2)
        moved = [((polygon - corner) * factor).astype(np.float32) for polygon in sample.polygons]
        kept = [i for i, polygon in enumerate(moved) if (polygon.max(axis=0) > 0).all()
                and (polygon.min(axis=0) < SIZE).all()]
        layouts.append(([moved[i] for i in kept], sample.ignore[kept].tolist()))
    return layouts


def curved(rng: np.random.Generator, words: int = 20, points: int = 14) -> Layout:
    """Words along circles."""
    polygons = []
    for _ in range(words):
        radius, height = rng.uniform(60, 200), rng.uniform(14, 36)
        angles = rng.uniform(0, 2 * np.pi) + np.linspace(0, rng.uniform(60, 180) / radius, points // 2)
        outer, inner = (np.stack([np.cos(angles), np.sin(angles)], axis=1) * r for r in (radius + height, radius))
        word = np.concatenate([outer, inner[::-1]])
        polygons.append((word - word.mean(axis=0) + rng.uniform(60, SIZE - 60, 2)).astype(np.float32))
    return polygons, [False] * words


# Measuring ------------------------------------------------------------------------------------------------------------


def compare(name: str, layouts: Sequence[Layout], theirs: Make, rounds: int) -> None:
    """Prints two rows."""
    texts = np.mean([len(ignore) - sum(ignore) for _, ignore in layouts])
    worst, lost = differences(layouts, theirs)
    told = "   " + " ".join(f"{difference:.1e}" for difference in worst) + f" {lost:5}"
    for way, in_turns in ((f"{name:22}{len(layouts):7}{texts:7.1f}", False), (f"{'  layout by layout':36}", True)):
        taken = times([theirs, ours], layouts, rounds, in_turns) * 1e3
        fastest, median = taken.min(axis=1).mean(axis=1), np.median(taken, axis=1).mean(axis=1)
        print(way + "".join(f"{run[0]:10.3f}{run[1]:8.3f}{run[0] / run[1]:7.2f}" for run in (fastest, median)) + told,
              flush=True)
        told = ""


def times(runs: Sequence[Make], layouts: Sequence[Layout], rounds: int, in_turns: bool) -> np.ndarray:
    """Seconds, (runs, rounds, layouts)."""
    taken = np.zeros((len(runs), rounds, len(layouts)))
    for i in range(rounds):
        for part in np.array_split(np.arange(len(layouts)), len(layouts) if in_turns else 1):
            for run in np.roll(range(len(runs)), i + part[0]):
                for k in part:
                    start = time.perf_counter()
                    runs[run](*layouts[k])
                    taken[run, i, k] = time.perf_counter() - start
    return taken


def differences(layouts: Sequence[Layout], theirs: Make) -> tuple[np.ndarray, int]:
    """The largest of each map, (4,), and the number of pixels that MindOCR loses."""
    worst, lost = np.zeros(4), 0
    for polygons, ignore in layouts:
        pairs = [np.abs(a - b) for a, b in zip(ours(polygons, ignore), theirs(polygons, ignore), strict=True)]
        for y, x in np.argwhere(pairs[2] > 1e-5):
            if any(not flag and on_outline(polygon, x, y) for polygon, flag in zip(polygons, ignore, strict=True)):
                pairs[2][y, x] = 0
                lost += 1
        worst = np.maximum(worst, [pair.max() for pair in pairs])
    return worst, lost


def on_outline(polygon: np.ndarray, x: int, y: int) -> bool:
    """Whether MindOCR's cosine is below -1 at a pixel: the angle under which it sees an edge."""
    to_ends = polygon.astype(np.float64) - (x, y)
    for a, b in zip(to_ends, np.roll(to_ends, 1, axis=0), strict=True):
        lengths = math.hypot(*a) * math.hypot(*b)
        if lengths and a @ b / lengths < -1 + 1e-14 and abs(a[0] * b[1] - a[1] * b[0]) <= 1e-7 * math.hypot(*(a - b)):
            return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared",
                        help="the data folder, which has data/icdar2015/train")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--curved", type=int, default=10, help="drawn images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")
    theirs, rng = mindocr(), np.random.default_rng(args.seed)
    print(f"OpenCV {cv2.__version__}, NumPy {np.__version__}, Python {sys.version.split()[0]}; milliseconds an image: "
          f"fastest, median\n{'':22}{'images':>7}{'texts':>7}" + 2 * f"{'MindOCR':>10}{'ours':>8}{'ratio':>7}"
          + "   largest differences; lost")
    folder = args.data / "data" / "icdar2015" / "train"
    if folder.is_dir():
        samples = icdar2015.load(folder)[:args.images]
        compare("ICDAR 2015, stretched", scaled(samples, 640 / 1280, 640 / 720), theirs, args.rounds)
        compare("ICDAR 2015, padded", scaled(samples, 0.5, 0.5), theirs, args.rounds)
        compare("ICDAR 2015, crops", cropped(samples, rng), theirs, args.rounds)
    else:
        print(f"no {folder}: give the data folder with --data")
    compare("20 curved words", [curved(rng) for _ in range(args.curved)], theirs, args.rounds)


if __name__ == "__main__":
    main()
