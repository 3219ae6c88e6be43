"""dbnet convert"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.options import PathArgument, deformable_option, json_option, source_options, write_json

if TYPE_CHECKING:
    from converters.convert import Conversion
    from converters.load import SourceOptions
    from converters.onnx_layers import DeformableForm
    from converters.training_convert import TrainingConversion


@click.command()
@click.argument("source", type=PathArgument)
@click.argument("target", type=PathArgument)
@click.option("--to", metavar="DIALECT",
              help="Whose names to write. Default: mindocr in .ckpt, .onnx and .safetensors, torch in .pth, paddle in "
                   ".pdparams.")
@click.option("--stages", is_flag=True, help="Give an .onnx every named stage as an output.")
@deformable_option
@click.option("--with-optimizer", is_flag=True,
              help="Move a whole training, .ckpt or .pth: what dbnet train --resume goes on with in either framework.")
@click.option("--force", is_flag=True, help="Replace an existing target.")
@json_option
@source_options
def convert(source: Path, target: Path, to: str | None, stages: bool, deformable: DeformableForm | None,
            with_optimizer: bool, force: bool, json_path: str | None, options: SourceOptions) -> None:
    """Convert the weights in SOURCE to TARGET (.ckpt, .pth, .onnx, .safetensors, .pdparams).

    The format follows from content and suffix, network and dialect from names and shapes. The target is read back and
    compared bit for bit before it appears, and carries a record of what the weights compute. Every difference between
    origin and target is told: applied, folded into the weights, or not representable in the target's own project.

    An .onnx that is not ours is read by its graph, and converted only after both have been run side by side. A .mindir
    is read too: its weights, and what its graph computes.
    """
    if with_optimizer:
        given = {"--to": to, "--stages": stages, "--deformable": deformable, "--take": options.take}
        for name in (name for name, value in given.items() if value):
            raise click.UsageError(f"--with-optimizer moves a training as it is; leave out {name}")
        from converters.training_convert import convert_training
        from converters.training_convert import describe as describe_training
        moved = convert_training(source, target, options, force=force)
        data, lines = _of_training(moved), describe_training(moved)
    else:
        from converters.convert import convert as run
        from converters.convert import describe
        conversion = run(source, target, options, to=to, force=force, stages=stages, deformable=deformable)
        data, lines = _of_weights(conversion), describe(conversion)
    if json_path:
        write_json(json_path, {"source": str(source), "target": str(target), **data})
    if json_path != "-":
        for line in lines:
            click.echo(line)


def _of_weights(conversion: Conversion) -> dict[str, Any]:
    from converters.report import as_data
    model = conversion.source
    return {
        "format": conversion.format, "spec": model.record.spec.name, "semantics": model.record.spec.semantics(),
        "from": model.dialect, "to": conversion.dialect, "origin": model.record.origin, "bare": model.bare,
        "subset": model.subset, "tensors": len(model.weights), "sha256": model.record.sha256,
        "record": conversion.carries_record, "dropped": model.dropped, "notes": model.notes,
        "remarks": conversion.remarks, "report": as_data(conversion.report), "training": None,
        "proof": conversion.proof.as_data() if conversion.proof else None}


def _of_training(moved: TrainingConversion) -> dict[str, Any]:
    """The same keys. tensors: the weights'; training: where it stands, and how many entries were moved."""
    training = moved.source
    return {
        "format": moved.format, "spec": training.record.spec.name, "semantics": training.record.spec.semantics(),
        "from": training.dialect, "to": moved.dialect, "origin": training.record.origin, "bare": training.bare,
        "subset": "complete", "tensors": moved.weights, "sha256": moved.sha256, "record": moved.carries_record,
        "dropped": [], "notes": training.notes, "remarks": moved.remarks, "report": [],
        "training": {**moved.progress, "entries": len(training.state)}, "proof": None}
