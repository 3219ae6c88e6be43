"""dbnet export"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dbnet.cli.options import PathArgument, deformable_option, source_options


@click.command()
@click.argument("model", type=PathArgument)
@click.argument("target", type=PathArgument)
@click.option("--opset", type=int,
              help="ONNX opset of the file.  [default: 13; with --deformable native 19]")
@click.option("--data-shape", nargs=2, type=int, metavar="H W", help="Fix height and width (multiples of 32).")
@deformable_option
@click.option("--force", is_flag=True, help="Replace an existing target.")
@source_options
def export(model: Path, target: Path, opset: int | None, data_shape: tuple[int, int] | None, deformable: Any,
           force: bool, options: Any) -> None:
    """Write MODEL as an .onnx for deployment: no training branch, IR 8, opset 13, silent in today's and old runtimes.

    Newer opsets may need a newer IR. Use dbnet convert for the complete archive form, which can be
    converted back and trained further.
    """
    from functools import partial

    from converters.export import export as run
    from evaluation.export_check import check_export
    check = partial(check_export, data_shape=data_shape, native=deformable == "native")
    for line in run(model, target, options, opset=opset, data_shape=data_shape, deformable=deformable,
                    force=force, check=check):
        click.echo(line)
