"""What an evaluation costs for each image, by steps, over numbers of images: `python benchmarks/scale.py`.

Every step by itself, each number of images in a process of its own with one thread, rounds in turns. Seconds are those
of the processor, and minima count, so that a busy machine tells nearly the same; memory is what the step adds to the
most that its process has held. The slope (least squares) is what one image more costs, without what starting costs.
`growth` is the slope of the upper half of the numbers over that of the lower half: 1 is linear; a quadratic step would
have 1.7 to 3.6 here. Steps that depend on an image's size take a drawn photograph of 1280 x 720 px, ICDAR 2015's size;
the whole command takes small ones, so that there can be many. `--steps "a;b"` and `--rounds` for less.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
HEIGHT, WIDTH = 720, 1280
#: Texts in an image, and detections: as many as ICDAR 2015 has.
TEXTS = 10
PARTS = 8
#: What a step does before its clock starts, and what is measured then.
Step = Callable[[int, Path], Callable[[], object]]


def labels(images: int, folder: Path) -> Callable[[], object]:
    """Reading the data set: its label files, and the list of its images, which are empty here."""
    from dbnet.datasets import sources
    return lambda: sources.load("icdar2015", root=folder / f"set_{images}")


def pixels(images: int, folder: Path) -> Callable[[], object]:
    """An image's file decoded, resized and normalised."""
    from dbnet.preprocess import prepare, read_image
    from dbnet.spec import SPECS

    def run() -> None:
        for _ in range(images):
            prepare(read_image(folder / "photo.jpg"), SPECS["dbnet_mobilenetv3"].pixels)
    return run


def network(images: int, folder: Path) -> Callable[[], object]:
    """The embedded model in ONNX Runtime, at 1152 x 2048 px, to which its pixel format brings the photograph."""
    from evaluation.runners import open_runner
    runner = open_runner(MODEL, "onnxruntime", stages=("probability",), threads=1)
    tensor = np.load(folder / "tensor.npy")
    runner.run(tensor)
    return lambda: [runner.run(tensor) for _ in range(images)]


def boxes(images: int, folder: Path) -> Callable[[], object]:
    """From the map of that photograph to boxes."""
    from dataclasses import asdict

    from dbnet.postprocess import boxes_from_map
    from dbnet.spec import SPECS
    found = np.load(folder / "map.npy")
    rule = asdict(SPECS["dbnet_mobilenetv3"].boxes)
    return lambda: [boxes_from_map(found, **rule, resized_size=found.shape, original_size=(HEIGHT, WIDTH))
                    for _ in range(images)]


def scoring(*protocols: str) -> Step:
    """Counting by protocols, image by image as `evaluate` does."""
    def step(images: int, folder: Path) -> Callable[[], object]:
        from evaluation.protocols.table import find
        samples, detections = drawn(images)
        chosen = find(protocols)
        return lambda: [[protocol.count([sample], [found]) for protocol in chosen]
                        for sample, found in zip(samples, detections, strict=True)]
    return step


def bootstrap(*protocols: str) -> Step:
    """The 95 % intervals of all protocols at once."""
    def step(images: int, folder: Path) -> Callable[[], object]:
        from evaluation.protocols import Result, intervals
        from evaluation.protocols.table import find
        rng = np.random.default_rng(0)
        texts, found = rng.integers(1, 20, (2, images))
        right = rng.integers(0, np.minimum(texts, found) + 1)
        one = np.stack([right, texts, right, found], axis=-1).astype(float)[:, np.newaxis]
        results = [Result(each, np.repeat(one, len(each.variants), axis=1)) for each in find(protocols)]
        return lambda: intervals(results)
    return step


def report(images: int, folder: Path) -> Callable[[], object]:
    """Writing --json, of which nothing is kept here."""
    from evaluation.evaluate import evaluate_results
    evaluation = evaluate_results(*drawn(images))
    assert evaluation.intervals
    return lambda: evaluation.write_json(io.TextIOWrapper(io.FileIO(os.open(os.devnull, os.O_WRONLY), "w")))


def merge(images: int, folder: Path) -> Callable[[], object]:
    """Putting eight parts together, from their files to that of the whole."""
    from evaluation.shards import merge_evaluation_files
    paths = [folder / f"part_{images}_{i}.json" for i in range(1, PARTS + 1)]

    def run() -> None:
        with open(os.devnull, "w") as stream:
            merge_evaluation_files(paths).write_json(stream)
    return run


