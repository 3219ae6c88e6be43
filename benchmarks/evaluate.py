"""Our protocols against the projects' own code, one thread, same inputs: `python benchmarks/evaluate.py`.

The peers are optional: Polygon3 (the official script's clipper), mindocr, mmocr. By default a seeded set like ICDAR
2015's 500 test images, or `--gt gt.zip --results results.zip`; and one image with 1,000 texts and 1,000 detections. The
official algorithm is written out here pair by pair, as the script goes about it; `--official script.py` runs a copy of
the script itself too (one for Python 3, with its rrc_evaluation_funcs.py beside it; its time includes reading the zip
files). All scores are compared. Runs are interleaved, minima count, and the ratio is what to quote.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import tempfile
import time
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from dbnet.datasets.archive import natural_order, read_texts
from dbnet.datasets.icdar2015 import parse_labels
from dbnet.sample import Detection, Sample
from evaluation.protocols import Result, mindocr, mmocr, rrc
from evaluation.results import by_sample, read_results

Samples = list[Sample]
Detections = list[list[Detection]]
#: Inputs -> (precision, recall, F).
Run = Callable[[Samples, Detections], tuple[float, float, float]]

#: A peer that takes longer than this is run once.
SLOW_SECONDS = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gt", type=Path, help="zip of ICDAR 2015 labels")
    parser.add_argument("--results", type=Path, help="zip of results for them")
    parser.add_argument("--official", type=Path, help="a copy of the official script.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if (args.gt is None) != (args.results is None):
        parser.error("--gt and --results go together")
    images = read_set(args.gt, args.results) if args.gt else street_scenes(args.seed)
    cases = {f"{len(images[0])} images": images, "1,000 x 1,000": page(args.seed)}
    peers = available_peers(args.official)
    print("| case | theirs | seconds | ours | seconds | times faster | scores |")
    print("|---|---|---|---|---|---|---|")
    same = True
    for case, (samples, detections) in cases.items():
        for name, (theirs, ours, protocol) in peers.items():
            (first, theirs_score), (second, ours_score) = interleave([theirs, ours], samples, detections, args.rounds)
            equal = np.allclose(theirs_score, ours_score, rtol=0, atol=1e-9)
            same = same and equal
            verdict = f"F {ours_score[2]:.5f}" if equal else f"DIFFER: {theirs_score}, {ours_score}"
            print(f"| {case} | {name} | {first:.4f} | {protocol} | {second:.4f} | {first / second:.1f} | {verdict} |")
    sys.exit(0 if same else 1)


def interleave(runs: list[Run], samples: Samples, detections: Detections,
               rounds: int) -> list[tuple[float, tuple[float, float, float]]]:
    """Least seconds and the scores of each of the runs."""
    best = [(float("inf"), (0.0, 0.0, 0.0))] * len(runs)
    for i in range(rounds):
        for k, run in enumerate(runs):
            if i and best[k][0] > SLOW_SECONDS:
                continue
            start = time.perf_counter()
            scores = run(samples, detections)
            best[k] = (min(best[k][0], time.perf_counter() - start), scores)
    return best


# The runs -------------------------------------------------------------------------------------------------------------


def ours(module: types.ModuleType) -> Run:
    def run(samples: Samples, detections: Detections) -> tuple[float, float, float]:
        score = Result(module.PROTOCOLS[0], module.count(samples, detections)).score
        return score.precision, score.recall, score.fscore
    return run


def available_peers(script: Path | None) -> dict[str, tuple[Run, Run, str]]:
    """Name -> the peer's run, ours, our protocol. A peer that is missing is one line that says what to install."""
    peers: dict[str, tuple[Run, Run, str]] = {}
    loaders = [("official algorithm, Polygon3", official_algorithm, rrc, "rrc", "Polygon3"),
               ("MindOCR's DetMetric", mindocr_metric, mindocr, "mindocr", "mindocr and mindspore"),
               ("MMOCR's HmeanIOUMetric", mmocr_metric, mmocr, "mmocr", "mmocr, mmengine, mmcv and torch")]
    for name, load, module, protocol, packages in loaders:
        try:
            peers[name] = (load(), ours(module), protocol)
        except (ImportError, AssertionError) as error:  # MMOCR asserts the versions of what it needs
            print(f"{name}: left out, it needs {packages} installed ({error})", file=sys.stderr)
    if script is not None:
        peers["official script"] = (official_script(script), ours(rrc), "rrc")
    return peers


