"""What `--precision` names; apart from `dbnet.precision`, so that options need no NumPy."""

from __future__ import annotations

from typing import Literal

Precision = Literal["float32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "fp16", "bf16")
