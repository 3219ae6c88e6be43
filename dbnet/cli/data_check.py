"""dbnet data check"""

from __future__ import annotations

import click

from dbnet.cli.data_options import SYNTHTEXT, Source, source_options
from dbnet.cli.options import json_option, write_json

NEGATIVE = 1


@click.command()
@source_options
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Threads. Default: one per core, at most 8.")
@click.option("--list", "listed", is_flag=True, help="Print a line for each repair.")
@json_option
def check(source: Source, workers: int | None, listed: bool, json_path: str | None) -> None:
    """Look for faults in a data set's labels and images, and print what `dbnet data convert` would do about them.

    The argument is a data set's name, or a label file. Exit code 1 if something has to be left out: a missing or
    damaged image, an image without a label, a line that cannot be read. What can be repaired is no fault.
    """
    if source.dataset == SYNTHTEXT:
        from dbnet.cli.data_synthtext import check_synthtext
        complete = check_synthtext(source, workers, listed, json_path)
    else:
        from dbnet.cli.data_print import print_preparation, progress, report
        from dbnet.datasets.preparing import prepare
        paired = source.paired()
        with progress(json_path == "-") as advance:
            preparation = prepare(paired, workers, advance)
        if json_path is not None:
            write_json(json_path, report(preparation))
        if json_path != "-":
            print_preparation(preparation, bool(source.images), listed)
            left_out = sum(repair.effect == "left out" for repair in preparation.repairs)
            click.echo("complete: nothing has to be left out" if preparation.complete else
                       f"not complete: {left_out} would be left out")
        complete = preparation.complete
    if not complete:
        raise click.exceptions.Exit(NEGATIVE)