def official_algorithm() -> Run:
    """ICDAR 2015's script as it goes about it: every text with every detection, twice, in Python, by Polygon3."""
    polygon = importlib.import_module("Polygon").Polygon

    def run(samples: Samples, detections: Detections) -> tuple[float, float, float]:
        counts = [official_counts(sample.ignore, [polygon(outline.astype("int32")) for outline in sample.polygons],
                                  [polygon(detection.polygon.astype("int32")) for detection in found])
                  for sample, found in zip(samples, detections, strict=True)]
        right, texts, number = (sum(column) for column in zip(*counts, strict=True))
        precision, recall = (right / whole if whole else 0.0 for whole in (number, texts))
        return precision, recall, 2 * precision * recall / (precision + recall) if right else 0.0

    return run


def official_counts(ignore: np.ndarray, texts: list[Any], found: list[Any]) -> tuple[int, int, int]:
    """Matches, texts and detections of one image, from Polygon3's polygons."""
    skipped, ignored = [i for i, skip in enumerate(ignore) if skip], []
    for j, one in enumerate(found):
        for i in skipped:
            common, whole = shared(texts[i], one), one.area()
            if (common / whole if whole else 0) > 0.5:
                ignored.append(j)
                break
    overlaps = np.empty((len(texts), len(found)))
    for i in range(len(texts)):
        for j in range(len(found)):
            overlaps[i, j] = over_union(found[j], texts[i])
    taken_texts, taken_found = np.zeros(len(texts), np.int8), np.zeros(len(found), np.int8)
    for i in range(len(texts)):
        for j in range(len(found)):
            free = taken_texts[i] == 0 and taken_found[j] == 0
            if free and i not in skipped and j not in ignored and overlaps[i, j] > 0.5:
                taken_texts[i] = taken_found[j] = 1
    return int(taken_texts.sum()), len(texts) - len(skipped), len(found) - len(ignored)


def shared(first: Any, second: Any) -> float:
    common = first & second
    return common.area() if len(common) else 0.0


def over_union(first: Any, second: Any) -> float:
    try:
        return shared(first, second) / (first.area() + second.area() - shared(first, second))
    except ZeroDivisionError:
        return 0.0


def mindocr_metric() -> Run:
    """MindOCR's evaluator and its totals, without the tensors that DetMetric is fed with."""
    spec = importlib.util.find_spec("mindocr")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'mindocr'")
    # The packages themselves import every model, and what those need.
    for name in ("mindocr", "mindocr.metrics", "mindocr.utils"):
        package = types.ModuleType(name)
        package.__path__ = [str(Path(spec.submodule_search_locations[0], *name.split(".")[1:]))]
        sys.modules[name] = package
    metrics = importlib.import_module("mindocr.metrics.det_metrics")

    def run(samples: Samples, detections: Detections) -> tuple[float, float, float]:
        metric = metrics.DetMetric()
        for sample, found in zip(samples, detections, strict=True):
            truths = [{"polys": polygon.astype(np.float32), "ignore": skip}
                      for polygon, skip in zip(sample.polygons, sample.ignore, strict=True)]
            labels = metrics.DetectionIoUEvaluator()(truths, [detection.polygon for detection in found])
            metric._gt_labels.append(labels[0])
            metric._det_labels.append(labels[1])
        scores = metric.eval()
        return scores["precision"], scores["recall"], scores["f-score"]

    return run


def mmocr_metric() -> Run:
    metrics = importlib.import_module("mmocr.evaluation.metrics.hmean_iou_metric")

    def run(samples: Samples, detections: Detections) -> tuple[float, float, float]:
        metric = metrics.HmeanIOUMetric()
        metric.process([], [
            {"gt_instances": {"polygons": [polygon.ravel() for polygon in sample.polygons], "ignored": sample.ignore},
             "pred_instances": {"polygons": [detection.polygon.ravel() for detection in found],
                                "scores": [detection.score for detection in found]}}
            for sample, found in zip(samples, detections, strict=True)])
        scores = metric.compute_metrics(metric.results)
        return scores["precision"], scores["recall"], scores["hmean"]

    return run


