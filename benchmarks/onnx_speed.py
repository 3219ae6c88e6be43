"""Our ONNX graph against torch.onnx.export's in ONNX Runtime: `python benchmarks/onnx_speed.py [--runs N]`.

Same declared shapes, same thread count, interleaved; the minimum of the runs counts, the ratio is what to quote.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnxruntime
import torch

from converters import onnx_file
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS
from torch_reference.runner import TorchRunner

HEIGHT, WIDTH = 736, 1280


def export_torch(spec: str, path: Path, dynamic: bool) -> None:
    """The same network by torch's own exporter."""
    model = TorchRunner(SPECS[spec], seeded_weights(SPECS[spec]), device="cpu").net
    axes = {"image": {0: "N", 2: "H", 3: "W"}, "probability": {0: "N", 2: "H", 3: "W"}} if dynamic else None
    with torch.no_grad():
        torch.onnx.export(model, (torch.zeros(1, 3, HEIGHT, WIDTH),), str(path), dynamo=False, opset_version=13,
                          input_names=["image"], output_names=["probability"], dynamic_axes=axes)


def export_ours(spec: str, path: Path, dynamic: bool) -> None:
    """Our delivery form with the same shapes."""
    with path.open("w+b") as stream:
        onnx_file.write(stream, seeded_weights(SPECS[spec]), SPECS[spec], None, form="delivery", opset=13,
                        data_shape=None if dynamic else (HEIGHT, WIDTH))


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--spec", default="dbnet_resnet50", choices=list(SPECS))
    args = parser.parse_args()
    image = seeded_images(1, HEIGHT, WIDTH)
    with tempfile.TemporaryDirectory() as name:
        for dynamic in (True, False):
            paths = [Path(name) / f"{who}_{dynamic}.onnx" for who in ("ours", "torch")]
            export_ours(args.spec, paths[0], dynamic)
            export_torch(args.spec, paths[1], dynamic)
            sessions = [session(path, args.threads) for path in paths]
            outputs = [s.run(["probability"], {"image": image})[0] for s in sessions]
            seconds: list[list[float]] = [[], []]
            for _ in range(args.runs):
                for s, taken in zip(sessions, seconds, strict=True):
                    start = time.perf_counter()
                    s.run(["probability"], {"image": image})
                    taken.append(time.perf_counter() - start)
            ours, theirs = min(seconds[0]), min(seconds[1])
            kind = "dynamic" if dynamic else "static"
            print(f"{args.spec} {kind} {HEIGHT}x{WIDTH}, {args.threads} threads, minimum of {args.runs}: "
                  f"ours {ours:.3f} s, torch.onnx.export {theirs:.3f} s, ratio {ours / theirs:.3f}; "
                  f"largest difference {np.abs(outputs[0] - outputs[1]).max():.1e}")


if __name__ == "__main__":
    main()
