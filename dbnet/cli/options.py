"""What several commands share: options about a source file, --json, and tables."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from dbnet.errors import DbnetError
from dbnet.precision_names import PRECISIONS
from dbnet.runner_names import RUNNERS, VARIANTS, RunnerNameError, parse_runner
from dbnet.shards import Shard, ShardError, parse_shard

#: How bundles of dbnet bench and merged reports begin, which no --json writes, and bytes that are read for it.
_MEASURED, _BEGIN = re.compile(rb'\s*\{\s*"dbnet"\s*:\s*"(bench|report)"'), 200


class _Path(click.Path):
    """A path, but not an empty one, which would be the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


#: Not checked by click: a file that cannot be read is our one line and exit code 3, not a matter of usage.
PathArgument = _Path(path_type=Path, readable=False)


class RunnerType(click.ParamType):
    """NAME[:VARIANT][@PYTHON], see `dbnet.runner_names`. others: names that mean something beside them."""

    name = "runner"

    def __init__(self, *others: str):
        self._others = others

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join((*self._others, *RUNNERS))}][:VARIANT][@PYTHON]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The interpreter's path becomes absolute. A slip is a matter of usage; DbnetError if there is none."""
        if value in self._others:
            return str(value)
        try:
            return str(parse_runner(value))
        except RunnerNameError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        framework, colon, _ = incomplete.partition(":")
        names = [f"{framework}:{variant}" for variant in VARIANTS.get(framework, ())] if colon else \
            [*self._others, *RUNNERS]
        return [CompletionItem(name) for name in names if name.lower().startswith(incomplete.lower())]


class ShardType(click.ParamType):
    """I/N, see `dbnet.shards`."""

    name = "shard"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shard:
        try:
            return value if isinstance(value, Shard) else parse_shard(value)
        except ShardError as error:
            self.fail(str(error), param, ctx)


def shard_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--shard; None where it is not given."""
    return click.option("--shard", type=ShardType(),
                        help="Only the I-th of N parts of the images, for N machines or devices; dbnet report merge "
                             "makes of all parts what one run writes.")(command)


#: What `source_options` adds to a command.
SOURCE_SETTINGS = ("spec", "dialect", "settings", "take", "part", "allow_edited", "pixels")


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--spec, --from, --set, --take, --part, --allow-edited, --pixels; the command gets them as one
    `options: SourceOptions`.
    """

    @click.option("--spec", metavar="NAME", help="The network, where shapes leave it open (see dbnet specs).")
    @click.option("--from", "dialect", metavar="DIALECT",
                  help="Whose names the file uses: mindocr, torch, mhliao, mmocr, mmocr0, paddle, mindocr_enhance. "
                       "Told by them.")
    @click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE",
                  help="Say what a bare file means, e.g. stem_pool=symmetric (repeatable).")
    @click.option("--take", type=click.Choice(["plain", "ema"]), help="Which weights of a training file.")
    @click.option("--part", metavar="NAME", help="Which network of a distillation's file, Student or Teacher.")
    @click.option("--allow-edited", is_flag=True, help="Accept weights that do not match the digest in their record.")
    @click.option("--pixels", metavar="NAME,...", callback=_checked_pixels,
                  help="What goes in, and the box rule: mindocr, mindocr_pp, paddle, paddle_pp, mhliao, mmocr; or with "
                       "details: paddle,size=960, or resize=stretch,size=640x640.  [default: the model's own]")
    @functools.wraps(command)
    def wrapped(spec: str | None, dialect: str | None, settings: Sequence[str], take: Any, part: str | None,
                allow_edited: bool, pixels: str | None, **others: Any) -> Any:
        from converters.load import SourceOptions
        options = SourceOptions(spec=spec, dialect=dialect, semantics=dict(map(_setting, settings)), take=take,
                                allow_edited=allow_edited, part=part, pixels=pixels)
        return command(options=options, **others)

    return wrapped