def command(images: int, folder: Path) -> Callable[[], object]:
    """`dbnet evaluate` as a whole, on photographs of 128 x 96 px, its boxes on disk."""
    from tests.running import command as dbnet

    def run() -> None:
        done = dbnet("evaluate", MODEL, "--root", folder / "small", "--limit", images, "--runner", "onnxruntime",
                     "--threads", "1", "--pixels", "resize=grid", "--json", folder / "report.json")
        assert done.returncode == 0, done.stderr
    return run


def results(images: int, folder: Path) -> Callable[[], object]:
    """`dbnet evaluate --results` as a whole, on a file that --json wrote."""
    from tests.running import command as dbnet

    def run() -> None:
        done = dbnet("evaluate", "--results", folder / f"part_{images}_whole.json", "--gt",
                     folder / f"set_{images}/gt")
        assert done.returncode == 0, done.stderr
    return run


#: Step -> how it is done, the numbers of images, what it is.
STEPS: dict[str, tuple[Step, tuple[int, ...]]] = {
    "labels": (labels, (1000, 2000, 5000, 10000)),
    "pixels": (pixels, (10, 20, 50, 100)),
    "network": (network, (2, 4, 8, 16)),
    "boxes": (boxes, (20, 50, 100, 200)),
    "scoring, rrc": (scoring("rrc"), (250, 500, 1000, 2000)),
    "scoring, all protocols": (scoring("rrc", "mindocr", "mhliao", "mmocr", "totaltext", "ctw1500", "td500"),
                               (50, 100, 200, 400)),
    "bootstrap, rrc": (bootstrap("rrc"), (5000, 10000, 30000, 100000)),
    "bootstrap, all protocols": (bootstrap("rrc", "mindocr", "mhliao", "mmocr", "totaltext", "ctw1500", "td500"),
                                 (5000, 10000, 30000, 100000)),
    "writing --json": (report, (1000, 2000, 5000, 10000)),
    "report merge of 8 parts": (merge, (1000, 2000, 5000, 10000)),
    "evaluate, 128 x 96 px": (command, (500, 1000, 1500, 2000)),
    "evaluate --results": (results, (1000, 2000, 5000, 10000)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", help=f"of {', '.join(STEPS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=3, metavar=("STEP", "IMAGES", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        step, images, folder = args.child
        ready = STEPS[step][0](int(images), Path(folder))
        start, held = time.process_time(), most_memory()
        kept = ready()
        print(json.dumps([time.process_time() - start, most_memory() - held]))
        del kept
        return
    chosen = [name.strip() for name in args.steps.split(";")] if args.steps else list(STEPS)
    if unknown := set(chosen) - set(STEPS):
        parser.error(f"no step {sorted(unknown)[0]!r}; --steps takes names of {'; '.join(STEPS)}, with ; between")
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        sizes = prepared(Path(folder), chosen)
        measured = rounds(chosen, Path(folder), args.rounds)
    print("| step | images | an image | memory an image | growth | 10^4 images | 10^6 images |")
    print("|---|---|---|---|---|---|---|")
    for name in chosen:
        print(row(name, measured[name]))
    print("\n".join(f"{what}: {size:.0f} bytes an image" for what, size in sizes.items()))


def most_memory() -> int:
    """KiB that this process held at the most; what `getrusage` tells is also that of the process that started it."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


def rounds(chosen: list[str], folder: Path, count: int) -> dict[str, dict[int, list[tuple[float, float]]]]:
    """By step and number of images, of every round (seconds, KiB)."""
    measured: dict[str, dict[int, list[tuple[float, float]]]] = {
        name: {images: [] for images in STEPS[name][1]} for name in chosen}
    for number in range(count):
        for name in chosen:
            for images in STEPS[name][1]:
                done = subprocess.run([sys.executable, __file__, "--child", name, str(images), str(folder)], text=True,
                                      capture_output=True, check=False)
                if done.returncode:
                    sys.exit(f"{name}, {images} images: {done.stderr}")
                seconds, memory = json.loads(done.stdout.splitlines()[-1])
                measured[name][images].append((seconds, memory))
                print(f"round {number + 1}, {name}, {images}: {seconds:.3f} s, {memory / 1024:.0f} MiB",
                      file=sys.stderr)
    return measured


def row(name: str, measured: dict[int, list[tuple[float, float]]]) -> str:
    images = sorted(measured)
    seconds, memory = ([min(run[which] for run in measured[n]) for n in images] for which in (0, 1))
    slope, bytes_each = np.polyfit(images, seconds, 1)[0], 1024 * np.polyfit(images, memory, 1)[0]
    half = len(images) // 2
    lower, upper = (np.polyfit(images[part], seconds[part], 1)[0] for part in (slice(0, half + 1), slice(half, None)))
    growth = upper / lower
    held = f"{bytes_each / 1000:.1f} kB" if images[-1] >= 1000 else "-"  # a few images hide in what a process has
    return (f"| {name} | {images[0]} to {images[-1]} | {1000 * slope:.3g} ms | {held} | "
            f"{growth:.2f} | {told(1e4 * slope)} | {told(1e6 * slope)} |")


def told(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


# The inputs -----------------------------------------------------------------------------------------------------------


def drawn(images: int) -> tuple[list, list]:
    """Labels of a page of texts in a grid, and detections of them, a little beside."""
    from dbnet.sample import Detection, Sample
    rng = np.random.default_rng(images)
    samples, detections = [], []
    for i in range(images):
        corners = rng.uniform((0, 0), (WIDTH - 120, HEIGHT - 40), (TEXTS, 1, 2))
        texts = corners + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * rng.uniform((30, 12), (110, 36), (TEXTS, 1, 2))
        found = texts + rng.normal(0, 2, texts.shape)
        samples.append(Sample(Path(f"img_{i}.jpg"), list(texts.round()), np.arange(TEXTS) % 5 == 4, [""] * TEXTS))
        detections.append([Detection(each.astype(np.float32), float(rng.random())) for each in found])
    return samples, detections


def prepared(folder: Path, chosen: list[str]) -> dict[str, float]:
    """Writes what the steps read; bytes of an image in what is written."""
    import cv2

    from dbnet.datasets.drawn import draw
    from dbnet.preprocess import prepare, read_image
    from dbnet.shards import Shard
    from dbnet.spec import SPECS
    from evaluation.evaluate import evaluate_results
    cv2.imwrite(str(folder / "photo.jpg"), draw(3, HEIGHT, WIDTH)[0])
    if {"network", "boxes"} & set(chosen):
        from evaluation.runners import open_runner
        ready = prepare(read_image(folder / "photo.jpg"), SPECS["dbnet_mobilenetv3"].pixels)
        np.save(folder / "tensor.npy", ready.tensor)
        runner = open_runner(MODEL, "onnxruntime", stages=("probability",))
        np.save(folder / "map.npy", runner.run(ready.tensor)["probability"][0, 0])
    sets = {n for name in ("labels", "evaluate --results") if name in chosen for n in STEPS[name][1]}
    merged = {n for name in ("report merge of 8 parts", "evaluate --results") if name in chosen for n in STEPS[name][1]}
    sizes = {}
    for images in sorted(sets | merged):
        samples, detections = drawn(images)
        write_set(folder / f"set_{images}", samples)
        whole = folder / f"part_{images}_whole.json"
        whole.write_text(evaluate_results(samples, detections).to_json())
        for i in range(1, PARTS + 1):
            part = evaluate_results(samples, detections, shard=Shard(i, PARTS)).to_json()
            (folder / f"part_{images}_{i}.json").write_text(part)
        sizes[f"--json, {TEXTS} boxes"] = whole.stat().st_size / images
    if "evaluate, 128 x 96 px" in chosen:
        for part in ("images", "gt"):
            (folder / "small" / part).mkdir(parents=True)
        for i in range(max(STEPS["evaluate, 128 x 96 px"][1])):
            image, polygons = draw(i % 50, 96, 128)
            cv2.imwrite(str(folder / f"small/images/img_{i}.png"), image)
            (folder / f"small/gt/gt_img_{i}.txt").write_text("\n".join(map(line, polygons)))
    return sizes


def write_set(folder: Path, samples: list) -> None:
    for part in ("images", "gt"):
        (folder / part).mkdir(parents=True)
    for sample in samples:
        (folder / "images" / sample.name).touch()
        (folder / f"gt/gt_{sample.image.stem}.txt").write_text("\n".join(map(line, sample.polygons)))


def line(polygon: np.ndarray) -> str:
    return ",".join(str(round(value)) for value in polygon.ravel()) + ",word"


if __name__ == "__main__":
    main()
