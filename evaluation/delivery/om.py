"""Target om: a model for CANN's own runtime. The delivery .onnx is written here, with ATC's command.

Options: CANN's documentation of ATC from 6.0 to 8.5 (`--framework=5`, `--dynamic_dims`, `--keep_dtype`), and MindOCR's
tutorial on the conversion of .onnx files. Not run: there was no ATC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

from converters.export import inference_part
from converters.load import LoadedModel, require_sound
from converters.onnx_graph import INPUT
from converters.writing import write_text
from dbnet.errors import DbnetError
from dbnet.precision import kept_layers
from evaluation.delivery import mindir
from evaluation.delivery.buckets import Buckets, choose, size_of
from evaluation.delivery.check import check
from evaluation.delivery.common import write_onnx
from evaluation.delivery.converting import (
    Conversion,
    Tool,
    beside,
    by_hand,
    chip_of,
    convert,
    run_by_hand,
    write_script,
)
from evaluation.delivery.settings import Delivered, ExportSettings, Size

ATC = Tool("atc", "CANN (its set_env.sh sourced)", "ATC run success")
#: Opsets that CANN's versions list, and what is written unless the settings say one: the newest that all of them have.
OPSETS, OPSET = range(9, 19), 13
PRECISION = {"float32": "allow_fp32_to_fp16", "fp16": "force_fp16"}


def write(model: LoadedModel, out: Path, settings: ExportSettings) -> Delivered:
    """Writes the .onnx and the script beside `out`, with fp16 also the list of layers to keep, and runs ATC for `out`.

    Where ATC is not installed, refuses the graph or has no chip to compile for, `undone` of what is returned says so.
    With `settings.prepare` it is not run, and the .onnx is what is delivered. Raises DbnetError for settings that ATC
    has no option for, and if the .onnx is not what the model computes.
    """
    require_sound(model)
    _check(model, out, settings)
    graph, script = beside(out, "onnx"), beside(out, "atc.sh")
    kept = beside(out, "keep_dtype.cfg") if settings.keep_float32 else None
    needed = (graph,) if kept is None else (graph, kept)
    chip, chosen = chip_of(settings.soc), choose(model.record.spec.pixels, settings)
    made = _graph(inference_part(model), graph, settings, chosen)
    if kept is not None:
        layers = kept_layers(model.record.spec, settings.keep_float32)
        write_text(kept, "".join(f"{name}\n" for name in nodes_of(graph, layers)))
    arguments = arguments_of(graph, chosen.sizes, settings.batch or 1, settings.precision, kept)
    conversion = Conversion(ATC, (*arguments, f"--soc_version={chip}") if chip else arguments, "--output=", script,
                            needed)
    asked = '--soc_version="${1:?name the chip, as npu-smi info lists it: Ascend310P3}"'
    write_script(conversion, out, "" if chip else asked)
    told = (*made.told, *chosen.told, f"precision_mode={PRECISION[settings.precision]} is what ATC is told")
    made = replace(made, files=(*needed, script), told=tuple(dict.fromkeys(told)))
    argument = "" if chip else "CHIP"
    if settings.prepare:
        later = f"atc was not run (--prepare): {run_by_hand(script, argument)} makes {out.name}"
        return replace(made, told=(*made.told, later))
    why = "no chip is named (--soc Ascend310P3, say), and npu-smi lists none" \
        if chip is None and which(ATC.program) else convert(conversion, out)
    if why is not None:
        return replace(made, undone=by_hand(conversion, why, argument), why=why)
    return replace(made, path=out, files=(out, *made.files), precision=settings.precision,
                   told=(*made.told, "not run: an .om runs on an NPU only"))


def _graph(model: LoadedModel, graph: Path, settings: ExportSettings, chosen: Buckets) -> Delivered:
    """The .onnx that ATC takes, in float32, compared with the model. Raises DbnetError."""
    inner = replace(settings, data_shape=size_of(chosen.pixels, settings), batch=settings.batch or 1, buckets=(),
                    precision="float32", keep_float32=(), opset=settings.opset or OPSET)
    made = write_onnx(model, graph, inner, pixels=chosen.pixels)
    with TemporaryDirectory(prefix="dbnet-") as scratch:
        rows = check(made, model, "onnxruntime", (), settings.images, Path(scratch))
    return replace(made, told=(*made.told, *(f"{graph.name}: {row.describe(not settings.images)}" for row in rows)))


def _check(model: LoadedModel, out: Path, settings: ExportSettings) -> None:
    """Raises DbnetError for what cannot be done."""
    mindir.check_shape(settings)
    if out.suffix != ".om":
        raise DbnetError(f"{out}: ATC's models are called .om; name it so")
    if settings.opset is not None and settings.opset not in OPSETS:
        raise DbnetError(f"CANN lists the opsets {OPSETS[0]} to {OPSETS[-1]}, not {settings.opset}; leave out --opset "
                         f"for {OPSET}, which all its versions have")
    if settings.deformable == "native":
        raise DbnetError("ONNX's DeformConv needs opset 19, and CANN lists none above 18; leave out --deformable, and "
                         "it is written as plain operators")
    if settings.keep_float32:
        if settings.precision == "float32":
            raise DbnetError("--keep-float32 means nothing in float32; choose --precision fp16")
        kept_layers(model.record.spec, settings.keep_float32)  # for its errors, before anything is written


def arguments_of(graph: Path, sizes: Sequence[Size], batch: int, precision: str, kept: Path | None) -> tuple[str, ...]:
    """Of ATC, but for the output and the chip; files by their names, for it runs in their folder."""
    common = ("--framework=5", f"--model={graph.name}", f"--precision_mode={PRECISION[precision]}", "--log=error",
              *([f"--keep_dtype={kept.name}"] if kept else []))
    if len(sizes) == 1:
        height, width = sizes[0]
        return (*common, "--input_format=NCHW", f"--input_shape={INPUT}:{batch},3,{height},{width}")
    dims = ";".join(f"{height},{width}" for height, width in sizes)
    return (*common, "--input_format=ND", f"--input_shape={INPUT}:{batch},3,-1,-1", f"--dynamic_dims={dims}")


def nodes_of(graph: Path, layers: frozenset[str]) -> list[str]:
    """The graph's nodes that belong to these layers, in its order."""
    import onnx
    nodes = onnx.load(graph, load_external_data=False).graph.node
    return [node.name for node in nodes if any(node.name == layer or node.name.startswith(f"{layer}.")
                                               for layer in layers)]
