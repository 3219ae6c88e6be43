"""dbnet convert"""

from __future__ import annotations

from pathlib import Path

import click

from dbnet.cli.options import PathArgument, json_option, source_options, write_json


@click.command()
@click.argument("source", type=PathArgument)
@click.argument("target", type=PathArgument)
@click.option("--to", metavar="DIALECT",
              help="Whose names to write. Default: mindocr in .ckpt, .onnx and .safetensors, torch in .pth.")
@click.option("--stages", is_flag=True, help="Give an .onnx every named stage as an output.")
@click.option("--force", is_flag=True, help="Replace an existing target.")
@json_option
@source_options
def convert(source: Path, target: Path, to: str | None, stages: bool, force: bool, json_path: str | None,
            options: object) -> None:
    """Convert the weights in SOURCE to TARGET (.ckpt, .pth, .onnx, .safetensors; .pdparams can be read).

    The format follows from content and suffix, network and dialect from names and shapes. The target is read back and
    compared bit for bit before it appears, and carries a record of what the weights compute.
    """
    from converters.convert import convert as run
    from converters.convert import describe
    conversion = run(source, target, options, to=to, force=force, stages=stages)  # type: ignore[arg-type]
    if json_path:
        model = conversion.source
        write_json(json_path, {
            "source": str(source), "target": str(target), "format": conversion.format, "spec": model.record.spec.name,
            "semantics": model.record.spec.semantics(), "from": model.dialect, "to": conversion.dialect,
            "origin": model.record.origin, "bare": model.bare, "subset": model.subset, "tensors": len(model.weights),
            "sha256": model.record.sha256, "record": conversion.carries_record, "dropped": model.dropped,
            "notes": model.notes, "remarks": conversion.remarks})
    if json_path != "-":
        for line in describe(conversion):
            click.echo(line)
