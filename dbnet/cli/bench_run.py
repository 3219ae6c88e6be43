"""`dbnet bench`: finds the images, measures, writes and prints; what fails stays with its row."""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.evaluate_options import OWN_PROTOCOL
from dbnet.cli.options import write_json
from dbnet.errors import DbnetError
from dbnet.sample import Sample
from dbnet.signals import ended_as_by_interrupt
from dbnet.version import VERSION

if TYPE_CHECKING:
    from evaluation.benching.bundle import Bundle
    from evaluation.benching.data import BenchData
    from evaluation.benching.measuring import Measured
    from evaluation.benching.plan import Plan


@dataclass(frozen=True)
class Request:
    """What was asked for. given: the options of `dbnet bench` by name."""

    models: tuple[Path, ...]
    out: Path | None
    json_path: str | None
    options: Any
    given: dict[str, Any]

    @property
    def quiet(self) -> bool:
        return self.json_path == "-"


def run(request: Request) -> None:
    """Measures, writes and prints. Raises DbnetError, after everything that is known was told."""
    from evaluation.benching.assembling import bundle_of
    from evaluation.benching.data import SCENES
    from evaluation.benching.machine import busy, machine
    from evaluation.benching.measuring import measure, nothing_measured
    from evaluation.benching.on_cluster import on_cluster
    given, plan = request.given, _plan(request)
    started, begin, load = datetime.now(UTC), time.monotonic(), busy()
    here = machine(given["label"])
    with ended_as_by_interrupt(), tempfile.TemporaryDirectory(prefix="dbnet-bench-") as name:
        if given["root"] is None and not given["images"]:  # before they are drawn
            plan.check(given["limit"] or SCENES)
        data = _data(given, Path(name))
        plan.check(len(data.names))
        everywhere = None if given["ray"] is None else on_cluster(given["ray"], plan, data)
        with _progress(request.quiet) as tell:
            measured = measure(plan, data, Path(name), tell, everywhere)
        if (why := nothing_measured(measured.entries)) is not None:
            if measured.interrupted:
                raise DbnetError("interrupted before the first round was complete; nothing was written")
            raise DbnetError(_nothing(measured, why))
        made = {"command": shlex.join(["dbnet", *map(str, _arguments())]), "dbnet-parity": VERSION,
                "started": started.isoformat(timespec="seconds"), "seconds": round(time.monotonic() - begin, 3)}
        bundle = bundle_of(plan, data, measured, made, here, [load, busy()])
    _report(request, bundle, measured)


def _arguments() -> list[str]:
    """As they were typed."""
    found = click.get_current_context().find_root().obj
    return list(found) if isinstance(found, list) else sys.argv[1:]


def _plan(request: Request) -> Plan:
    from evaluation.benching.plan import Plan
    taken = ("runners", "shapes", "batches", "rounds", "calls", "warmup", "threads", "device", "precision",
             "keep_float32", "together", "train", "seed")
    options = asdict(request.options)
    return Plan(request.models, tolerance=tolerance, options=options,
                **{name: request.given[name] for name in taken})


def tolerance(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """Of the probabilities of whole images in two environments, as `dbnet compare` has it. Where nobody has a row for
    a device, the widest that float32 has.
    """
    from parity.tolerances import OTHER, tolerances, tolerances_of
    rows = []
    for environment in (a, b):
        try:
            rows.append(tolerances_of(environment))
        except DbnetError:
            rows.append(tolerances(OTHER))
    return max(row.on_whole_images().probability for row in rows)


def _data(given: Mapping[str, Any], folder: Path) -> BenchData:
    """The images. Raises DbnetError."""
    import numpy as np

    from evaluation.benching.data import SCENES, drawn, of_samples
    limit, shard, chosen = given["limit"], given["shard"], given["protocols"]
    if given["root"] is not None:
        from dbnet.cli.evaluate_model import of_dataset
        job = of_dataset(given["root"], given["dataset"], given["root"], (), limit)
        return of_samples(given["dataset"], job.samples, chosen or (OWN_PROTOCOL[given["dataset"]],), shard)
    if not given["images"]:
        return drawn(folder, given["seed"], limit or SCENES, shard=shard, protocols=chosen or ("rrc",))
    from evaluation.detecting_inputs import find_images
    found = find_images(given["images"])
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if found.refused and not limit:
        raise DbnetError(f"{found.refused[0][0]}: {found.refused[0][1]}")
    samples = [Sample(Path(file), [], np.zeros(0, bool), []) for file in found.files[:limit]]
    return of_samples("images", samples, (), shard)


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Any]:
    """Yields a callback (what is done now, steps done, steps in all)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    console = Console(stderr=True)
    with Progress(TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                  TimeElapsedColumn(), console=console, disable=quiet or not console.is_terminal,
                  transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


def _nothing(measured: Measured, why: str) -> str:
    """Where no row came to anything. The others' reasons, if they have some, are told before."""
    others = {entry.error for entry in measured.entries} - {why}
    for error in sorted(filter(None, others)):
        click.echo(f"failed: {error}", err=True)
    return why


def _report(request: Request, bundle: Bundle, measured: Measured) -> None:
    from dbnet.cli.bench_print import as_json, as_markdown, show
    if request.out is not None:
        from evaluation.benching.bundle import write_bundle
        write_bundle(bundle, request.out)
    if request.json_path is not None:
        write_json(request.json_path, as_json(bundle))
    for note in dict.fromkeys(note for row in bundle.rows for note in row.notes):
        click.echo(f"note: {note}", err=True)
    if request.given["markdown"]:
        click.echo(as_markdown(bundle))
    elif not request.quiet:
        show(bundle)
        if request.out is not None:
            click.echo(f"everything that was measured: {request.out}")
    for entry in measured.entries:
        if entry.error is not None:
            click.echo(f"failed: {entry.title}: {' '.join(entry.error.split())}", err=True)
    _leave(request, measured)


def _leave(request: Request, measured: Measured) -> None:
    """Raises DbnetError if not everything was measured."""
    failed, rows = sum(entry.error is not None for entry in measured.entries), len(measured.entries)
    kept = f"{request.out} holds" if request.out is not None else "the table shows"
    if measured.interrupted:
        rounds = sorted({len(entry.seconds.whole) for entry in measured.entries if entry.error is None})
        told = " to ".join(map(str, dict.fromkeys([rounds[0], rounds[-1]])))
        raise DbnetError(f"interrupted; {kept} the rounds that were complete, {told} of {request.given['rounds']}, of "
                         f"{rows - failed} of {rows} rows")
    if failed:
        raise DbnetError(f"{failed} of {rows} rows could not be measured, the reasons stand above; {kept} the others")
