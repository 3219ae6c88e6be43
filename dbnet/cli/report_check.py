"""dbnet report check"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from dbnet.cli.options import PathArgument, json_option, print_table, write_json
from dbnet.cli.report_inputs import BENCH, KINDS, kind_of, read_bundles, read_lines
from dbnet.errors import DbnetError


@click.command()
@click.argument("files", type=PathArgument, nargs=-1, required=True)
@click.option("--root", type=PathArgument, metavar="DIR",
              help="The data set as it was published, as in dbnet evaluate.")
@click.option("--gt", type=PathArgument, metavar="DIR", help="Its labels alone, folder or zip; no images needed.")
@click.option("--no-labels", is_flag=True, help="Check only what needs no labels: digests, and scores from counts.")
@json_option
def check(files: tuple[Path, ...], root: Path | None, gt: Path | None, no_labels: bool, json_path: str | None) -> None:
    """Score FILES (bundles of dbnet bench -o, or merged reports) again: the same digits, or exit code 1.

    Detections are scored again from the labels (those of drawn scenes are drawn again), scores and intervals follow
    from the counts of every image, and the detections from their digests. Times cannot be checked.
    """
    from evaluation.bench_report.check import check_bundle
    from evaluation.bench_report.labels import labels_of
    if sum((root is not None, gt is not None, no_labels)) > 1:
        raise click.UsageError("give one of --root, --gt and --no-labels")
    _check_apart(files, json_path)
    if (kind := kind_of(files)) != BENCH:
        raise DbnetError(f"{files[0]}: is {KINDS[kind]}; what is checked is what dbnet bench -o wrote")
    told: list[dict[str, Any]] = [each for path in files if (each := _lines_of(path)) is not None]
    findings, unscored = sum(len(each["findings"]) for each in told), []
    for name, bundle in read_bundles(files, digests=False):
        with _naming(name):
            samples = None if no_labels else labels_of(bundle, name, root, gt)
            checked = check_bundle(bundle, samples)
        scored = any(row.scores for row in bundle.rows)
        if scored and samples is None and not no_labels:
            unscored.append(f"{name} was scored on {bundle.data['kind']}")
        findings += len(checked.findings)
        told.append({"file": name, "rows": [
            {"row": words, "protocol": protocol, "fscore": fscore} for words, protocol, fscore in checked.rows],
            "rescored": checked.rescored, "findings": [vars(finding) for finding in checked.findings]})
    _report(told, json_path)
    if findings:
        raise click.exceptions.Exit(1)
    if unscored:
        raise DbnetError(f"{unscored[0]}, whose labels are needed to score its detections again: --root or --gt; "
                         f"without them --no-labels checks the rest")


def _check_apart(files: Sequence[Path], json_path: str | None) -> None:
    """Raises DbnetError if --json would replace a file that is read."""
    for path in files:
        if json_path not in (None, "-") and path.resolve() == Path(str(json_path)).resolve():
            raise DbnetError(f"{path}: is read by this command; name another file for --json")


def _lines_of(path: Path) -> dict[str, Any] | None:
    """What there is to say of the lines of a merged report; None for a bundle, which has none."""
    from evaluation.bench_report.check_lines import check_lines
    if (read := read_lines(path)) is None:
        return None
    with _naming(str(path)):
        found = check_lines(*read)
    return {"file": str(path), "rows": [], "rescored": 0, "lines": len(read[0]), "findings": list(map(vars, found))}


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Puts the bundle's name before an error that does not have it."""
    try:
        yield
    except DbnetError as error:
        if name in str(error):
            raise
        raise DbnetError(f"{name}: {error}") from error


def _report(told: list[dict[str, Any]], json_path: str | None) -> None:
    if json_path is not None:
        write_json(json_path, {"bundles": told})
    if json_path == "-":
        return
    for each in told:
        if each["rows"]:
            print_table(each["file"], ("row", "protocol", "f-score"),
                        ((row["row"], row["protocol"], repr(row["fscore"])) for row in each["rows"]), right=(2,))
        for finding in each["findings"]:
            click.echo(f"DIFFERENT: {each['file']}: {finding['row']}: {finding['figure']}: {finding['kept']} in the "
                       f"bundle, {finding['found']} from what it keeps")
        if "lines" in each:
            differ = f"{len(each['findings'])} figures are not" if each["findings"] else "all are"
            click.echo(f"{each['file']}: {each['lines']} lines: {differ} those of the bundles within it")
            continue
        scores = len(each["rows"])
        how = (f"{each['rescored']} of {scores} scores from detections and labels, " if each["rescored"] else
               "no score from labels, ") + f"{scores} from counts"
        verdict = "the same digits" if not each["findings"] else f"{len(each['findings'])} differ"
        click.echo(f"{each['file']}: {verdict} ({how if scores else 'there are no scores in it'})")
