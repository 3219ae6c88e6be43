"""A comparison as `dbnet compare --json` writes it, with everything that it can hold, for the tests of its report."""

from __future__ import annotations

import copy
from typing import Any

STAGES = ("c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "fused", "logits", "probability")


def stage(name: str, state: str) -> dict[str, Any]:
    """A row: ok, own or inherited."""
    error = {"ok": 3.1e-7, "own": 0.217, "inherited": 0.083}[state]
    return {"stage": name, "max_abs": 6.76, "max_rel": error, "mismatched": 0 if state == "ok" else 153286,
            "size": 153600, "reference_spread": 0.114, "tolerance": 1e-5, "passed": state == "ok", "mean_abs": 0.227,
            "q999": error / 2, "share_1e3": 0.8, "share_5e3": 0.4, "cosine": 0.9962063, "worst_index": [0, 3, 46, 22],
            "isolated_max_abs": 6.76, "isolated_max_rel": error if state == "own" else 2.2e-7,
            "isolated_passed": state != "own", "float64_reference": 3.8e-7, "float64_candidate": error}


def boxes(**counts: Any) -> dict[str, Any]:
    return {"a": 74, "b": 70, "identical": 8, "moved": 62, "max_shift": 45.69, "lost": 4, "invented": 0, **counts}


def difference(image: str, kind: str = "moved") -> dict[str, Any]:
    square = [[10, 20], [50, 20], [50, 40], [10, 40]]
    return {"image": image, "kind": kind, "a": None if kind == "invented" else square,
            "b": None if kind == "lost" else square, "score_a": 0.731, "score_b": 0.612,
            "shift": 45.69 if kind == "moved" else None, "decided_by": "pixels",
            "why": "3 pixels lie on two sides of binary_thresh 0.3",
            "pixels": [{"x": 401 + i, "y": 88, "a": 0.2991, "b": 0.3009} for i in range(5)]}


def score(gap: float, verdict: str | None) -> dict[str, Any]:
    def side(fscore: float) -> dict[str, Any]:
        return {"precision": 0.81, "recall": 0.7, "fscore": fscore,
                "interval": {name: [fscore - 0.02, fscore + 0.02] for name in ("precision", "recall", "fscore")}}
    return {"title": "the official script", "a": side(0.7527), "b": side(0.7527 + gap),
            "difference": {"precision": 0.0, "recall": -0.01, "fscore": gap}, "interval": [gap - 0.002, gap + 0.002],
            "interval_90": [gap - 0.001, gap + 0.001], "images_apart": 23,
            "note": "no image is counted otherwise" if gap == 0 else None,
            "same_f": None if verdict is None else {"margin": 0.001, "verdict": verdict, "p": 0.031,
                                                    "why": "the 90 % interval says so"}}


def image_row(**counts: Any) -> dict[str, Any]:
    return {"max_abs": 0.2235, "mean_abs": 0.0145, "sizes": [[736, 1280], [736, 1280]], "crc32": 1178682867,
            "boxes": boxes(**{"a": 6, "b": 5, "identical": 0, "moved": 5, "lost": 1, **counts})}


def side(name: str, **others: Any) -> dict[str, Any]:
    return {"file": f"models/{name}", "spec": "dbnet_mobilenetv3", "runner": "torch", "device": "cpu",
            "sha256": "28f9cbfc60319", "origin": "mindocr", "environment": {"framework": "torch", "threads": 1},
            "pixels": {"colour": "RGB", "mean": [123.675, 116.28, 103.53], "size": [1088, 1088]},
            "boxes": {"rule": "mindocr", "box_thresh": 0.6}, "semantics": {"norm_eps": 1e-5}, **others}


def different() -> dict[str, Any]:
    """Two models that differ, with every field there is."""
    states = ["own", *["inherited"] * (len(STAGES) - 1)]
    part = {"part": "network", "what": "norm_eps", "boxes": 124.1, "boxes_share": 1.03, "fscore": -0.0099,
            "fscore_share": 0.934, "alone_boxes": 125, "alone_fscore": -0.0101}
    return {
        "verdict": "different", "unfinished": None, "first_divergence": "c2", "layer": "backbone.features.1",
        "cause": "bn_eps", "causes": [{"cause": "bn_eps", "what": "norm_eps is 0.001, not 1e-05", "before": 0.159,
                                       "residual": 0.0, "explained": True}],
        "own_errors": ["c2"], "notes": ["threshold: only the reference gives it"],
        "failed": ["img_7.jpg: is cut off"], "stages": [stage(*row) for row in zip(STAGES, states, strict=True)],
        "maps": [{"stage": "probability", "max_abs": 0.4287, "mean_abs": 0.004, "tolerance": 1e-4, "passed": False,
                  "other_sizes": 1}],
        "boxes": {**boxes(), "differences": [difference("img_1.jpg", kind) for kind in ("moved", "lost", "invented")]},
        "images": {f"img_{i}.jpg": image_row(lost=i) for i in range(1, 5)},
        "scores": {"gt": "gt.zip", "images": 200, "protocols": {"rrc": score(-0.0106, "different"),
                                                                "mindocr": score(0.0, "not shown")}},
        "swap": {"total_boxes": 120, "total_fscore": -0.0106, "protocol": "rrc", "parts": [
            part, {**part, "part": "box_thresh", "boxes": -4.1, "boxes_share": -0.03}]},
        "a": side("a.ckpt"), "b": side("b.onnx", runner="onnxruntime", semantics={"norm_eps": 1e-3},
                                       notes=["its graph was edited"]),
        "versions": {"python": "3.11.7", "numpy": "1.26.4"},
        "command": ["dbnet", "compare", "a.ckpt", "b.onnx", "--images", "my images"],
        "seconds": {"stages": 12.3, "images": 91.2}}


def same(verdict: str = "same") -> dict[str, Any]:
    """Two models that are the same, as far as it was looked at: stages, maps and boxes."""
    data = copy.deepcopy(different())
    data |= {"verdict": verdict, "first_divergence": None, "layer": None, "cause": None, "causes": [],
             "own_errors": [], "notes": [], "failed": [], "scores": None, "swap": None,
             "stages": [stage(name, "ok") for name in STAGES]}
    data["maps"][0] |= {"passed": True, "max_abs": 1e-6, "other_sizes": 0}
    none = boxes(b=74, identical=74, moved=0, max_shift=0.0, lost=0)
    data["boxes"] = {**none, "differences": []}
    data["images"] = {"img_1.jpg": {**image_row(), "max_abs": 1e-6, "boxes": none}}
    return data
