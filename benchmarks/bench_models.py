"""One model of every network for `dbnet bench`: seeded weights, which take the time of trained ones and find nothing.

`python benchmarks/bench_models.py FOLDER` writes a .safetensors for each of `dbnet specs`; then, with whatever is
installed: `dbnet bench FOLDER/*.safetensors --runner torch,mindspore,onnxruntime,openvino,opencv -o bench.json`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import converters
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS

SEED = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="is made if it is not there")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, spec in SPECS.items():
        converters.save_weights(seeded_weights(spec, SEED), folder / f"{name}.safetensors", spec=name)
        print(folder / f"{name}.safetensors")


if __name__ == "__main__":
    main()
