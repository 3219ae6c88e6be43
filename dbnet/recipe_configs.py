"""The recipes in `configs/` by name, and what the seed published about them (`configs/published.yaml`)."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbnet.errors import DbnetError
from dbnet.recipe_check import read_as
from dbnet.recipe_kinds import Kind, choice, integer, number, sequence, text
from dbnet.recipe_yaml import Node, read_yaml

#: Beside the package `dbnet`, in a checkout and where a wheel is installed.
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PUBLISHED = CONFIGS / "published.yaml"
#: The section of `PUBLISHED` for models that have no recipe.
GENERAL = "general"
#: The sections of `PUBLISHED` that are no rows of the seed's tables; `dbnet.published` reads them.
START, DATA_SETS = "start", "data_sets"

_PERCENT = number(0, 100)
_ADDRESS = re.compile(r"https://\S+-[0-9a-f]{8}(-910v2)?\.(ckpt|mindir)")
URL = Kind("an address, https://.../name-digest.ckpt",
           lambda value: text.read(value if _ADDRESS.fullmatch(str(value)) else None))
_ROW: dict[str, Kind] = {
    "network": choice("DBNet", "DBNet++"), "backbone": choice("MobileNetV3", "ResNet-18", "ResNet-50"), "data": text,
    "chip": choice("910", "910*"), "cards": integer(1), "batch_size": integer(1),
    "pretrained": choice("ImageNet", "SynthText"), "ms_per_step": number(above=0), "img_per_s": number(above=0),
    "recall": _PERCENT, "precision": _PERCENT, "fscore": _PERCENT, "train_loss": number(0),
    "downloads": sequence(URL), "mindir_shape": sequence(integer(1), 4),
}
_OPTIONAL = ("pretrained", "recall", "precision", "fscore", "train_loss", "downloads", "mindir_shape")


@dataclass(frozen=True)
class Download:
    """A file that the seed offers. input_shape: (N, C, H, W) that a .mindir takes."""

    url: str
    input_shape: tuple[int, ...] | None = None

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def digest(self) -> str:
        """The 8 hex digits in the name, by MindSpore's custom the first of the file's SHA-256."""
        return re.findall(r"-([0-9a-f]{8})(?=[-.])", self.file)[-1]


@dataclass(frozen=True)
class Published:
    """One row of the seed's tables: 910 or 910* with MindSpore 2.3.1 in graph mode.

    recipe: its name in `configs/`, None for a general-purpose model. recall, precision, fscore: percent, by MindOCR's
    own metric. None where the page says nothing.
    """

    recipe: str | None
    network: str
    backbone: str
    data: str
    chip: str
    cards: int
    batch_size: int
    ms_per_step: float
    img_per_s: float
    pretrained: str | None = None
    recall: float | None = None
    precision: float | None = None
    fscore: float | None = None
    train_loss: float | None = None
    downloads: tuple[Download, ...] = ()


def names() -> list[str]:
    """Of the recipes in `configs/`. Raises DbnetError if the folder is gone."""
    found = sorted(file.stem for file in CONFIGS.glob("*.yaml") if file != PUBLISHED)
    if not found:
        raise DbnetError(f"{CONFIGS}: holds no recipes; reinstall dbnet-parity")
    return found


def locate(file: str | Path) -> tuple[Path, str]:
    """Path and label of a recipe that is given as a file or by a name in `configs/`. A file goes first.

    Raises DbnetError with the nearest name.
    """
    if not str(file):
        raise DbnetError("the recipe's name is empty; dbnet recipe list has those of this package")
    path = Path(file)
    if path.is_file() or path.is_dir():
        return path, str(path)
    name = path.name.removesuffix(".yaml")
    known = names()
    if path.parent == Path() and name in known:
        return CONFIGS / f"{name}.yaml", f"{name}.yaml"
    near = [name] if name in known else difflib.get_close_matches(name, known, 1)
    hint = f"did you mean the recipe {near[0]} of this package?" if near else "dbnet recipe list has those by name"
    raise DbnetError(f"{path}: no such file, and no recipe of that name; {hint}")


def published(file: Path = PUBLISHED) -> list[Published]:
    """Every row, in the file's order. Raises DbnetError, naming the line, if the file is not such a table."""
    return rows_of(read_table(file))


def read_table(file: Path) -> Node:
    """A file as `PUBLISHED` is one, its rows unread. Raises DbnetError, naming the line."""
    return read_yaml(file, what="a table of downloads", wants="recipes with rows, as configs/published.yaml")


def rows_of(table: Node) -> list[Published]:
    """`published` of a table that is read already."""
    rows = []
    for recipe, node in table.value.items():
        if recipe in (START, DATA_SETS):
            continue
        if not isinstance(node.value, list):
            raise DbnetError(f"{node.where}: {recipe} wants a list of rows")
        rows += [_row(None if recipe == GENERAL else recipe, item) for item in node.value]
    return rows


def _row(recipe: str | None, node: Node) -> Published:
    if not isinstance(node.value, dict) or not set(_ROW) - set(_OPTIONAL) <= set(node.value) <= set(_ROW):
        raise DbnetError(f"{node.where}: a row has {', '.join(_ROW)}; only {', '.join(_OPTIONAL)} may be left out")
    values: dict[str, Any] = {name: read_as(_ROW[name], child, name) for name, child in node.value.items()}
    shape = values.pop("mindir_shape", None)
    values["downloads"] = tuple(Download(url, tuple(shape) if shape and url.endswith(".mindir") else None)
                                for url in values.get("downloads", ()))
    return Published(recipe, **values)
