"""The labelled images of a recipe: those to train on, and those to validate on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dbnet.datasets import synthtext
from dbnet.datasets.prepared import load_prepared
from dbnet.errors import DbnetError
from dbnet.recipe import Data, Recipe
from dbnet.sample import Sample, Samples


class Joined(Samples):
    """Chosen samples of several sets, one set after the other, taken from them when they are asked for.

    chosen: for each set the places in it, in order.
    """

    def __init__(self, sets: Sequence[Sequence[Sample]], chosen: Sequence[np.ndarray]):
        self._sets, self._chosen = sets, chosen
        self._ends = np.cumsum([len(places) for places in chosen])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def at(self, index: int) -> Sample:
        part = int(np.searchsorted(self._ends, index, side="right"))
        places = self._chosen[part]
        return self._sets[part][int(places[index - (self._ends[part] - len(places))])]


def training_samples(recipe: Recipe, seed: int) -> Sequence[Sample]:
    """Of all label files of `train.dataset`. Of each the part that `sample_ratio` leaves, drawn at random by the seed;
    with `train.dataset.shuffle: False` the first part.

    Raises DbnetError if there are no images, or not all that the labels name.
    """
    path = "train.dataset"
    load = synthtext.load if recipe.get(f"{path}.type") == "SynthTextDataset" else load_prepared
    sets: list[Sequence[Sample]] = []
    chosen = []
    for number, data in enumerate(recipe.data("train")):
        _check_there(recipe, path, data)
        found: Sequence[Sample] = load(data.label_file, data.images)
        count = round(len(found) * data.ratio)
        places = np.arange(len(found))
        if count < len(found) and recipe.get(f"{path}.shuffle", True):
            places = np.sort(np.random.default_rng([seed, number]).permutation(places)[:count])
        sets.append(found)
        chosen.append(places[:count])
    samples = Joined(sets, chosen)
    if not len(samples):
        files = ", ".join(str(data.label_file) for data in recipe.data("train"))
        raise DbnetError(f"{recipe.where(f'{path}.label_file')}: {files}: no images to train on"
                         + (f"; sample_ratio leaves none of {sum(map(len, sets))}" if any(map(len, sets)) else ""))
    return samples


def validation_samples(recipe: Recipe) -> list[Sample]:
    """Of all label files of `eval.dataset`, of each the first part that `sample_ratio` leaves, as in MindOCR.

    Raises DbnetError if there are no images, or not all that the labels name.
    """
    path, hint = "eval.dataset", "or train without: -o system.val_while_train=False"
    kind = recipe.get(f"{path}.type")
    if kind != "DetDataset":
        raise DbnetError(f"{recipe.where(f'{path}.type')}: {kind} is not evaluated, only DetDataset; {hint}")
    samples: list[Sample] = []
    try:
        parts = recipe.data("eval")
        for data in parts:
            _check_there(recipe, path, data)
            found = load_prepared(data.label_file, data.images)
            samples += found[:round(len(found) * data.ratio)]
    except DbnetError as error:
        raise DbnetError(f"{error}; {hint}") from error
    if not samples:
        raise DbnetError(f"{recipe.where(f'{path}.label_file')}: no images to evaluate; {hint}")
    return samples


def _check_there(recipe: Recipe, path: str, data: Data) -> None:
    for what, found in (("data_dir", data.images), ("label_file", data.label_file)):
        if not found.exists():
            raise DbnetError(f"{recipe.where(f'{path}.{what}')}: {found}: not found{_beside(found)}; --root or "
                             f"-o {path}.dataset_root=... names the folder above it")


def _beside(path: Path) -> str:
    """The text files that do lie there: a set may have its labels under another name."""
    names = sorted(file.name for file in path.parent.glob("*.txt"))[:5] if path.suffix == ".txt" else []
    return f" ({path.parent} has {', '.join(names)})" if names else ""
