"""SynthText's preprocessing against the way MindOCR's converter goes about it: `python benchmarks/synthtext.py`.

Draws a gt.mat of --entries images (8 words and 40 characters each, a third of the boxes faulty in SynthText's ways) and
as many small JPEG files in 200 folders, converts it with `dbnet.datasets.synthtext` and by the usual way, each in a
process of its own, and compares all that comes out. The usual way is written out below, step by step as MindOCR's
tools/dataset_converters/synthtext.py goes about it, because MindOCR's package does not hold its tools; one line of it
needs NumPy below 1.24 and is written for today's. Quote the ratio.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from benchmarks.measure import interleave, run_once

FOLDERS = 200
WORKERS = 8  # as in MindOCR
LETTERS = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789.,-!?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, help="threads of ours; default: its own")
    parser.add_argument("--compressed", action="store_true", help="draw a gt.mat with compressed variables")
    parser.add_argument("--profile", action="store_true", help="where our main thread spends its time, then stop")
    parser.add_argument("--folder", type=Path, help="where to draw; default: a temporary folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", choices=("draw", "ours", "usual"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        STEPS[args.step](args)
        return
    with tempfile.TemporaryDirectory(prefix="synthtext-", dir=args.folder) as name:
        args.folder = Path(name)
        compare(args)


def compare(args: argparse.Namespace) -> None:
    def step(name: str) -> list[str]:
        more = [f"--workers={args.workers}"] if args.workers else []
        more += ["--compressed"] if args.compressed else []
        return [sys.executable, __file__, f"--step={name}", f"--folder={args.folder}", f"--entries={args.entries}",
                f"--seed={args.seed}", *more]

    seconds, _ = run_once(step("draw"))
    size = (args.folder / "gt.mat").stat().st_size / 2**20
    print(f"{args.entries} entries, gt.mat {size:.0f} MiB{' compressed' * args.compressed}, drawn in {seconds:.0f} s, "
          f"{len(os.sched_getaffinity(0))} cores, {args.rounds} rounds")
    if args.profile:
        profile(args)
        return
    timings = interleave({"copy the file": ["cp", str(args.folder / "gt.mat"), str(args.folder / "copy.mat")],
                          "dbnet": step("ours"), "the usual way": step("usual")}, args.rounds, warmup=0)
    print(f"\n{'':<16}{'median s':>9}{'min s':>8}{'entries/s':>11}{'peak MiB':>10}{'output MiB':>12}")
    outputs = {"copy the file": "copy.mat", "dbnet": "ours.mat", "the usual way": "usual.mat"}
    for timing in timings.values():
        written = (args.folder / outputs[timing.name]).stat().st_size / 2**20
        print(f"{timing.name:<16}{timing.median:>9.2f}{min(timing.seconds):>8.2f}{args.entries / timing.median:>11.0f}"
              f"{timing.peak:>10.0f}{written:>12.0f}")
    print(f"{timings['the usual way'].median / timings['dbnet'].median:.1f}x faster than the usual way")
    boxes, words = check_same(args.folder / "ours.mat", args.folder / "usual.mat")
    print(f"the same in both: {boxes} boxes to the last bit, {words} words")


def check_same(ours: Path, usual: Path) -> tuple[int, int]:
    """Number of boxes and words. Exits if anything differs."""
    from scipy.io import loadmat
    names = ["wordBB", "txt", "imnames"]
    first, second = (loadmat(str(path), variable_names=names) for path in (ours, usual))
    boxes = words = 0
    for i, (a, b) in enumerate(zip(first["wordBB"][0], second["wordBB"][0], strict=True)):
        a, b = (one.transpose().reshape(-1, 4, 2) for one in (a, b))
        texts, others = ([word for line in mat["txt"][0][i].tolist() for word in line.split()]
                         for mat in (first, second))
        if not np.array_equal(a, b) or texts != others or first["imnames"][0][i] != second["imnames"][0][i]:
            sys.exit(f"entry {i + 1} differs")
        boxes, words = boxes + len(a), words + len(texts)
    return boxes, words


# Ours -----------------------------------------------------------------------------------------------------------------


def ours(args: argparse.Namespace) -> None:
    from dbnet.datasets import synthtext
    synthtext.convert(args.folder / "gt.mat", args.folder, args.folder / "ours.mat", args.workers, force=True)


def profile(args: argparse.Namespace) -> None:
    """One thread, so that all of it is seen."""
    args.workers = 1
    watch = cProfile.Profile()
    watch.runcall(ours_alone, args)
    pstats.Stats(watch).sort_stats("tottime").print_stats(25)


def ours_alone(args: argparse.Namespace) -> None:
    """Every step of the conversion in this thread."""
    from dbnet.datasets import synthtext_convert, synthtext_labels, synthtext_write
    labels = synthtext_labels.open_labels(args.folder / "gt.mat")
    pool: Any = Inline()
    parts = synthtext_convert.put_right(labels, args.folder, pool, progress=None)
    with synthtext_write.replacing(args.folder / "ours.mat") as stream:
        synthtext_convert.write_labels(stream, labels, parts, pool)


class Inline:
    """A pool without threads."""

    map = staticmethod(map)


# The usual way --------------------------------------------------------------------------------------------------------


def usual(args: argparse.Namespace) -> None:
    from scipy.io import loadmat, savemat
    mat = loadmat(str(args.folder / "gt.mat"))
    columns = zip(mat["imnames"][0], mat["wordBB"][0], mat["txt"][0], strict=True)
    tasks = ((str(args.folder), *entry) for entry in columns)
    with ProcessPoolExecutor(max_workers=WORKERS) as pool:
        results = list(pool.map(usual_entry, tasks))
    texts = np.empty((1, len(results)), object)  # np.array(texts) takes no rows of different lengths since NumPy 1.24
    for i, (boxes, words) in enumerate(results):
        mat["wordBB"][0][i] = boxes
        texts[0, i] = words
    cells = {"charBB": mat["charBB"], "wordBB": mat["wordBB"], "imnames": mat["imnames"], "txt": texts}
    savemat(str(args.folder / "usual.mat"), cells, do_compression=True)


def usual_entry(task: tuple[str, np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """One image, box by box."""
    from PIL import Image
    from shapely.geometry import Polygon, box
    folder, name, boxes, texts = task
    boxes = boxes.transpose().reshape(-1, 4, 2)
    words = [word for text in texts.tolist() for word in text.split()]
    size = np.array(Image.open(os.path.join(folder, name.item())).size) - 1
    border = box(0, 0, *size)
    kept_boxes, kept_words = [], []
    for quad, word in zip(boxes, words):  # noqa: B905 - as far as both go
        offset = quad - quad.mean(0)
        quad = quad[np.argsort((np.arctan2(offset[:, 1], offset[:, 0]) + np.pi) % (2 * np.pi))]
        shape = Polygon(quad)
        if shape.is_valid and shape.intersects(border):
            quad = np.clip(quad, 0, size)
            shape = Polygon(quad)
            if shape.is_valid and not shape.equals(border):
                kept_boxes.append(quad)
                kept_words.append(word)
    return np.array(kept_boxes).transpose(), np.array(kept_words)


# Drawing --------------------------------------------------------------------------------------------------------------


def draw(args: argparse.Namespace) -> None:
    """gt.mat as SynthText's is, and its images; those of one folder are one file under many names."""
    from scipy.io import savemat
    rng = np.random.default_rng(args.seed)
    sizes = rng.integers((300, 300), (700, 700), (FOLDERS, 2))
    cells = {name: np.empty((1, args.entries), object) for name in ("charBB", "wordBB", "imnames", "txt")}
    firsts = []
    for folder, (width, height) in enumerate(sizes.tolist(), start=1):
        (args.folder / str(folder)).mkdir()
        firsts.append(args.folder / str(folder) / "first.jpg")
        shade = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        cv2.imwrite(str(firsts[-1]), cv2.resize(shade, (width, height)))
    for i in range(args.entries):
        folder = i * FOLDERS // args.entries
        name = f"{folder + 1}/picture_{i // 10}_{i % 10}.jpg"
        os.link(firsts[folder], args.folder / name)
        cells["imnames"][0, i] = name
        words = draw_words(rng)
        count = sum(len(line.split()) for line in words)
        cells["txt"][0, i] = np.array(words)
        cells["wordBB"][0, i] = squeezed(draw_boxes(rng, count, sizes[folder]))
        characters = sum(len(word) for line in words for word in line.split())
        cells["charBB"][0, i] = squeezed(draw_boxes(rng, characters, sizes[folder]))
    savemat(str(args.folder / "gt.mat"), cells, do_compression=args.compressed)


