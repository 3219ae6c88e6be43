"""Recipes: MindOCR's YAML files for DBNet, read, checked, completed with the seed's defaults, and put to use."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from dbnet import recipe_model
from dbnet.errors import DbnetError
from dbnet.recipe_check import OPTION, complete, leaves
from dbnet.recipe_configs import locate
from dbnet.recipe_keys import SCHEMA
from dbnet.recipe_override import override
from dbnet.recipe_schema import UNSET, Key, Section, find, keys
from dbnet.recipe_yaml import read_yaml
from dbnet.spec import BoxRule, ModelSpec, PixelFormat

#: Origins that are no line of a file, beside `recipe_check.SEED_DEFAULT`.
COMMAND_LINE, ABSENT = "command line", "not set: what MindOCR's code takes"


class Data(NamedTuple):
    """A prepared label file and the folder of its images. ratio: the part of its images that is used."""

    label_file: Path
    images: Path
    ratio: float = 1.0


@dataclass(frozen=True, eq=False)
class Recipe:
    """One recipe, complete.

    name: the file's, without its ending. file: where it was read. label: what it is called in messages. settings:
    nested, plain values, MindOCR's keys. origins: dotted path of each leaf -> `file:line`, `command line` or
    `seed default`; the operations of a pipeline are leaves, `eval.dataset.transform_pipeline[2]`.
    """

    name: str
    file: Path
    label: str
    settings: dict[str, Any]
    origins: dict[str, str]

    def get(self, path: str, default: Any = UNSET) -> Any:
        """The setting at a dotted path: a value, or a section as a dict.

        One that the recipe leaves out is what MindOCR's code takes then, or `default`. Raises DbnetError if there is
        neither, ValueError if there is no such key.
        """
        entry = find(SCHEMA, path)
        if entry is None and path.split(".")[0] != "common":
            raise ValueError(f"{path} is no key of a recipe")
        value = _dig(self.settings, path)
        if value is UNSET:
            value = entry.absent if isinstance(entry, Key) and default is UNSET else default
        if value is UNSET:
            raise DbnetError(f"{self.label}: {path} is not set; add it, or give -o {path}=...")
        return copy.deepcopy(value)

    def where(self, path: str) -> str:
        """`file:line: path`, or what stands for the line, for messages about that setting."""
        origin = self.origins.get(path)
        if origin is None or origin.startswith((COMMAND_LINE, "seed")):
            return f"{self.label}: {path}" + (f" ({origin})" if origin else "")
        return f"{self.label.removesuffix(Path(self.label).name)}{origin}: {path}"

    def spec(self) -> ModelSpec:
        """The network, with pixels and boxes of the evaluation where the recipe has one.

        Raises DbnetError, by name, for what is not built here.
        """
        spec = recipe_model.network(self)
        return replace(spec, pixels=self.pixels, boxes=self.boxes) if "eval" in self.settings else spec

    @property
    def pixels(self) -> PixelFormat:
        """Of `eval.dataset.transform_pipeline`. Raises DbnetError, by name, for what is not reproduced here."""
        return recipe_model.pixel_format(self)

    @property
    def boxes(self) -> BoxRule:
        """Of `postprocess`: MindOCR's rule with its thresholds."""
        return recipe_model.box_rule(self)

    @property
    def eval_data(self) -> list[Data]:
        """Label file and images of `eval.dataset`; several where the recipe lists several."""
        return self.data("eval")

    def data(self, section: str) -> list[Data]:
        """Label files and image folders of `section`.dataset: `train` or `eval`, below `dataset_root` where it is set.

        Raises DbnetError if they are not set, or not as many of the one as of the other.
        """
        path = f"{section}.dataset"
        self.need(section)
        folders, files = (self._paths(f"{path}.{name}") for name in ("data_dir", "label_file"))
        if len(folders) == 1:
            folders *= len(files)
        ratios = self.get(f"{path}.sample_ratio")
        ratios = ratios if isinstance(ratios, list) else [ratios] * len(files)
        for name, values in (("data_dir", folders), ("sample_ratio", ratios)):
            if len(values) != len(files):
                raise DbnetError(f"{self.where(f'{path}.{name}')} lists {len(values)}, label_file {len(files)}; give "
                                 f"one for each label file")
        root = Path(self.get(f"{path}.dataset_root") or "")
        return [Data(root / file, root / folder, float(ratio))
                for file, folder, ratio in zip(files, folders, ratios, strict=True)]

    def _paths(self, path: str) -> list[str]:
        value = self.get(path, None)
        values: list[str] = value if isinstance(value, list) else [value] if value else []
        if not values or not all(values):
            raise DbnetError(f"{self.where(path)} is not set; add it, or give -o {path}=...")
        return values

    def need(self, section: str) -> None:
        """Raises DbnetError if the recipe has no such section."""
        if section not in self.settings:
            raise DbnetError(f"{self.label}: has no section {section} (a recipe for training only); add one, or take "
                             f"another recipe")

    def with_root(self, root: Path) -> Recipe:
        """The recipe with `dataset_root` of train and eval set."""
        settings, origins = copy.deepcopy(self.settings), dict(self.origins)
        for section in ("train", "eval"):
            if section in settings:
                settings[section]["dataset"]["dataset_root"] = str(root)
                origins[f"{section}.dataset.dataset_root"] = COMMAND_LINE
        return replace(self, settings=settings, origins=origins)

    def lines(self, absent: bool = False) -> Iterator[tuple[str, str, str]]:
        """(dotted path, value as text, origin) of every leaf, in the schema's order.

        absent: also of keys that are left out and that MindOCR's code has a value for.
        """
        for path, entry in keys(SCHEMA):
            found = _dig(self.settings, path)
            if isinstance(entry, Section):
                continue
            if found is not UNSET:
                for leaf, value in leaves(found, path).items():
                    yield leaf, as_text(value, leaf.endswith("]")), self.origins.get(leaf, "")
            elif absent and entry.absent is not UNSET and _dig(self.settings, path.rpartition(".")[0]) is not UNSET:
                yield path, as_text(entry.absent), ABSENT


def read_recipe(file: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a file, or by the name of one in `configs/`; overrides: `KEY=VALUE` each, as for -o.

    Raises DbnetError, naming file, line and key, if it is not understood.
    """
    path, label = locate(file)
    tree = read_yaml(path, label)
    for text in overrides:
        tree = override(tree, text)
    settings, origins = complete(tree)
    folder = label.removesuffix(Path(label).name)
    told = {leaf: COMMAND_LINE if origin.startswith(OPTION) else
            origin.partition(f", {OPTION}")[0].removeprefix(folder) + f", {COMMAND_LINE}" * (f", {OPTION}" in origin)
            for leaf, origin in origins.items()}
    return Recipe(path.stem, path, label, settings, told)


def as_text(value: Any, operation: bool = False) -> str:
    """One line: Python's way to write it; an operation of a pipeline as its name and its arguments in JSON."""
    if operation and isinstance(value, dict):
        [(name, arguments)] = value.items()
        return name if arguments is None else f"{name} {json.dumps(arguments, ensure_ascii=False)}"
    text = str(value)
    return text if text.isprintable() else repr(value)


def _dig(settings: dict[str, Any], path: str) -> Any:
    value: Any = settings
    for name in path.split("."):
        value = value.get(name, UNSET) if isinstance(value, dict) else UNSET
    return value