def _checked_pixels(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    if text is not None:
        from dbnet.pixel_formats import pixel_choice
        try:
            pixel_choice(text)
        except DbnetError as error:
            raise click.BadParameter(str(error)) from error
    return text


def map_output_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--map-output, for commands that run a model; it becomes part of the `options` that `source_options` makes, so it
    stands below that.
    """

    @click.option("--map-output", metavar="NAME",
                  help="Which output of an .onnx of others is the probability map, where it has several.")
    @functools.wraps(command)
    def wrapped(map_output: str | None, options: Any, **others: Any) -> Any:
        from dataclasses import replace
        return command(options=replace(options, output=map_output), **others)

    return wrapped


def precision_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--precision, `float32` where it is not given."""
    return click.option("--precision", type=click.Choice(PRECISIONS), default="float32", show_default=True,
                        help="What the network computes in; fp16 and bf16 in torch and ONNX Runtime.")(command)


def keep_float32_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--keep-float32, for commands with --precision; the command gets a tuple of names."""
    return click.option("--keep-float32", multiple=True, metavar="LAYER,...", callback=_names,
                        help="Layers that stay float32 beside --precision fp16 or bf16, or modules that hold some "
                             "(repeatable); dbnet precision says which.")(command)


def check_kept(keep_float32: Sequence[str], *precisions: str) -> None:
    """A usage error for layers to keep in float32 where all of them are."""
    if keep_float32 and all(precision == "float32" for precision in precisions):
        raise click.UsageError("--keep-float32 means nothing in float32; add --precision fp16 or bf16")


def _names(_context: click.Context, _parameter: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    names = tuple(name.strip() for text in given for name in text.split(",") if name.strip())
    if given and not names:
        raise click.BadParameter("no name in it")
    return names


def tell_notes(runner: Any, whose: str = "") -> None:
    """What a user should know of how a runner was opened, on standard error."""
    for note in getattr(runner, "notes", ()):
        click.echo(f"note: {whose}{note}", err=True)


def refuse_others(what: str, names: Collection[str]) -> None:
    """A usage error for an option that was given and means nothing beside `what`."""
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in names and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} means nothing with {what}")


def _setting(text: str) -> tuple[str, Any]:
    from converters.choices import parse_setting
    try:
        return parse_setting(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def deformable_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--deformable; None where it is not given."""
    return click.option("--deformable", type=click.Choice(["native", "decomposed"]),
                        help="Deformable convolutions in an .onnx: the standard's DeformConv (opset 19, new runtimes) "
                             "or made of plain operators.  [default: decomposed]")(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--json FILE; `-` is standard output, and nothing else is then printed there. Checked before the command runs."""
    return click.option("--json", "json_path", metavar="FILE", callback=json_checked,
                        help="Write the result as JSON; - for standard output.")(command)


def json_checked(_context: click.Context, _parameter: click.Parameter, path: str | None) -> str | None:
    """The path of --json, if it may be written."""
    if path is not None and path != "-":
        from converters.writing import check_report
        check_report(Path(path))
        _check_replaceable(Path(path))
    return path


def _check_replaceable(path: Path) -> None:
    """Raises DbnetError if a file is there that no --json can have written: a slip must not cost anybody's data."""
    if path.is_file():
        with path.open("rb") as stream:
            begin = stream.read(_BEGIN)
        if begin[:1] not in (b"", b"{", b"["):
            raise DbnetError(f"{path}: exists and is no JSON report; name another file")
        if _MEASURED.match(begin):
            raise DbnetError(f"{path}: exists and holds what dbnet bench -o or report merge wrote, which cannot be "
                             f"measured again; name another file")


def write_json(path: str, data: Any) -> None:
    """Writes to a file, replacing it, or to standard output for `-`. Raises DbnetError."""
    text = json.dumps(data, indent=1, allow_nan=False)
    if path == "-":
        click.echo(text)
        return
    from converters.writing import write_text
    write_text(Path(path), text + "\n")


@contextmanager
def progress_bar(total: int, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Yields a callback (images done, images in all); the bar goes to standard error, and only to a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                  console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        task = progress.add_task("images", total=total)
        yield lambda done, _total: progress.update(task, completed=done)


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[int] = ()) -> None:
    """Prints a table; `right`: columns aligned to the right. Wide enough for a pipe, fitted to a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i in set(right) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console(highlight=False, markup=False, emoji=False)  # a file may be called d[/red].png
    if not console.is_terminal:
        console.width = 200
    console.print(table)
