"""Boxes out, against the projects' own code on the same maps in one process: `python benchmarks/postprocess.py`.

One thread, interleaved rounds in random order, minimum and median of each. Peers that are not installed are named and
left out; `pip install mindocr mindspore paddleocr paddlepaddle rapidocr-onnxruntime` in an environment of its own has
them all.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import contextlib
import importlib
import importlib.util
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper

from dbnet.postprocess import boxes_from_map

#: A map -> polygons, in map pixels.
Run = Callable[[np.ndarray], Sequence[np.ndarray]]
SPARSE_SIZE = (736, 1312)
OURS = ("mindocr", "paddle", "mmocr")


# Peers ----------------------------------------------------------------------------------------------------------------


def module_alone(name: str, *needed: str) -> Any:
    """A module of an installed package without the package's own imports, which want every model's dependencies.

    The packages above it and `needed` (which it imports) become empty packages at their places.
    """
    top = name.split(".")[0]
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {top!r}", name=top)
    root = Path(spec.submodule_search_locations[0])
    for leaf in (name, *needed):
        parts = leaf.split(".")[:-1]
        for i in range(1, len(parts) + 1):
            package = types.ModuleType(".".join(parts[:i]))
            package.__path__ = [str(root.joinpath(*parts[1:i]))]
            sys.modules.setdefault(package.__name__, package)
    return importlib.import_module(name)


def mindocr() -> Run:
    """MindOCR's DBPostprocess, rescaling to the map's own size."""
    module = module_alone("mindocr.postprocess.det_db_postprocess", "mindocr.data.transforms.det_transforms",
                          "mindocr.utils.misc")
    rule = module.DBPostprocess(binary_thresh=0.3, box_thresh=0.6, max_candidates=1000, expand_ratio=1.5)
    return lambda p: rule(p[None, None], np.array([[*p.shape, 1, 1]], np.float32))["polys"][0]


def paddleocr() -> Run:
    """PaddleOCR's DBPostProcess, quads, fast."""
    module = module_alone("paddleocr.ppocr.postprocess.db_postprocess")
    rule = module.DBPostProcess(thresh=0.3, box_thresh=0.6, max_candidates=1000, unclip_ratio=1.5)
    return lambda p: rule({"maps": p[None, None]}, np.array([[*p.shape, 1.0, 1.0]]))[0]["points"]


def rapidocr() -> Run:
    """rapidocr-onnxruntime's copy of PaddleOCR's rule."""
    module = module_alone("rapidocr_onnxruntime.ch_ppocr_det.utils")
    rule = module.DBPostProcess(0.3, 0.6, 1000, 1.5)
    return lambda p: rule(p[None, None], p.shape)[0]


#: Name, what makes it, the rule that it follows, what to install. MindSpore and Paddle bring the same symbols in other
#: versions; they bear each other only in this order.
PEERS: list[tuple[str, Callable[[], Run], str, str]] = [
    ("MindOCR", mindocr, "mindocr", "mindocr mindspore"),
    ("PaddleOCR", paddleocr, "paddle", "paddleocr paddlepaddle"),
    ("RapidOCR", rapidocr, "paddle", "rapidocr-onnxruntime"),
]


def installed_peers() -> list[tuple[str, Run, str]]:
    found = []
    for name, make, rule, packages in PEERS:
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
                warnings.simplefilter("ignore")
                found.append((name, make(), rule))
        except ImportError as error:
            print(f"{name} is left out ({error}): pip install {packages}")
    return found


