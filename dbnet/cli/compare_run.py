"""`dbnet compare A B`: two models stage by stage, and what they find in images, with what scores and reports say."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.compare_reports import write_reports
from dbnet.cli.evaluate_options import chosen_boxes
from dbnet.cli.guarded import Keeper, guarded
from dbnet.cli.options import progress_bar, tell_notes, write_json
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from dbnet.cli.compare_inputs import Inputs
    from evaluation.compare_maps import Side
    from parity.staged import StagedModel
    from parity.whole import WholeComparison


@dataclass(frozen=True)
class Request:
    """What was asked for. given: the options of `dbnet compare` by name."""

    a: Path
    b: Path
    images: tuple[str, ...]
    json_path: str | None
    options: Any
    given: dict[str, Any]
    command: tuple[str, ...]

    @property
    def quiet(self) -> bool:
        return self.json_path == "-"

    @property
    def reports(self) -> dict[str, str]:
        reports: dict[str, str] = self.given["reports"]
        return reports


def run(request: Request) -> None:
    """Compares, prints and writes. Leaves with exit code 1 if the models differ. Raises DbnetError.

    With a report that is to be written the work is done in a process of its own, so that the report is written
    whatever a runtime does.
    """
    work = partial(_compare, request)
    if request.reports or request.json_path:
        guarded(work, partial(_crashed, request))
    else:
        work(Keeper(None))


def _crashed(request: Request, known: dict[str, Any], how: str) -> None:
    from parity.whole import interrupted
    if "a" not in known:
        raise DbnetError(f"{how} while the models were opened, so there is nothing to report")
    data = interrupted(known, how)
    write_reports(request.json_path, request.reports, data)
    if data["verdict"] == "different" and request.given["same_f"] is None:
        click.echo(f"dbnet: {data['unfinished']}", err=True)
        raise click.exceptions.Exit(1)
    raise DbnetError(data["unfinished"])


def _compare(request: Request, keeper: Keeper) -> None:
    from dbnet.cli import compare_show
    from dbnet.cli.compare_inputs import find_inputs
    from parity.whole import WholeComparison
    given = request.given
    inputs = find_inputs(request.images, **{name: given[name] for name in ("recursive", "limit", "gt", "form",
                                                                           "protocols")})
    sides = open_both(request.a, request.b, request.options, given["runner_a"], given["runner_b"], given["device"],
                      given["threads"])
    for name, side in zip("AB", sides, strict=True):
        tell_notes(side.runner, f"{name}: ")
    rules = [chosen_boxes(side.runner.spec.boxes, given["boxes"]) for side in sides]
    whole = WholeComparison(sides, (rules[0], rules[1]), request.command, gt=given["gt"] and str(given["gt"]))
    pictures = _fill(whole, request, inputs, keeper)
    data = whole.to_dict()
    write_reports(None if request.quiet else request.json_path, request.reports, data, pictures)
    with _until_the_reader_leaves():
        if request.quiet:
            write_json("-", data)
        else:
            compare_show.show(whole)
            for path in request.reports.values():
                click.echo(f"report: {path}")
    _leave(whole, given["same_f"])


@contextmanager
def _until_the_reader_leaves() -> Iterator[None]:
    """`| head` must not make another verdict."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fill(whole: WholeComparison, request: Request, inputs: Inputs, keeper: Keeper) -> list[Any]:
    """Every step that was asked for; the pictures for the report."""
    from parity.gallery import Gallery
    from parity.two_models import pictures_of
    given, gallery = request.given, Gallery("html" in request.reports)

    whole.keep = lambda now: keeper.keep(lambda: whole.to_dict() | {"doing": whole.doing}, now)
    if given["stages"] is not False:
        whole.run_stages(pictures_of(inputs.files))
    if inputs.files:
        with progress_bar(len(inputs.files), request.quiet) as advance:
            ends = whole.run_images(inputs.named, gallery, advance)
        if whole.maps is not None:
            whole.maps.failed[:0] = inputs.refused
        if inputs.samples and gallery.names:
            whole.run_scores(dict(zip(inputs.names, inputs.samples, strict=True)), gallery, inputs.protocols,
                             given["same_f"])
        if given["swap"] and ends:
            _swap(whole, request, inputs, ends)
    pictures: list[Any] = []
    with whole.step("making the pictures"):
        pictures = gallery.pictures(whole.stages.shown if whole.stages else None)
    return pictures


def _swap(whole: WholeComparison, request: Request, inputs: Inputs, ends: Sequence[Side]) -> None:
    from evaluation.compare_swap import swap
    with whole.step("exchanging the parts"), progress_bar(len(inputs.files), request.quiet) as advance:
        protocols = None
        if inputs.samples:
            protocols = inputs.protocols[0], request.given["protocol_b"] or inputs.protocols[0]
        whole.swap = swap(ends[0], ends[1], inputs.named, inputs.samples or None, protocols, advance)


def open_both(a: Path, b: Path, options: Any, runner_a: str | None, runner_b: str | None, device: str | None,
              threads: int | None = None) -> tuple[StagedModel, StagedModel]:
    """Both models with their stages. Raises DbnetError."""
    from converters.choices import for_each
    from parity.staged import open_staged
    openers = [partial(open_staged, path, runner, device, threads=threads)
               for path, runner in ((a, runner_a), (b, runner_b))]
    first, second = for_each(options, *openers)
    return first, second


def _leave(whole: WholeComparison, same_f: float | None) -> None:
    """Exit code 1 for a negative verdict; DbnetError if it is none, but something could not be compared."""
    maps = whole.maps
    negative = whole.verdict == "different"
    if same_f is not None and whole.scores is not None:  # then that is the question
        negative = whole.scores.verdict() != "same"
    if whole.stopped and whole.stages is None and maps is None:
        raise DbnetError("; ".join(whole.stopped))
    for what, lines in (("failed", maps.failed if maps is not None else []), ("stopped", whole.stopped)):
        for line in lines:
            click.echo(f"{what}: {' '.join(line.split())}", err=True)
    if negative:
        raise click.exceptions.Exit(1)
    if whole.stopped:
        raise DbnetError("nothing differs so far, but not all could be compared; the reasons stand above")
    if maps is not None and not maps.images:
        raise DbnetError(f"nothing could be compared: {len(maps.failed)} images failed, the reasons stand above")
    if maps is not None and maps.failed:
        raise DbnetError(f"the same on {len(maps.images)} images, but {len(maps.failed)} failed, the reasons stand "
                         f"above")
