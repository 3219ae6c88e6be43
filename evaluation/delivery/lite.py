"""Target lite: a model for MindSpore Lite. The .mindir from graph mode is written here, with converter_lite's command.

OUT.mindir is for Ascend, compiled for the sizes of `buckets`; OUT.ms is for CPUs and takes every size. Options and
configuration: MindSpore Lite's documentation of 2.0 to 2.7 (converter_lite, `[ascend_context]`), and MindOCR's tutorial
on the conversion of its models. Not run: there was no converter_lite.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from converters.delivery_note import DeliveryNote
from converters.load import LoadedModel, require_sound
from converters.writing import write_text
from dbnet.errors import DbnetError
from dbnet.extras import require
from evaluation.delivery import mindir
from evaluation.delivery.buckets import Buckets, choose, size_of
from evaluation.delivery.common import fixed_pixels
from evaluation.delivery.converting import Conversion, Tool, beside, by_hand, convert, run_by_hand, write_script
from evaluation.delivery.settings import Delivered, ExportSettings
from evaluation.lite_runner import SIDECAR, digest_of
from evaluation.lite_sidecar import Sidecar, first_look

CONVERTER = Tool("converter_lite", "MindSpore Lite", "CONVERT RESULT SUCCESS")
#: What converter_lite is told, and what the chip then does: float32 wherever its operator has it, or float16.
PRECISION = {"float32": "preferred_fp32", "fp16": "enforce_fp16"}


def write(model: LoadedModel, out: Path, settings: ExportSettings) -> Delivered:
    """Writes the graph, its configuration, the script and the sidecar beside `out`, and runs converter_lite for `out`.

    Where that is not installed or refuses the graph, `undone` of what is returned says so. With `settings.prepare` it
    is not run, and the graph is what is delivered. Raises DbnetError without MindSpore, for settings that
    converter_lite has no option for, and if the graph is not what graph mode computes.
    """
    require_sound(model)
    ascend = _check(out, settings)
    graph, configuration = beside(out, "graph.mindir"), beside(out, "lite.txt")
    script, sidecar = beside(out, "lite.sh"), beside(out, SIDECAR)
    needed = (graph, configuration) if ascend else (graph,)
    own = model.record.spec.pixels
    chosen = choose(own, settings) if ascend else Buckets((), fixed_pixels(own, settings.data_shape))
    require("mindspore")
    batch = settings.batch or 1
    inner = replace(settings, data_shape=size_of(chosen.pixels, settings), batch=batch)
    made = mindir.write_as("lite", model, graph, inner, chosen.pixels)
    if ascend:
        write_text(configuration, configuration_of(chosen.sizes, batch, settings.precision))
    about = Sidecar(model.record, DeliveryNote("lite", made.spec.pixels, made.spec.boxes, made.output), chosen.sizes,
                    batch, "ascend" if ascend else "cpu", settings.precision)
    write_text(sidecar, about.to_json())
    conversion = Conversion(CONVERTER, arguments_of(graph, configuration if ascend else None), "--outputFile=", script,
                            (*needed, sidecar), sidecar)
    write_script(conversion, out)
    made = replace(made, files=(*needed, script, sidecar), told=(*made.told, *chosen.told, *_remarks(settings, ascend)))
    if settings.prepare:
        told = f"converter_lite was not run (--prepare): {run_by_hand(script)} makes {out.name}"
        return replace(made, told=(*made.told, told))
    why = convert(conversion, out)
    if why is not None:
        return replace(made, undone=by_hand(conversion, why), why=why)
    write_text(sidecar, replace(about, file=digest_of(out)).to_json())
    return replace(made, path=out, files=(out, *made.files), precision=settings.precision,
                   told=(*made.told, first_look(out)))


def _check(out: Path, settings: ExportSettings) -> bool:
    """Whether it is for Ascend. Raises DbnetError for what cannot be done."""
    mindir.check_shape(settings)
    if out.suffix not in (".mindir", ".ms"):
        raise DbnetError(f"{out}: MindSpore Lite's models are called .mindir (for Ascend) or .ms (for CPUs); name it "
                         f"so")
    if settings.soc is not None:
        raise DbnetError("converter_lite compiles for the chip of the host that it runs on; leave out --soc")
    if settings.keep_float32:
        raise DbnetError("converter_lite has no option that keeps single layers in float32; --target om has one (ATC's "
                         "--keep_dtype), or take --precision float32")
    for value, option in ((settings.opset, "--opset"), (settings.deformable, "--deformable")):
        if value is not None:
            raise DbnetError(f"{option} is of an .onnx, and the graph here is a .mindir; leave it out")
    ascend = out.suffix == ".mindir"
    if not ascend and (settings.buckets or settings.precision != "float32"):
        option = "--buckets" if settings.buckets else "--precision fp16"
        raise DbnetError(f"{out}: a .ms is for CPUs, which need no {option}; leave it out, or name a .mindir for "
                         f"Ascend")
    return ascend


def arguments_of(graph: Path, configuration: Path | None) -> tuple[str, ...]:
    """Of converter_lite, but for the output; files by their names, for it runs in their folder. configuration: None
    for a CPU.
    """
    common = ("--fmk=MINDIR", f"--modelFile={graph.name}")
    if configuration is None:
        return (*common, "--saveType=MINDIR_LITE", "--optimize=general")
    return (*common, "--saveType=MINDIR", "--optimize=ascend_oriented", f"--configFile={configuration.name}")


def configuration_of(sizes: tuple[tuple[int, int], ...], batch: int, precision: str) -> str:
    """The file that `--configFile` names; one size is a graph of fixed shape."""
    several = len(sizes) > 1
    height, width = (-1, -1) if several else sizes[0]
    lines = ["[ascend_context]", "input_format=NCHW", f"input_shape=x:[{batch},3,{height},{width}]"]
    if several:
        lines.append("dynamic_dims=" + ",".join(f"[{height},{width}]" for height, width in sizes))
    return "\n".join([*lines, f"precision_mode={PRECISION[precision]}", ""])


def _remarks(settings: ExportSettings, ascend: bool) -> tuple[str, ...]:
    if not ascend:
        return ()
    if settings.precision == "float32":
        return ("precision_mode=preferred_fp32: float32 where the chip has it; many inference chips multiply in "
                "float16 all the same",)
    return ("precision_mode=enforce_fp16: look what that does with dbnet precision MODEL before",)
