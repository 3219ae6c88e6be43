"""What is asked of an export, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from converters.onnx_layers import DeformableForm
from dbnet.spec import BoxRule, ModelSpec

OutputKind = Literal["probability", "logits"]
ExportPrecision = Literal["float32", "fp16"]
#: (height, width) in pixels.
Size = tuple[int, int]


@dataclass(frozen=True)
class ExportSettings:
    """What every target may be asked for; one that cannot do it says so (DbnetError).

    data_shape: height and width to fix, multiples of 32; None: dynamic. batch: the number of images to fix; None: any,
    or 1 where data_shape is fixed. keep_float32: layers that stay float32 beside fp16. Of targets lite and om: buckets:
    the sizes that the graph is compiled for; empty: from the resize rule, with `images`, which are like those to come,
    at most `most_buckets`. soc: the chip, `Ascend310P3`; None asks npu-smi. prepare: only what the converter takes is
    wanted, it is not run. boxes: the rule that belongs to the model, if not the one of its record.
    """

    target: str = "onnx"
    data_shape: Size | None = None
    batch: int | None = None
    opset: int | None = None
    deformable: DeformableForm | None = None
    precision: ExportPrecision = "float32"
    keep_float32: tuple[str, ...] = ()
    output: OutputKind = "probability"
    buckets: tuple[Size, ...] = ()
    force: bool = False
    images: tuple[Path, ...] = ()
    most_buckets: int = 16
    soc: str | None = None
    prepare: bool = False
    boxes: BoxRule | None = None


@dataclass(frozen=True)
class Delivered:
    """A file for a runtime.

    path: what a runner opens. files: everything that was written, `path` first. spec: its pixels are those that the
    file takes. input_shape: (N, 3, H, W), a letter where any will do. output_rank: 4, or 2 for (H, W). opset: of an
    .onnx. told: what to tell the user, a line each. undone: why there is no `out` yet, though everything that it is
    made of was written; the command then ends with exit code 3. why: the reason in that alone.
    """

    path: Path
    target: str
    spec: ModelSpec
    input_name: str
    output_name: str
    input_shape: tuple[int | str, ...]
    output_rank: int = 4
    output: OutputKind = "probability"
    precision: ExportPrecision = "float32"
    opset: int | None = None
    files: tuple[Path, ...] = ()
    told: tuple[str, ...] = field(default=())
    undone: str | None = None
    why: str | None = None
