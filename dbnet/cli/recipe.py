"""dbnet recipe"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dbnet.cli.json_alone import JsonAlone, json_alone
from dbnet.cli.options import print_table, write_json
from dbnet.cli.recipe_options import RecipeCommand, opt_option
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from dbnet.recipe import Recipe


@click.group()
def recipe() -> None:
    """Recipes: MindOCR's YAML files for DBNet, and those of this package."""


class _JsonCommand(JsonAlone, RecipeCommand):
    """A command about a recipe whose --json may stand alone."""


@recipe.command(cls=_JsonCommand)
@click.argument("file", required=False)
@click.option("-c", "--config", metavar="FILE", help="The same as FILE, as other commands take it.")
@opt_option
@click.option("--all", "absent", is_flag=True, help="Also keys that are left out and what MindOCR's code then takes.")
@json_alone
def show(file: str | None, config: str | None, overrides: tuple[str, ...], absent: bool,
         json_path: str | None) -> None:
    """Print the effective settings of FILE, or of a recipe by its name, and where each comes from.

    One line for each: `key = value  # file:line`, `# command line` or `# seed default`.
    """
    from dbnet.recipe import read_recipe
    if file is not None and config is not None:
        raise click.UsageError("FILE and -c name a recipe both; give one of them")
    named = config if file is None else file
    if named is None:
        raise click.UsageError("name a recipe: a FILE, or one of dbnet recipe list")
    read = read_recipe(named, overrides)
    if json_path is not None:
        if Path(json_path).exists() and read.file.samefile(json_path):
            raise DbnetError(f"{json_path}: is the recipe itself; name another file for --json")
        write_json(json_path, {"recipe": read.name, "file": read.label, "settings": read.settings,
                               "origins": read.origins})
    if json_path != "-":
        click.echo(f"[{read.name}]")
        for path, value, origin in _in_order(read, absent):
            click.echo(f"{path} = {value}  # {origin}")


def _in_order(read: Recipe, absent: bool) -> list[tuple[str, str, str]]:
    """The lines of a recipe as the seed's file for its network would have them."""
    from dbnet.recipe_keys import ORDER_OF_DBPP
    lines = list(read.lines(absent))
    if read.get("model.neck.use_asf"):
        for moved, before in ORDER_OF_DBPP.items():
            paths = [path for path, *_ in lines]
            if moved in paths and before in paths:
                line = lines.pop(paths.index(moved))
                lines.insert([path for path, *_ in lines].index(before), line)
    return lines


@recipe.command("list", cls=_JsonCommand)
@json_alone
def list_(json_path: str | None) -> None:
    """List the recipes of this package with the figures that the seed published for them.

    Recall, precision and f-score in percent by MindOCR's own metric, which is not the official one of any data set.
    """
    from dbnet.recipe_configs import names, published
    rows = published()
    if json_path is not None:
        write_json(json_path, [asdict(row) | {"downloads": [
            asdict(download) | {"file": download.file, "digest": download.digest} for download in row.downloads]}
            for row in rows])
    if json_path == "-":
        return
    bare = [name for name in names() if name not in {row.recipe for row in rows}]
    print_table("", ("recipe", "network", "backbone", "data", "chip", "cards", "batch", "pretrained", "ms/step",
                     "img/s", "recall", "precision", "f-score"),
                [*((row.recipe or "(no recipe)", row.network, row.backbone, row.data, row.chip, row.cards,
                    row.batch_size, row.pretrained or "", row.ms_per_step, row.img_per_s,
                    *(_percent(value) for value in (row.recall, row.precision, row.fscore))) for row in rows),
                 *((name, *[""] * 12) for name in bare)], right=range(5, 13))


@recipe.command("keys")
@click.argument("word", required=False, default="")
def keys_(word: str) -> None:
    """Print every key of a recipe, or those with WORD in them or in their remarks: what it must be, and what is taken
    without it. Case does not count.
    """
    from dbnet.recipe_words import HEADER, rows
    wanted = word.lower()
    found = [row for row in rows() if wanted in row[0].lower() or wanted in row[-1].lower()]
    if not found:
        raise DbnetError(f"no key has {word!r} in it; dbnet recipe keys prints them all")
    print_table("", HEADER, found)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
