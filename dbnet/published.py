"""The weight files that the seed offers, by name: what each is, its digest, and its published figures.

They stand in `configs/published.yaml`. A file is named by its network as `dbnet specs` has it (`dbnet_resnet50`) and a
variant: the recipe without the network, with `-910v2` for the files of the Ascend 910* (`icdar15-8p-910v2`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbnet.errors import DbnetError
from dbnet.recipe_check import read_as
from dbnet.recipe_configs import (
    CONFIGS,
    DATA_SETS,
    PUBLISHED,
    START,
    URL,
    Download,
    Published,
    names,
    read_table,
    rows_of,
)
from dbnet.recipe_kinds import Kind, boolean, sequence, text
from dbnet.recipe_yaml import Node

FORMATS = ("ckpt", "mindir")
#: Two parts of the names of recipes that a variant leaves out.
_NETWORK = re.compile(r"(db|dbpp)_(r18|r50|mobilenetv3)_")
_BACKBONES = {"MobileNetV3": "mobilenetv3", "ResNet-18": "resnet18", "ResNet-50": "resnet50"}
_START: dict[str, Kind] = {"name": text, "variant": text, "data": text, "backbone_only": boolean,
                           "recipes": sequence(text), "url": URL}
_DATA_SET: dict[str, Kind] = {"languages": text, "scored_on": text}


class AmbiguousError(DbnetError):
    """Several files have what was asked for; the message names them."""


@dataclass(frozen=True)
class Entry:
    """One file that can be fetched.

    row: its figures; None for weights that recipes begin with and the page does not list (`recipes` says which).
    languages, scored_on: of the data set, empty where nothing is said. backbone_only: no detector.
    """

    name: str
    variant: str
    download: Download
    data: str
    row: Published | None = None
    languages: str = ""
    scored_on: str = ""
    backbone_only: bool = False
    recipes: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        return self.download.file

    @property
    def format(self) -> str:
        return self.file.rpartition(".")[2]

    @property
    def digest(self) -> str:
        return self.download.digest

    @property
    def recipe(self) -> str | None:
        """The recipe that it was trained by and is evaluated with."""
        return self.row.recipe if self.row else None

    @property
    def chip(self) -> str:
        return self.row.chip if self.row else ""

    @property
    def stem(self) -> str:
        """The file's name without digests, chip and format: `dbnet_resnet50_td500`."""
        return re.sub(r"(-[0-9a-f]{8})+(-910v2)?$", "", self.file.rpartition(".")[0])


def entries(table: Path = PUBLISHED) -> list[Entry]:
    """Every file, in the table's order. Raises DbnetError, naming the line, if the table is not one."""
    tree = read_table(table)
    sections = tree.value
    sets = {name: _fields(node, _DATA_SET, name) for name, node in _mapping(sections.get(DATA_SETS)).items()}
    found = [Entry(_network(row), _variant(row), download, row.data, row, **sets.get(row.data, {}),
                   recipes=(row.recipe,) if row.recipe else ())
             for row in rows_of(tree) for download in row.downloads]
    for node in _list(sections.get(START)):
        values = _fields(node, _START, START)
        if missing := [name for name in _START if name not in values]:
            raise DbnetError(f"{node.where}: {START} wants {', '.join(missing)} too")
        url, recipes = values.pop("url"), tuple(values.pop("recipes"))
        languages = sets.get(values["data"], {}).get("languages", "")
        found.append(Entry(download=Download(url), recipes=recipes, languages=languages, **values))
    return found


def choose(word: str, variant: str | None = None, kind: str | None = None,
           known: Sequence[Entry] | None = None) -> Entry:
    """The file that is meant. word: a network, a recipe, a published file with or without its digest, its digest or its
    address. kind: ckpt or mindir; default ckpt, unless `word` is the name of a .mindir.

    Raises DbnetError with the nearest names for an unknown one, AmbiguousError if several files are left.
    """
    known = entries() if known is None else known
    found = _of_variant(word, variant, _named(word, known))
    kind = kind or (found[0].format if len({entry.format for entry in found}) == 1 else FORMATS[0])
    of_kind = [entry for entry in found if entry.format == kind]
    if not of_kind:
        others = ", ".join(sorted({f"{entry.format} {entry.file}" for entry in found}))
        raise DbnetError(f"{word}{f' {variant}' if variant else ''}: is not published as .{kind}, only as {others}")
    if len(of_kind) > 1:
        raise AmbiguousError(f"{word} is published in {len(of_kind)} variants; add --variant "
                             f"{_listed(of_kind, lambda entry: f'{entry.variant} ({_told(entry)})')}")
    return of_kind[0]