def official_script(path: Path) -> Run:
    """`evaluate_method` of a copy of the script, on zip files that are written before the clock starts."""
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location("official_script", path)
    if spec is None or spec.loader is None:
        sys.exit(f"{path}: no Python script")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    folder = tempfile.TemporaryDirectory(prefix="official-")  # removed when the process ends
    written: dict[int, tuple[str, str]] = {}

    def run(samples: Samples, detections: Detections) -> tuple[float, float, float]:
        if id(samples) not in written:  # the first run is the slowest, and minima count
            written[id(samples)] = write_zips(Path(folder.name, str(len(written))), samples, detections)
        method = script.evaluate_method(*written[id(samples)], script.default_evaluation_params())["method"]
        return method["precision"], method["recall"], method["hmean"]

    return run


# The inputs -----------------------------------------------------------------------------------------------------------


def write_zips(stem: Path, samples: Samples, detections: Detections) -> tuple[str, str]:
    labels, results = Path(f"{stem}-gt.zip"), Path(f"{stem}-results.zip")
    with zipfile.ZipFile(labels, "w") as target, zipfile.ZipFile(results, "w") as other:
        for i, (sample, found) in enumerate(zip(samples, detections, strict=True), 1):
            texts = (f"{line(polygon)},{'###' if skip else 'text'}"
                     for polygon, skip in zip(sample.polygons, sample.ignore, strict=True))
            target.writestr(f"gt_img_{i}.txt", "\n".join(texts))
            other.writestr(f"res_img_{i}.txt", "\n".join(line(detection.polygon) for detection in found))
    return str(labels), str(results)


def line(polygon: np.ndarray) -> str:
    return ",".join(str(int(number)) for number in polygon.ravel())


def read_set(labels: Path, results: Path) -> tuple[Samples, Detections]:
    texts = read_texts(labels)
    samples = [parse_labels(texts[name], name, Path(name.removeprefix("gt_")).with_suffix(".jpg"))
               for name in sorted(texts, key=natural_order)]
    return samples, list(by_sample(read_results(results), samples))


def street_scenes(seed: int) -> tuple[Samples, Detections]:
    """500 images of 1280x720 with about 10 words each, 6 of them ignored, and about 7 detections."""
    rng = np.random.default_rng(seed)
    samples, detections = [], []
    for i in range(500):
        number = rng.poisson(10)
        words = rotated(rng, rng.uniform(0, (1280, 720), (number, 2)), rng.uniform((15, 8), (150, 40), (number, 2)))
        found = words[rng.random(number) < 0.6]
        found = np.concatenate([found + rng.normal(0, 2, found.shape),
                                rotated(rng, rng.uniform(0, (1280, 720), (1, 2)), np.array([[60, 20]]))])
        samples.append(to_sample(i, words, rng.random(number) < 0.6))
        detections.append(to_detections(found, rng.uniform(0.3, 1, len(found))))
    return samples, detections


def page(seed: int) -> tuple[Samples, Detections]:
    """One image with 40 lines of 25 words, and a detection on each."""
    rng = np.random.default_rng(seed)
    centres = np.stack(np.meshgrid(np.arange(25) * 80 + 60, np.arange(40) * 40 + 40), axis=-1).reshape(-1, 2)
    words = rotated(rng, centres, rng.uniform((30, 14), (76, 30), (1000, 2)))
    found = words[rng.permutation(1000)] + rng.normal(0, 3, (1000, 1, 2)) + rng.normal(0, 1, (1000, 4, 2))
    return [to_sample(0, words, rng.random(1000) < 0.2)], [to_detections(found, rng.uniform(0.3, 1, 1000))]


def rotated(rng: np.random.Generator, centres: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N, 4, 2) rectangles, clockwise on the screen, turned by some degrees."""
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * sizes[:, np.newaxis]
    angles = rng.normal(0, 0.15, len(centres))[:, np.newaxis]
    sine, cosine = np.sin(angles), np.cos(angles)
    x, y = corners[..., 0], corners[..., 1]
    return np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1) + centres[:, np.newaxis]


def to_sample(number: int, words: np.ndarray, ignore: np.ndarray) -> Sample:
    return Sample(Path(f"img_{number + 1}.jpg"), list(np.round(words)), ignore, [""] * len(words))


def to_detections(quads: np.ndarray, scores: np.ndarray) -> list[Detection]:
    return [Detection(quad, float(score)) for quad, score in zip(np.float32(np.round(quads)), scores, strict=True)]


if __name__ == "__main__":
    main()
