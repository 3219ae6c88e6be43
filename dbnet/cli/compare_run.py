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
    from dbnet.spec import BoxRule
    from evaluation.compare_maps import Side
    from parity.gallery import Gallery
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
    from parity.traced import is_traced
    from parity.whole import WholeComparison
    given = request.given
    wanted = {name: given[name] for name in ("recursive", "limit", "gt", "form", "protocols")}
    if is_traced(request.a) or is_traced(request.b):  # then --limit is of the trace's images, which may be any of these
        wanted["limit"] = None
    inputs = find_inputs(request.images, **wanted)
    sides = open_sides(request.a, request.b, request.options, given["runner_a"], given["runner_b"], given["device"],
                      given["threads"], (given["precision_a"], given["precision_b"]), given["keep_float32"])
    for name, side in zip("AB", sides, strict=True):
        tell_notes(side.runner, f"{name}: ")
    rules = [chosen_boxes(rule_of(side), given["boxes"]) for side in sides]
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
    if whole.is_traced:
        _fill_traced(whole, request, inputs, gallery)
        return _pictures(whole, gallery)
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
    return _pictures(whole, gallery)


def _fill_traced(whole: WholeComparison, request: Request, inputs: Inputs, gallery: Gallery) -> None:
    from parity.trace_compare import sources_of
    given, sources = request.given, sources_of(inputs.files)
    with progress_bar(whole.traced_images(given["limit"]), request.quiet) as advance:
        whole.run_traced(sources, gallery, given["limit"], advance)
    if inputs.samples and gallery.names:
        if whole.boxless:
            whole.stopped.append(f"comparing the scores: a trace keeps neither the boxes nor the map of "
                                 f"{whole.boxless[0]}")
            return
        if missing := [name for name in gallery.names if name not in gallery.paths]:
            whole.stopped.append(f"comparing the scores: {missing[0]}: its file is not among --images, so nobody knows "
                                 f"its labels")
            return
        labels = dict(zip(inputs.files, inputs.samples, strict=True))
        whole.run_scores({name: labels[path] for name, path in gallery.paths.items()}, gallery, inputs.protocols,
                         given["same_f"])


def _pictures(whole: WholeComparison, gallery: Gallery) -> list[Any]:
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


def open_sides(a: Path, b: Path, options: Any, runner_a: str | None, runner_b: str | None, device: str | None,
               threads: int | None = None, precisions: Sequence[str] = ("float32",) * 2,
               keep_float32: Sequence[str] = ()) -> tuple[StagedModel, StagedModel]:
    """Both, of which any may be a trace. Raises DbnetError."""
    from parity.staged import open_staged
    from parity.traced import is_traced, open_trace
    traced = [is_traced(path) for path in (a, b)]
    if not any(traced):
        return open_both(a, b, options, runner_a, runner_b, device, threads, precisions, keep_float32)
    first, second = (open_trace(path) if recorded else open_staged(path, runner, device, options, threads,
                                                                   **_half(precision, keep_float32))
                     for path, runner, precision, recorded in zip((a, b), (runner_a, runner_b), precisions, traced,
                                                                  strict=True))
    return first, second


def rule_of(side: StagedModel) -> BoxRule:
    """By which a side's boxes are made unless options say otherwise."""
    from parity.traced import TracedModel
    return side.rule if isinstance(side, TracedModel) else side.runner.spec.boxes


def open_both(a: Path, b: Path, options: Any, runner_a: str | None, runner_b: str | None, device: str | None,
              threads: int | None = None, precisions: Sequence[str] = ("float32",) * 2,
              keep_float32: Sequence[str] = ()) -> tuple[StagedModel, StagedModel]:
    """Both models with their stages. keep_float32: layers of those in half precision. Raises DbnetError."""
    from converters.choices import for_each
    from parity.exported import with_pixels_of_the_other
    from parity.staged import open_staged
    openers = [partial(open_staged, path, runner, device, threads=threads, **_half(precision, keep_float32))
               for path, runner, precision in zip((a, b), (runner_a, runner_b), precisions, strict=True)]
    first, second = for_each(options, *openers)
    return with_pixels_of_the_other(first, second)


def _half(precision: str, keep_float32: Sequence[str]) -> dict[str, Any]:
    return {"precision": precision, "keep_float32": () if precision == "float32" else keep_float32}


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