def draw_words(rng: np.random.Generator) -> list[str]:
    """About five texts of one to three words, some of several lines."""
    return ["\n".join(" ".join("".join(rng.choice(LETTERS, rng.integers(1, 10))) for _ in range(rng.integers(1, 3)))
                      for _ in range(1 if rng.random() < 0.8 else 2)) for _ in range(rng.integers(1, 9))]


def draw_boxes(rng: np.random.Generator, count: int, size: np.ndarray) -> np.ndarray:
    """(2, 4, count) float32: turned rectangles, of which some cross themselves, leave the image or have no area."""
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    corners = corners * rng.uniform((8, 6), (120, 50), (count, 1, 2))
    angle = rng.normal(0, 0.25, (count, 1))
    x, y = corners[..., 0], corners[..., 1]
    quads = np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], axis=-1)
    quads += rng.uniform(0.06, 0.94, (count, 1, 2)) * size + rng.normal(0, 0.5, (count, 4, 2))
    fault = rng.random(count)
    quads[fault < 0.3] = quads[fault < 0.3][:, [0, 1, 3, 2]]
    quads[(fault > 0.3) & (fault < 0.31)] += 900
    quads[(fault > 0.31) & (fault < 0.315), 2:] = quads[(fault > 0.31) & (fault < 0.315), :2]
    return quads.transpose(2, 1, 0).astype(np.float32)


def squeezed(boxes: np.ndarray) -> np.ndarray:
    """MATLAB drops a last dimension of one."""
    return boxes[..., 0] if boxes.shape[2] == 1 else boxes


STEPS = {"draw": draw, "ours": ours, "usual": usual}

if __name__ == "__main__":
    main()