def identity_net(height: int, width: int) -> cv2.dnn.Net:
    """A network that returns its input as (H, W): TextDetectionModel_DB finds nothing in an output of rank 4."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["map", "shape"], ["same"])], "identity",
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 1, height, width])],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, [height, width])],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [height, width])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.checker.check_model(model)
    return cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))


def opencv(height: int, width: int) -> tuple[Run, Run]:
    """OpenCV's C++ rule (like PaddleOCR's slow one, with another unclipping), and its network alone."""
    model, net = cv2.dnn.TextDetectionModel_DB(identity_net(height, width)), identity_net(height, width)
    model.setBinaryThreshold(0.3).setPolygonThreshold(0.6).setUnclipRatio(1.5).setMaxCandidates(1000)
    model.setInputParams(1.0, (width, height), (0, 0, 0), False)

    def forward(probability: np.ndarray) -> list[np.ndarray]:
        net.setInput(cv2.dnn.blobFromImage(probability, 1.0, (width, height)))
        net.forward()
        return []

    return lambda p: [np.array(quad) for quad in model.detect(p)[0]], forward


# Maps -----------------------------------------------------------------------------------------------------------------


def page(boxes: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """`boxes` small rotated texts that do not touch, soft at their edges: (H, W) float32."""
    rng = np.random.default_rng(seed)
    height, width = size
    probability = np.zeros(size, np.float32)
    columns = max(1, int(np.ceil(np.sqrt(boxes * width / height))))
    cell_width, cell_height = width / columns, height / max(1, int(np.ceil(boxes / columns)))
    if boxes < 50:  # a photograph's texts do not fill it
        cell_width, cell_height = cell_width / 2, cell_height / 4
    for i in range(boxes):
        centre = (i % columns + 0.5) * width / columns, (i // columns + 0.5) * height / np.ceil(boxes / columns)
        sides = cell_width * rng.uniform(0.45, 0.65), cell_height * rng.uniform(0.25, 0.4)
        corners = cv2.boxPoints((centre, sides, float(rng.uniform(-30, 30))))
        cv2.fillPoly(probability, [corners.astype(np.int32)], float(rng.uniform(0.65, 0.95)))
    return np.clip(cv2.GaussianBlur(probability, (0, 0), 0.8), 0, 1)


def read_map(path: Path) -> np.ndarray:
    """A .npy file of floats, or a 16-bit picture of value * 65535."""
    if path.suffix == ".npy":
        return np.load(path).astype(np.float32)
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 2 or picture.dtype != np.uint16:
        sys.exit(f"{path} is no 16-bit grey picture")
    return (picture / 65535).astype(np.float32)


# Measuring ------------------------------------------------------------------------------------------------------------


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every run. Each round has an order of its own: whoever ran before leaves the caches warm or cold.
    """
    rng = np.random.default_rng(0)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(-1, rounds):
        for name in rng.permutation(list(runs)).tolist():
            start = time.perf_counter()
            runs[name]()
            if i >= 0:
                taken[name].append((time.perf_counter() - start) * 1e3)
    return taken


def differences(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> str:
    if len(ours) != len(theirs):
        return f"{len(theirs)} boxes, ours {len(ours)}"
    worst = max((float(np.abs(np.subtract(a, b)).max()) for a, b in zip(ours, theirs, strict=True)), default=0.0)
    return f"{len(theirs)} boxes, corners differ by {worst:g} px at most"


def compare(name: str, probability: np.ndarray, peers: list[tuple[str, Run, str]], rounds: int) -> None:
    """Prints the table of one map."""
    empty = np.zeros_like(probability)
    detect, forward = opencv(*probability.shape)

    def ours(rule: str) -> list[np.ndarray]:
        return [detection.polygon for detection in boxes_from_map(probability, rule)]

    runs: dict[str, Callable[[], object]] = {f"ours, {rule}": lambda rule=rule: ours(rule) for rule in OURS}
    runs |= {peer: lambda run=run: run(probability) for peer, run, _ in peers}
    runs |= {"OpenCV": lambda: detect(probability), "OpenCV, empty map": lambda: detect(empty),
             "OpenCV, network": lambda: forward(probability)}
    taken = interleaved(runs, rounds)
    best = {what: min(times) for what, times in taken.items()}
    print(f"\n{name}, {probability.shape[0]}x{probability.shape[1]}, one thread, {rounds} rounds\n"
          f"{'':32}{'minimum':>9}{'median':>9}  ms")
    for what, times in taken.items():
        print(f"{what:32}{min(times):9.3f}{statistics.median(times):9.3f}")
    for peer, run, rule in peers:
        print(f"{peer} / ours, {rule}: {best[peer] / best[f'ours, {rule}']:.2f}; "
              f"{differences(ours(rule), run(probability))}")
    net_of_empty, net_of_network = (best["OpenCV"] - best[f"OpenCV, {what}"] for what in ("empty map", "network"))
    print(f"OpenCV less its empty map {net_of_empty:.3f} ms, less its network {net_of_network:.3f} ms; "
          f"{len(detect(probability))} boxes by a rule of its own")
    if net_of_empty > 0 < net_of_network:
        print("ours / OpenCV less its empty map, less its network: " + "; ".join(
            f"{rule} {best[f'ours, {rule}'] / net_of_empty:.2f}, {best[f'ours, {rule}'] / net_of_network:.2f}"
            for rule in OURS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--boxes", type=int, nargs="+", default=[1000])
    parser.add_argument("--size", type=int, nargs=2, default=(1152, 2048), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--maps", type=Path, nargs="*", default=[], help="16-bit pictures or .npy files")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    peers = installed_peers()
    print(f"OpenCV {cv2.__version__}, NumPy {np.__version__}, Python {sys.version.split()[0]}")
    maps = [(f"page of {boxes}", page(boxes, tuple(args.size), args.seed)) for boxes in args.boxes]
    maps += [(f"photograph with {boxes}", page(boxes, SPARSE_SIZE, args.seed + boxes)) for boxes in (0, 3, 15)]
    maps += [(path.name, read_map(path)) for path in args.maps]
    for name, probability in maps:
        compare(name, probability, peers, args.rounds if probability.mean() > 0.05 else 5 * args.rounds)


if __name__ == "__main__":
    main()
