"""Other environments for the runtimes that cannot share ours: ONNX Runtime 1.15, OpenCV 5, RapidOCR."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

#: Folder of an environment -> what it holds, for the one who has to make it.
ENVIRONMENTS = {
    "onnxruntime-1.15": "onnxruntime==1.15.1, numpy<2",
    "opencv-5": "opencv-python>=5",
    "rapidocr": "rapidocr-onnxruntime",
}


def runtime(name: str) -> Path:
    """The interpreter of that environment. Skips without the folder that DBNET_RUNTIMES names, which `make
    test-runtimes` makes and sets; fails if the folder is there and the environment is not.
    """
    assert name in ENVIRONMENTS
    folder = os.environ.get("DBNET_RUNTIMES")
    if not folder:
        pytest.skip(f"needs another environment ({ENVIRONMENTS[name]}): make test-runtimes")
    python = Path(folder) / name / "bin" / "python"
    assert python.is_file(), f"{python}: is not there; make test-runtimes builds it"
    return python
