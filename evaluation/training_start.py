"""What a training begins with: weights from a file, as far as they fit, and the rest drawn from the seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converters.backbones import BACKBONE, find_backbone
from converters.check import identify, listed, require_finite
from converters.formats import read_file
from converters.load import SourceOptions, load_model, record_of, require_sound
from converters.tensor_file import Weights
from dbnet.errors import DbnetError
from dbnet.initial import initial_weights
from dbnet.parameters import parameters
from dbnet.published import file_at
from dbnet.spec import TRAINING_FIELDS, ModelSpec, with_semantics

if TYPE_CHECKING:
    from dbnet.recipe import Recipe



@dataclass(frozen=True)
class Origin:
    """path: the file. where: which setting names it, for messages. backbone_only: nothing else is to be taken."""

    path: Path
    where: str
    backbone_only: bool = False


def origin_of_weights(recipe: Recipe, given: Path | None) -> Origin | None:
    """The file to begin with: `given`, or model.pretrained, or model.backbone.pretrained; None to draw all weights.

    Raises DbnetError if the recipe asks for weights that are not there.
    """
    if given is not None:
        return Origin(given, "--pretrained")
    for path, off in (("model.pretrained", "null"), ("model.backbone.pretrained", "False")):
        value = recipe.get(path, None)
        if not value:
            continue
        where, end = recipe.where(path), f"-o {path}={off} to begin without"
        if value is True:
            raise DbnetError(f"{where}: True asks for ImageNet weights, which are not part of this package; give a "
                             f"file of them (torchvision's or MindCV's, or any detector): --pretrained FILE, or {end}")
        if "://" in value:
            get = f"dbnet fetch {file} gets it, then" if (file := file_at(value)) else "download it and"
            raise DbnetError(f"{where}: {value} is an address, and nothing is fetched here; {get} give --pretrained "
                             f"FILE, or {end}")
        return Origin(Path(value), recipe.where(path), path != "model.pretrained")
    return None


def start_weights(spec: ModelSpec, origin: Origin | None, seed: int) -> tuple[Weights, list[str]]:
    """All parameters of the spec, float32, and what was taken and drawn, a line each.

    Raises DbnetError if the file is not one of weights, or does not hold the whole backbone.
    """
    drawn = initial_weights(spec, seed)
    if origin is None:
        return drawn, [f"start: all weights drawn from seed {seed}"]
    found, notes = _found(spec, origin)
    shapes = {p.name: p.shape for p in parameters(spec)}
    taken = {name: np.array(array, np.float32, order="C") for name, array in found.items()
             if array.shape == shapes.get(name) and (name.startswith(BACKBONE) or not origin.backbone_only)}
    lacking = [name for name in shapes if name.startswith(BACKBONE) and name not in taken]
    if lacking:
        raise DbnetError(f"{origin.path} ({origin.where}): does not fit the backbone of {spec.name}: {len(lacking)} of "
                         f"its tensors are missing or of another shape ({listed(lacking)}); give another file")
    rest = Counter(part_of(name) for name in shapes if name not in taken)
    notes.insert(0, f"start: {len(taken)} of {len(shapes)} tensors from {origin.path} ({origin.where})" + (
        f", drawn from seed {seed}: {', '.join(f'{part} ({count})' for part, count in rest.items())}" if rest else ""))
    return drawn | taken, notes


def part_of(name: str) -> str:
    """Of a canonical name: backbone, neck, neck.fuse, head.segm, head.thresh."""
    first, second = name.split(".")[:2]
    return f"{first}.{second}" if first == "head" or second == "fuse" else first


def _found(spec: ModelSpec, origin: Origin) -> tuple[Weights, list[str]]:
    """What the file holds under canonical names, and notes."""
    file = read_file(origin.path)
    tensors = file.ema if file.ema is not None else file.tensors
    record = record_of(file, origin.path)
    notes = ["  its averaged weights (EMA) were taken"] if file.ema is not None and file.tensors else []
    if tensors and not identify(tensors, None, record.spec if record else None).problems:
        options = SourceOptions(take="ema" if file.ema is not None else "plain" if file.training else None)
        model = load_model(origin.path, options)
        require_sound(model)
        if model.unread is not None:
            notes.append(f"  taken by the names of its weights; its graph {model.unread}")
        return model.weights, notes + _differing(spec, model.record.spec)
    found = find_backbone(tensors, spec)
    require_finite(found.weights, str(origin.path))
    return found.weights, notes + _differing(spec, with_semantics(spec, dict(found.semantics)))


def _differing(spec: ModelSpec, found: ModelSpec) -> list[str]:
    """Weights of equal names that were trained to compute something else."""
    theirs = found.relevant_semantics()
    told = [f"{name} was {theirs[name]}, is {value}" for name, value in spec.relevant_semantics().items()
            if name in theirs and theirs[name] != value and name not in (*TRAINING_FIELDS, "fusion", "neck_channels")]
    if found.pixels.colour != spec.pixels.colour:
        told.append(f"pixels were {found.pixels.colour}, are {spec.pixels.colour}")
    return [f"  not quite the network they were trained in: {', '.join(told)}"] if told else []
