"""What a full comparison costs over the two inferences themselves, and how large its page is.

`python benchmarks/compare_models.py A B --images FOLDER [--limit 50] [--gt GT] [--rounds 3]`. The peer is `dbnet
detect` of the same images with A, and with B: decoding, pixels, network, boxes. Whole processes, interleaved; the
ratio is that of the comparison (stages, causes, maps, boxes, scores, pages) to both detections together.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from measure import interleave


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=2, type=Path, metavar="MODEL")
    parser.add_argument("--images", required=True, nargs="+")
    parser.add_argument("--gt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runners", nargs=2, default=["torch", "onnxruntime"], metavar="RUNNER")
    chosen = parser.parse_args()
    dbnet = [sys.executable, "-m", "dbnet"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        commands = {}
        for name, model, runner in zip("ab", chosen.models, chosen.runners, strict=True):
            commands[name] = [*dbnet, "detect", *chosen.images, "--model", str(model), "--out", str(out / name),
                              "--no-pictures", "--force", *(["--runner", runner] if runner else [])]
        compare = [*dbnet, "compare", *map(str, chosen.models), "--html", str(out / "page.html"), "--json",
                   str(out / "data.json"), *(["--gt", chosen.gt] if chosen.gt else [])]
        for image in chosen.images:
            compare += ["--images", image]
        for name, runner in zip("ab", chosen.runners, strict=True):
            compare += [f"--runner-{name}", runner] if runner else []
        times = interleave(commands | {"compare": compare}, chosen.rounds, warmup=0)
        both = times["a"].median + times["b"].median
        print(f"detect with A {times['a'].median:.1f} s, with B {times['b'].median:.1f} s; compare "
              f"{times['compare'].median:.1f} s: ratio {times['compare'].median / both:.2f}; peak "
              f"{times['compare'].peak:.0f} MiB; page {(out / 'page.html').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
