"""dbnet fetch"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dbnet.cli.fetch_print import describe, print_list, progress, told
from dbnet.cli.json_alone import JsonAlone, json_alone
from dbnet.cli.options import PathArgument, write_json
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from dbnet.fetch import Means
    from dbnet.published import Entry


def _not_empty(_context: click.Context, _parameter: click.Parameter, path: str | None) -> str | None:
    """The path of --out as it was typed: a slash at its end counts."""
    if path == "":
        raise click.BadParameter("the path is empty")
    return path


@click.command(cls=JsonAlone)
@click.argument("name", required=False)
@click.option("--variant", metavar="NAME", help="Which of several, e.g. icdar15-910v2.")
@click.option("--format", "kind", type=click.Choice(["ckpt", "mindir"]),
              help="[default: ckpt, unless NAME is a .mindir]")
@click.option("--list", "listed", is_flag=True, help="List what there is, or what NAME, --variant or --format leave.")
@click.option("-o", "--out", metavar="PATH", callback=_not_empty,
              help="File or folder to write to, instead of the cache; FOLDER/ is created.")
@click.option("--force", is_flag=True, help="Replace a file at --out that is another one.")
@click.option("--cache", type=PathArgument,
              help="Folder that keeps what was fetched.  [default: $DBNET_CACHE, or dbnet in the user's cache folder]")
@click.option("--from", "folder", type=PathArgument,
              help="Copy from a folder (or a file) instead of the network; the file has its published name there.")
@click.option("--mirror", metavar="URL", help="Takes the place of https://HOST in the addresses.  "
                                              "[default: $DBNET_MIRROR]")
@click.option("--offline", is_flag=True, help="Never connect: the cache has it, or it fails.")
@click.option("--check", is_flag=True, help="Only verify NAME in the cache, a file, or without NAME all in the cache; "
                                            "exit code 1 if one is wrong.")
@click.option("--timeout", type=click.FloatRange(0.1, 3600), default=30, show_default=True,
              help="Seconds without a byte after which a connection is given up.")
@click.option("--tries", type=click.IntRange(1, 100), default=5, show_default=True,
              help="Attempts, each going on where the last one broke off.")
@click.option("--table", type=PathArgument, help="Other downloads, written as configs/published.yaml.")
@click.option("-q", "--quiet", is_flag=True, help="Print the path and nothing else.")
@json_alone
def fetch(name: str | None, variant: str | None, kind: str | None, listed: bool, out: str | None, check: bool,
          table: Path | None, quiet: bool, json_path: str | None, **ways: Any) -> None:
    """Fetch published weights by NAME: a network (dbnet_resnet50), a recipe, a published file, its digest or address.

    Prints the path of the file, once its SHA-256 begins with the digest in its name; everything else goes to standard
    error. Without NAME: lists all. What broke off is gone on with by the same command. Proxies are taken from
    https_proxy, http_proxy and no_proxy.
    """
    from dbnet.published import PUBLISHED, entries
    _refuse_unused(name, listed, check)
    means, known = _means(quiet=quiet, **ways), entries(table or PUBLISHED)
    if check:
        _check(name, variant, kind, out, means.cache, known, json_path)
    elif listed or name is None:
        _list(name, variant, kind, known, json_path)
    else:
        _fetch(_chosen(name, variant, kind, known), means, out, quiet, json_path)


def _refuse_unused(name: str | None, listed: bool, check: bool) -> None:
    """Raises UsageError for an option that was typed and would do nothing."""
    context = click.get_current_context()
    flags = {"listed": "--list", "force": "--force", "folder": "--from", "mirror": "--mirror", "timeout": "--timeout",
             "tries": "--tries", "out": "--out", "variant": "--variant", "kind": "--format"}
    typed = [flag for option, flag in flags.items()
             if context.get_parameter_source(option) is ParameterSource.COMMANDLINE]
    for flag in typed:
        if check and flag in ("--out", "--variant", "--format"):
            if name is None:
                raise click.UsageError(f"{flag} of --check wants a NAME")
        elif check:
            raise click.UsageError(f"--check only verifies; leave out {flag}")
        elif flag not in ("--list", "--variant", "--format"):
            if listed:
                raise click.UsageError(f"--list only lists; leave out {flag}, or --list")
            if name is None:
                raise click.UsageError(f"{flag} wants a NAME")


def _means(cache: Path | None, folder: Path | None, mirror: str | None, offline: bool, force: bool, timeout: float,
           tries: int, quiet: bool) -> Means:
    from dbnet.fetch import MIRROR_VARIABLE, Means, cache_folder
    from dbnet.fetch_address import check_address
    from dbnet.fetch_http import Pace
    if folder is not None and mirror is not None:
        raise click.UsageError("--from and --mirror name a place both; give one of them")
    mirror = mirror if mirror is not None else os.environ.get(MIRROR_VARIABLE) or None
    return Means(cache_folder(cache), folder, mirror if mirror is None else check_address(mirror), offline, force,
                 Pace(timeout=timeout, tries=tries), tell=_silent if quiet else _note)


def _silent(_line: str) -> None:
    """--quiet."""


def _note(line: str) -> None:
    click.echo(f"dbnet: {line}", err=True)


def _chosen(name: str, variant: str | None, kind: str | None, known: Sequence[Entry]) -> Entry:
    from dbnet.published import AmbiguousError, choose
    try:
        return choose(name, variant, kind, known)
    except AmbiguousError as error:
        raise click.UsageError(str(error)) from error


def _fetch(entry: Entry, means: Means, out: str | None, quiet: bool, json_path: str | None) -> None:
    from dbnet.fetch import fetch as run
    from dbnet.fetch import made, part_of
    target = None if out is None else _file(out, entry)
    folder = made(target.parent) if target is not None and _new_folder(out) else nullcontext()
    try:
        with folder, progress(means, entry.file, quiet) as shown:
            done = run(entry, shown, target)
    except KeyboardInterrupt as stop:
        part = part_of(target or means.cache / entry.file, entry)
        kept = f"{part.stat().st_size:,} bytes are kept in {part}, and the same command goes on from there" \
            if part.exists() else "nothing was written"
        raise DbnetError(f"interrupted; {kept}") from stop
    if json_path is not None:
        write_json(json_path, {"path": str(done.path), "how": done.how, **told(entry)})
    if not quiet:
        describe(entry, done)
    if json_path != "-":
        click.echo(str(done.path))


def _file(out: str, entry: Entry) -> Path:
    """The file that --out means. A folder keeps the published name."""
    path = Path(out)
    if path.is_dir() or _new_folder(out):
        return path / entry.file
    if path.suffix != f".{entry.format}":
        raise DbnetError(f"{path}: is no folder that exists, and no name of a .{entry.format} file; write {path}/ to "
                         f"have it created, or name the file, e.g. {path / entry.file}")
    return path


def _new_folder(out: str | None) -> bool:
    return out is not None and out.endswith("/") and not os.path.isdir(out)


def _list(name: str | None, variant: str | None, kind: str | None, known: Sequence[Entry],
          json_path: str | None) -> None:
    from dbnet.published import matching
    found = matching(name, variant, kind, known)
    if json_path is not None:
        write_json(json_path, [told(entry) for entry in found])
    if json_path != "-":
        print_list(found)


def _check(name: str | None, variant: str | None, kind: str | None, out: str | None, cache: Path,
           known: Sequence[Entry], json_path: str | None) -> None:
    from dbnet.fetch_check import check_cache, check_file
    if name is None:
        verdicts = check_cache(cache, known)
    elif Path(name).is_file():
        verdicts = [check_file(Path(name), known)]
    else:
        entry = _chosen(name, variant, kind, known)
        verdicts = [check_file(_file(out, entry) if out else cache / entry.file, known, entry)]
    if json_path is not None:
        write_json(json_path, [{"path": str(verdict.path), "right": verdict.right, "words": verdict.words,
                                **(told(verdict.entry) if verdict.entry else {})} for verdict in verdicts])
    if json_path != "-":
        for verdict in verdicts:
            click.echo(f"{verdict.path}: {'right' if verdict.right else 'WRONG'}: {verdict.words}")
        if not verdicts:
            click.echo(f"{cache}: holds no published weights")
    if not all(verdict.right for verdict in verdicts):
        raise click.exceptions.Exit(1)
