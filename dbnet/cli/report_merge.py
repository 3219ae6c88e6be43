"""dbnet report merge"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.options import PathArgument, refuse_others
from dbnet.cli.report_inputs import BENCH, EVALUATION, KINDS, kind_of, read_bundles
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from evaluation.bench_report.report import Report

#: Suffixes of -o.
SUFFIXES = (".md", ".csv", ".tex", ".html", ".json")
#: As `evaluation.bench_report.table.SORTS`; a test compares them.
SORTS = ("model", "img/s", "ms/step", "f-score", "recall", "precision", "compile", "machine", "runner", "none")
#: What only benchmarks have.
_BENCH_ONLY = {"seed_rows", "against", "slower_by", "sort", "protocol", "mixed"}


@click.command()
@click.argument("files", type=PathArgument, nargs=-1, required=True)
@click.option("-o", "--out", "outs", type=PathArgument, multiple=True, metavar="FILE",
              help=f"Write the table: {', '.join(SUFFIXES)} (repeatable).  [default: printed]  Of parts: the "
                   f"evaluation's .json, the trace.")
@click.option("--seed-rows/--no-seed-rows", default=True, show_default=True,
              help="The seed's published rows (Ascend 910 and 910*) beside ours.")
@click.option("--compare", "against", type=PathArgument, metavar="OLD.json",
              help="An older bundle or merged report: what is slower or worse now, beyond the noise; exit code 1.")
@click.option("--slower-by", type=click.FloatRange(0, 1000), default=5.0, show_default=True, metavar="PERCENT",
              help="With --compare: a slow-down below this is none.")
@click.option("--sort", type=click.Choice(SORTS), default="model", show_default=True, help="Order of the lines.")
@click.option("--protocol", metavar="NAME", help="Whose scores.  [default: each bundle's own]")
@click.option("--mixed", is_flag=True, help="Bundles may be of different models and data; each line says its own.")
@click.option("--force", is_flag=True, help="Of traces: replace the file if it is there.")
def merge(files: tuple[Path, ...], outs: tuple[Path, ...], force: bool, **given: Any) -> None:
    """Join FILES: benchmarks of several machines into one table, or parts (--shard) into what one run writes.

    FILES are bundles of dbnet bench -o (or reports that this command wrote as .json), of the same models on the same
    images; or all parts of one dbnet evaluate --json, or of one dbnet trace. A report in .json holds its bundles: it
    can be merged, compared and checked again.
    """
    kind = kind_of(files)
    if force and kind in (BENCH, EVALUATION):
        raise click.UsageError("--force is for traces; reports are replaced without it")
    _check_apart(outs, (*files, *(path for path in (given["against"],) if path is not None)))
    if kind == BENCH:
        _bench(files, outs, **given)
        return
    refuse_others(KINDS[kind], _BENCH_ONLY)
    if kind == EVALUATION:
        _evaluation(files, outs)
    else:
        _trace(files, outs, force)


def _check_apart(outs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Raises DbnetError if a file that is read would be replaced, a usage error for one that is named twice."""
    resolved = [path.resolve() for path in outs]
    if len(set(resolved)) < len(resolved):
        raise click.UsageError("-o names a file twice")
    for path in inputs:
        if path.resolve() in resolved:
            raise DbnetError(f"{path}: is read by this command; name another file for -o")


def _bench(files: Sequence[Path], outs: Sequence[Path], *, seed_rows: bool, against: Path | None, slower_by: float,
           sort: str, protocol: str | None, mixed: bool) -> None:
    from evaluation.bench_report.changes import compare
    from evaluation.bench_report.formats import FORMATS, check_out
    from evaluation.bench_report.merge import merge as merged_of
    from evaluation.bench_report.merge import with_scores
    from evaluation.bench_report.report import Report
    from evaluation.bench_report.table import lines_of, sorted_lines
    for out in outs:
        if out.suffix.lower() not in FORMATS:
            raise click.UsageError(f"-o {out}: the suffix says what to write; {', '.join(FORMATS)}")
        check_out(out)
    if against is None:
        refuse_others("no --compare", {"slower_by"})
    _check_protocol(protocol)
    merged = with_scores(merged_of(read_bundles(files), mixed), protocol)
    compared = None
    if against is not None:
        kind_of([against, files[0]])
        old = merged_of(read_bundles([against]), mixed=True)
        compared = compare(merged, old, slower_by / 100, mixed)
    report = Report(sorted_lines(lines_of(merged, protocol, seed_rows), sort), merged, compared)
    _write(report, outs)
    if compared is not None and compared.regressions:
        raise click.exceptions.Exit(1)


def _check_protocol(name: str | None) -> None:
    from evaluation.protocols.table import NAMES
    if name is not None and name not in NAMES:
        raise click.BadParameter(f"unknown protocol {name!r}; choose from {', '.join(NAMES)}", param_hint="--protocol")


def _write(report: Report, outs: Sequence[Path]) -> None:
    """To the files, or for people."""
    from converters.writing import write_text
    from dbnet.cli.report_print import show, show_changes
    from evaluation.bench_report.formats import FORMATS
    for out in outs:
        write_text(out, FORMATS[out.suffix.lower()].write(report))
    if not outs:
        show(report)
    show_changes(report)
    for out in outs:
        click.echo(f"{out}: {len(report.lines)} lines of {len(report.merged.sources)} "
                   f"bundle{'s' * (len(report.merged.sources) != 1)}")


def _evaluation(files: Sequence[Path], outs: Sequence[Path]) -> None:
    """Parts of an evaluation: its report, in numbers or in JSON."""
    from converters.writing import write_report
    from dbnet.cli.evaluate_print import print_scores, print_sweep, print_versions
    from dbnet.cli.options import json_checked
    from evaluation.shards import merge_evaluation_files
    for out in outs:
        if out.suffix.lower() != ".json":
            raise click.UsageError(f"-o {out}: an evaluation is written as .json")
        json_checked(click.get_current_context(), click.Option(["--out"]), str(out))
    evaluation = merge_evaluation_files(files)
    for out in outs:
        write_report(out, evaluation.write_json)
    for note in evaluation.settings.get("notes", ()):
        click.echo(f"note: {note}", err=True)
    click.echo(f"{len(files)} parts: {len(evaluation.detections)} images")
    print_scores(evaluation)
    if evaluation.sweep:
        print_sweep(evaluation)
    print_versions(evaluation)


def _trace(files: Sequence[Path], outs: Sequence[Path], force: bool) -> None:
    """Parts of a trace: the trace of one run."""
    from parity.trace_merge import merge_traces
    if len(outs) != 1:
        raise click.UsageError("parts of a trace are put together in a file: name it with -o, once")
    whole = merge_traces(files, outs[0], force)
    click.echo(f"{outs[0]}: {len(whole.images)} images of {len(files)} parts")
