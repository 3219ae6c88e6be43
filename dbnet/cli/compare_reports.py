"""--html, --markdown and --junit: where the reports of a comparison go."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from dbnet.cli.options import write_json
from dbnet.errors import DbnetError

#: Option -> (what it is for, what such a file of ours holds in its first `BEGIN` bytes).
REPORTS = {"html": ("Write a page with charts, maps and boxes; it stands by itself.",
                    b'<meta name="generator" content="dbnet-parity">'),
           "markdown": ("Write the tables as Markdown.", b"<!-- dbnet compare -->"),
           "junit": ("Write a test report for CI (JUnit XML).", b'<testsuites name="dbnet compare"')}
BEGIN = 600


def report_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--html, --markdown, --junit; the command gets those that were given as one dict `reports`, checked."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> Any:
        reports = {name: given.pop(name) for name in REPORTS}
        return command(reports={name: path for name, path in reports.items() if path is not None}, **given)

    for name, (text, _) in reversed(REPORTS.items()):
        wrapped = click.option(f"--{name}", metavar="FILE", callback=_checked, help=text)(wrapped)
    return wrapped


def _checked(_context: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
    """The path, if such a report may be written there."""
    if path is None:
        return None
    from converters.writing import check_report
    if path in ("", "-"):
        raise click.BadParameter("name a file; standard output is for --json -")
    file = Path(path)
    check_report(file)
    if file.is_file():
        with file.open("rb") as stream:
            begin = stream.read(BEGIN)
        if begin and REPORTS[str(parameter.name)][1] not in begin:
            raise DbnetError(f"{path}: exists and is no report of --{parameter.name}; name another file")
    return path


def check_apart(json_path: str | None, reports: dict[str, str], *inputs: Path) -> None:
    """Raises a usage error for one file that is to be two reports, DbnetError for one that is read, or lies
    in a folder that is.
    """
    files = [path for path in (json_path, *reports.values()) if path not in (None, "-")]
    resolved = [Path(str(path)).resolve() for path in files]
    if len(set(resolved)) < len(resolved):
        raise click.UsageError("two reports have the same file; name one for each")
    for path in inputs:
        if any(path.resolve() in (report, *report.parents) for report in resolved):
            raise DbnetError(f"{path} is read by this command; name other files for the reports")


def write_reports(json_path: str | None, reports: dict[str, str], data: dict[str, Any],
                  pictures: Sequence[Any] = ()) -> None:
    """Writes every report that was asked for. Raises DbnetError."""
    if json_path:
        write_json(json_path, data)
    if not reports:
        return
    from converters.writing import write_text
    from evaluation import comparison_report
    if "html" in reports:
        write_text(Path(reports["html"]), comparison_report.html(data, pictures))
    if "markdown" in reports:
        write_text(Path(reports["markdown"]), comparison_report.markdown(data))
    if "junit" in reports:
        write_text(Path(reports["junit"]), comparison_report.junit(data))