def matching(word: str | None, variant: str | None, kind: str | None, known: Sequence[Entry]) -> list[Entry]:
    """Those that `choose` would choose from, all of them. Raises DbnetError if none is left."""
    named = known if word is None else _named(word, known)
    found = [entry for entry in _of_variant(word or "the table", variant, named) if kind in (None, entry.format)]
    if not found:
        raise DbnetError(f"{word} {variant or ''}: is not published as .{kind}; dbnet fetch --list has all files")
    return found


def begun_with(entry: Entry) -> tuple[str, ...]:
    """The recipes of this package that begin with these weights."""
    named = [name for name in names() if entry.file in (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")]
    return tuple(named) or (() if entry.row else entry.recipes)


def by_digest(digest: str, known: Iterable[Entry]) -> Entry | None:
    """The file whose SHA-256 begins so."""
    return next((entry for entry in known if digest.startswith(entry.digest)), None)


def file_at(url: str) -> str | None:
    """The published file that an address ends in, which `dbnet fetch` then gets; None if it is no published one."""
    file = _last_part(url)
    return file if any(entry.file == file for entry in entries()) else None


def _last_part(url: str) -> str:
    return re.split("[?#]", url, maxsplit=1)[0].rpartition("/")[2]


def _named(word: str, known: Sequence[Entry]) -> Sequence[Entry]:
    wanted = _plain(_last_part(word))
    exact = [entry for entry in known if wanted in _exact_names(entry)]
    named = exact or [entry for entry in known if wanted in _names(entry)]
    if not named:
        raise DbnetError(f"{word or 'the empty name'}: no published weights have that name; "
                         f"{_nearest(wanted, known)}dbnet fetch --list has them all")
    return named


def _of_variant(word: str, variant: str | None, named: Sequence[Entry]) -> Sequence[Entry]:
    if variant is None:
        return named
    found = [entry for entry in named if _plain(variant) == _plain(entry.variant)]
    if not found:
        near = difflib.get_close_matches(_plain(variant), [_plain(entry.variant) for entry in named], 1, 0.7)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DbnetError(f"{word} has no variant {variant or '(an empty name)'}; {hint}"
                         f"there are {_listed(named, lambda entry: entry.variant)}")
    return found


def _exact_names(entry: Entry) -> set[str]:
    """What names this file and no other."""
    return {_plain(name) for name in (entry.file, entry.file.rpartition(".")[0], entry.digest)}


def _names(entry: Entry) -> set[str]:
    words = {entry.name, entry.stem, *(() if entry.backbone_only else entry.recipes)}
    return {_plain(name) for word in words for name in (word, f"{word}.yaml")}


def _nearest(wanted: str, known: Sequence[Entry]) -> str:
    words = sorted({word for entry in known for word in (*_names(entry), *_exact_names(entry))
                    if not word.endswith(".yaml")})
    near = difflib.get_close_matches(wanted, words, 3, 0.7)
    written = {_plain(name): name for entry in known
               for name in (entry.name, entry.stem, entry.file, entry.file.rpartition(".")[0], *entry.recipes)}
    return f"did you mean {' or '.join(written.get(name, name) for name in near)}? " if near else ""


def _listed(found: Sequence[Entry], words: Callable[[Entry], str]) -> str:
    return ", ".join(dict.fromkeys(map(words, found)))


def _told(entry: Entry) -> str:
    if entry.row is None:
        return entry.data
    figure = f", F {entry.row.fscore:.2f}" if entry.row.fscore is not None else ""
    return f"{entry.row.network} {entry.data}{figure}"


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _network(row: Published) -> str:
    return f"{'dbnetpp' if row.network == 'DBNet++' else 'dbnet'}_{_BACKBONES[row.backbone]}"


def _variant(row: Published) -> str:
    base = "general" if row.recipe is None else _NETWORK.sub("", row.recipe, count=1).replace("_", "-")
    return f"{base}-910v2" if row.chip == "910*" else base


def _fields(node: Node, kinds: dict[str, Kind], section: str) -> dict[str, Any]:
    values = _mapping(node)
    for name, child in values.items():
        if name not in kinds:
            raise DbnetError(f"{child.where}: {section} has no {name}; it has {', '.join(kinds)}")
    return {name: read_as(kinds[name], child, name) for name, child in values.items()}


def _mapping(node: Node | None) -> dict[str, Node]:
    if node is None:
        return {}
    if not isinstance(node.value, dict):
        raise DbnetError(f"{node.where}: wants names with values here, as configs/published.yaml has them")
    return node.value


def _list(node: Node | None) -> list[Node]:
    if node is None:
        return []
    if not isinstance(node.value, list):
        raise DbnetError(f"{node.where}: {START} wants a list")
    return node.value
