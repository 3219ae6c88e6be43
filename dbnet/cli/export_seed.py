"""The options of MindOCR's tools/export.py, as it takes them. Source: mindocr/tools/export.py, its README."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.options import PathArgument
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from dbnet.spec import BoxRule

#: Of files whose name the user does not say; any other is a .mindir.
_SUFFIXES = {"onnx": ".onnx", "opencv": ".onnx", "rapidocr": ".onnx", "openvino": ".xml", "om": ".om"}


@dataclass(frozen=True)
class Seed:
    """What was given of them; true if anything was."""

    name: str | None
    checkpoint: Path | None
    folder: Path | None
    dynamic: bool
    kind: str | None

    def __bool__(self) -> bool:
        return any((self.name, self.checkpoint, self.folder, self.dynamic, self.kind))


def seed_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--model_name_or_config, --local_ckpt_path, --save_dir, --is_dynamic_shape, --model_type; the command gets them as
    one `seed: Seed`.
    """

    @click.option("--model_name_or_config", "--model_name", "name", metavar="NAME|YAML",
                  help="As in MindOCR: a network, or a recipe that says which.")
    @click.option("--local_ckpt_path", "checkpoint", type=PathArgument, metavar="CKPT", help="As in MindOCR: its file.")
    @click.option("--save_dir", "folder", type=PathArgument, metavar="DIR", help="As in MindOCR: for NAME.mindir.")
    @click.option("--is_dynamic_shape", "dynamic", type=bool, default=False, help="As in MindOCR: any size.")
    @click.option("--model_type", "kind", type=click.Choice(["det", "rec", "cls"]), help="As in MindOCR; det here.")
    @functools.wraps(command)
    def wrapped(name: str | None, checkpoint: Path | None, folder: Path | None, dynamic: bool, kind: str | None,
                **others: Any) -> Any:
        return command(seed=Seed(name, checkpoint, folder, dynamic, kind), **others)

    return wrapped


def named_by_the_seed(model: Path | None, out: Path | None, target: str | None, data_shape: tuple[int, int] | None,
                      seed: Seed, options: Any) -> tuple[Path, Path, str | None, Any, BoxRule | None]:
    """MODEL, OUT, target, options, and a recipe's box rule. One path without an option before it is OUT. Usage errors
    for what goes wrong.
    """
    if seed.kind not in (None, "det"):
        raise click.UsageError(f"--model_type {seed.kind}: only text detectors are here, det")
    if seed.name is None or seed.checkpoint is None:
        missing = "--model_name_or_config" if seed.name is None else "--local_ckpt_path"
        hint = "" if seed.name is None else f"; dbnet fetch {seed.name} gets a published one" * _published(seed.name)
        raise click.UsageError(f"{missing} is missing{hint}; or name MODEL and OUT: dbnet export x.ckpt x.mindir")
    if out is not None:
        raise click.UsageError("MODEL and --local_ckpt_path name a model both; give one of them")
    if data_shape is None and not seed.dynamic:
        raise click.UsageError("--data_shape H W is missing, e.g. 736 1280; or --is_dynamic_shape True for any size")
    if data_shape is not None and seed.dynamic:
        raise click.UsageError("--data_shape and --is_dynamic_shape True exclude each other; give one of them")
    if model is not None and seed.folder is not None:
        raise click.UsageError(f"{model} and --save_dir say where the file goes both; give one of them")
    spec, pixels, boxes, stem = _network(seed.name)
    if options.spec not in (None, spec):
        raise click.UsageError(f"--spec {options.spec} and {seed.name}, which is {spec}, contradict each other")
    folder = seed.folder or Path()
    out = model or folder / f"{stem}{_SUFFIXES.get(target or '', '.mindir')}"
    return seed.checkpoint, out, target, replace(options, spec=spec, pixels=options.pixels or pixels), \
        boxes if options.pixels is None else None


def _network(name: str) -> tuple[str, str | None, BoxRule | None, str]:
    """The spec's name, the pixels of a recipe where they are not the network's usual ones, the box rule of one that
    evaluates, and what MindOCR calls the file. Raises DbnetError for a recipe that is not understood.
    """
    from dbnet.spec import get_spec
    if not name.lower().endswith((".yaml", ".yml")):
        return get_spec(name).name, None, None, name
    from dbnet.pixel_formats import as_choice
    from dbnet.recipe import read_recipe
    recipe = read_recipe(name)
    spec = recipe.spec()
    boxes = spec.boxes if "eval" in recipe.settings else None
    usual = spec.pixels == get_spec(spec.name).pixels
    return spec.name, None if usual else as_choice(spec.pixels), boxes, Path(name).name.split(".")[0]


def _published(name: str) -> bool:
    from dbnet.published import entries, matching
    return bool(matching(name, None, None, entries()))


def make_folder(seed: Seed) -> None:
    """That of --save_dir, as MindOCR does. Raises DbnetError."""
    if seed.folder is None:
        return
    try:
        seed.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DbnetError(f"{seed.folder}: could not be made ({error.strerror}); name another --save_dir") from error


@contextmanager
def in_the_seeds_words(seed: Seed) -> Iterator[None]:
    """An error that names --spec, where --model_name_or_config says the network."""
    try:
        yield
    except DbnetError as error:
        if seed.name is None or not str(error).endswith("; leave out --spec"):
            raise
        told = str(error).removesuffix("; leave out --spec")
        raise DbnetError(f"{told}; name that network to --model_name_or_config") from error
