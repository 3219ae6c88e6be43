"""Conversion of a ResNet-50 DBNet against the usual ways, whole processes: `python benchmarks/convert.py [--rounds N]`.

ckpt -> pth: load in MindSpore, save with torch. pth -> onnx: torch.onnx.export at 736x1280. Quote the ratios.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import interleave

ROOT = Path(__file__).resolve().parents[1]

SPEC = "dbnet_resnet50"

BY_MINDSPORE_AND_TORCH = """
import mindspore, torch
held = mindspore.load_checkpoint({ckpt!r})
torch.save({{name: torch.from_numpy(value.asnumpy()) for name, value in held.items()}}, {out!r})
"""
BY_TORCH_EXPORT = """
import torch
from torch_reference import build
model = build({spec!r})
model.load_state_dict(torch.load({pth!r}, weights_only=True))
with torch.no_grad():
    torch.onnx.export(model, (torch.zeros(1, 3, 736, 1280),), {out!r}, input_names=["image"],
                      output_names=["probability"], {more})
"""
#: torch's exporter by default, which needs onnxscript, and its older one.
EXPORTERS = {"torch.onnx.export": "", "torch.onnx.export dynamo=False": "dynamo=False, opset_version=13"}
MAKE = """
import converters
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
converters.save_weights(seeded_weights(SPECS[{spec!r}]), {path!r}, spec={spec!r})
"""
COPY = "import shutil; shutil.copyfile({ckpt!r}, {out!r})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    exporters = {name: more for name, more in EXPORTERS.items() if more or importlib.util.find_spec("onnxscript")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ckpt, pth = folder / "r50.ckpt", folder / "r50.pth"
        for path in (ckpt, pth):  # elsewhere: a process inherits its parent's peak memory
            subprocess.run([sys.executable, "-c", MAKE.format(spec=SPEC, path=str(path))], check=True, cwd=ROOT)
        out = str(folder / "out")

        def script(text: str, suffix: str, more: str = "") -> list[str]:
            return [sys.executable, "-c", text.format(ckpt=str(ckpt), pth=str(pth), spec=SPEC, out=out + suffix,
                                                      more=more)]

        def dbnet(source: Path, suffix: str) -> list[str]:
            return [sys.executable, "-m", "dbnet", "convert", str(source), f"{out}.ours{suffix}", "--force"]

        timings = interleave({
            "copy the file": script(COPY, ".copy"),
            "dbnet ckpt -> pth": dbnet(ckpt, ".pth"),
            "MindSpore + torch.save": script(BY_MINDSPORE_AND_TORCH, ".pth"),
            "dbnet ckpt -> onnx": dbnet(ckpt, ".onnx"),
            "dbnet pth -> onnx": dbnet(pth, ".onnx"),
            **{name: script(BY_TORCH_EXPORT, ".onnx", more) for name, more in exporters.items()}}, rounds)
        size = ckpt.stat().st_size / 2**20
    print(f"{SPEC}, file {size:.0f} MiB, {rounds} rounds\n")
    print(f"{'':<32}{'median s':>9}{'min s':>8}{'peak MiB':>10}{'of file':>9}")
    for timing in timings.values():
        print(f"{timing.name:<32}{timing.median:>9.2f}{min(timing.seconds):>8.2f}{timing.peak:>10.0f}"
              f"{timing.peak / size:>8.1f}x")
    for ours, theirs in (("dbnet ckpt -> pth", "MindSpore + torch.save"),
                         *((f"dbnet {kind} -> onnx", name) for name in exporters for kind in ("ckpt", "pth"))):
        print(f"{ours}: {timings[theirs].median / timings[ours].median:.1f}x faster than {theirs}")


if __name__ == "__main__":
    main()
