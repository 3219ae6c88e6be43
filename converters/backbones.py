"""Files of a backbone alone, as torchvision and MindCV publish them; and the backbone in any other file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters.check import weight_map
from converters.dialects import DIALECTS
from converters.tensor_file import Weights
from dbnet.parameters import parameters
from dbnet.spec import SPECS, ModelSpec

BACKBONE = "backbone."
#: What may stand before the names of a backbone's own file: torchvision's and MindCV's have none.
_PREFIXES = ("", "backbone.", "module.", "model.", "encoder.", "model.backbone.", "module.backbone.")
#: Whose names they are, if the file is of a backbone alone.
_PROJECTS = {"mindocr": "MindCV", "mindocr_enhance": "MindOCR", "torch": "torchvision", "mhliao": "torchvision",
             "mmocr": "torchvision", "mmocr0": "torchvision", "paddle": "PaddleOCR"}


@dataclass(frozen=True)
class Backbone:
    """dialect: whose names. spec: one whose backbone it is. weights: canonical names. semantics: what a bare file of
    the dialect means by them. rest: the file's names that are no part of it.
    """

    dialect: str
    spec: ModelSpec
    weights: Weights
    semantics: Mapping[str, Any]
    rest: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Every parameter of the backbone is there."""
        return all(p.name in self.weights for p in parameters(self.spec) if p.path.startswith(BACKBONE))

    def describe(self) -> str:
        """`ResNet-18 in torchvision's names`."""
        name = self.spec.backbone.replace("resnet", "ResNet-").replace("mobilenetv3", "MobileNetV3 x0.5")
        return f"{name} in {_PROJECTS[self.dialect]}'s names"


def find_backbone(tensors: Mapping[str, np.ndarray], spec: ModelSpec) -> Backbone:
    """The best fit of the backbone of `spec` under any project's names, whatever else the file holds."""
    best = Backbone("torch", spec, {}, {})
    for dialect in DIALECTS.values():
        if spec.name not in dialect.specs:
            continue
        entries = [e for e in weight_map(dialect.name, spec).entries if e.foreign.startswith(BACKBONE)]
        for prefix in _PREFIXES:
            names = {prefix + e.foreign.removeprefix(BACKBONE): e for e in entries}
            found = {e.parameter.name: e.to_canonical(tensors[name]) for name, e in names.items()
                     if name in tensors and tensors[name].shape == e.foreign_shape}
            if len(found) > len(best.weights):
                semantics = {**dialect.semantics, **dialect.variant(spec).semantics}
                best = Backbone(dialect.name, spec, found, semantics, [name for name in tensors if name not in names])
    return best


def backbone_alone(tensors: Mapping[str, np.ndarray]) -> Backbone | None:
    """The backbone, if the file holds a whole one and no neck or head: beside it there is at most a classifier."""
    seen = set()
    for spec in SPECS.values():
        shapes = tuple((p.name, p.shape) for p in parameters(spec) if p.path.startswith(BACKBONE))
        if shapes in seen:
            continue
        seen.add(shapes)
        found = find_backbone(tensors, spec)
        heads = [name for name in found.rest if any(part in name.split(".") for part in ("neck", "decoder", "fpn"))]
        if found.complete and not heads and len(found.rest) <= len(found.weights):
            return found
    return None
