"""Pixel formats by name, as users say them: `--pixels paddle`, `--pixels mhliao,size=1024x1024`, `--pixels size=640`.

Also what is known of a model whose network is not: the pixels that go in and the boxes that come out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, get_args

from dbnet.errors import DbnetError
from dbnet.spec import (
    MHLIAO_BOXES,
    MHLIAO_PIXELS,
    MINDOCR_BOXES,
    MINDOCR_PIXELS,
    MINDOCR_PP_PIXELS,
    MMOCR_BOXES,
    MMOCR_PIXELS,
    PADDLE_BOXES,
    PADDLE_PIXELS,
    PADDLE_PP_PIXELS,
    STRIDE,
    BoxRule,
    Colour,
    ModelSpec,
    PixelFormat,
    ResizeRule,
)


@dataclass(frozen=True)
class OpaqueSpec:
    """A model that runs as it is, without anybody knowing what network it is; beside `ModelSpec` in a runner.

    output: of the model, its probability map. sigmoid: whether that output holds logits, so that a sigmoid follows.
    """

    pixels: PixelFormat
    boxes: BoxRule
    output: str
    sigmoid: bool
    name: str = "opaque"

    def semantics(self) -> dict[str, Any]:
        """What decides the numbers beside the model itself, plain values."""
        return {"output": self.output, "sigmoid": self.sigmoid}


#: What a runner says of its model.
AnySpec = ModelSpec | OpaqueSpec
S = TypeVar("S", ModelSpec, OpaqueSpec, AnySpec)

#: Whose pixels and boxes: of the recipes for ICDAR 2015 where a project has several, `_pp` those of its DBNet++.
FAMILIES: dict[str, tuple[PixelFormat, BoxRule]] = {
    "mindocr": (MINDOCR_PIXELS, MINDOCR_BOXES),
    "mindocr_pp": (MINDOCR_PP_PIXELS, MINDOCR_BOXES),
    "paddle": (PADDLE_PIXELS, PADDLE_BOXES),
    "paddle_pp": (PADDLE_PP_PIXELS, PADDLE_BOXES),
    "mhliao": (MHLIAO_PIXELS, MHLIAO_BOXES),
    "mmocr": (MMOCR_PIXELS, MMOCR_BOXES),
}
#: Why two pixel formats give one network other numbers: fields of PixelFormat that belong together.
PIXEL_PARTS: dict[str, tuple[str, ...]] = {
    "resize_rule": ("resize", "size", "ignore_orientation"), "color_order": ("colour",),
    "normalization": ("mean", "std"),
}
#: For error messages.
CHOICES = ", ".join(FAMILIES)
#: Pixels on a side.
MAX_SIDE = 2**14
#: Resize rules that give exactly `size`, and those that give one side of it, as they stand.
EXACT = ("stretch", "keep_ratio_pad")
_AS_THEY_STAND = (*EXACT, "short_side")


@dataclass(frozen=True)
class PixelChoice:
    """What a user says of the pixels. family: of `FAMILIES`, None for the model's own; changes: fields of PixelFormat.
    """

    text: str
    family: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    def of(self, spec: S) -> S:
        """`spec` with these pixels, and under a family's name with its boxes. Raises DbnetError for a bad size."""
        pixels, boxes = FAMILIES[self.family] if self.family else (spec.pixels, spec.boxes)
        pixels = replace(pixels, **self.changes)
        _check_size(pixels, self.text)
        return replace(spec, pixels=pixels, boxes=boxes)


def pixel_choice(text: str) -> PixelChoice:
    """Reads `NAME`, `NAME,key=value,...` or `key=value,...`; keys are the fields of PixelFormat.

    colour RGB or BGR; mean and std three numbers with / between them, in units of 0..255, in the order of the channels;
    resize a rule's name; size HEIGHTxWIDTH or one number; ignore_orientation true or false. Raises DbnetError.
    """
    family, changes = None, {}
    for i, part in enumerate(text.split(",")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals and i == 0 and name.lower() in FAMILIES:
            family = name.lower()
        elif not equals or name not in _READERS:
            what = "" if not equals else f"; the keys are {', '.join(_READERS)}"
            raise DbnetError(f"unknown pixels {text!r}: write NAME[,key=value...], NAME one of {CHOICES}{what}")
        elif name in changes:
            raise DbnetError(f"pixels {text!r} say {name} twice")
        else:
            try:
                changes[name] = _READERS[name](value)
            except ValueError as error:
                raise DbnetError(f"pixels {text!r}: {name} cannot be {value!r}; {error}") from error
    choice = PixelChoice(text, family, changes)
    if family:
        choice.of(OpaqueSpec(*FAMILIES[family], "", False))  # for its errors
    return choice


def as_choice(pixels: PixelFormat) -> str:
    """What a user writes for exactly these pixels, whatever the model's own are."""
    mean, std = ("/".join(map(repr, values)) for values in (pixels.mean, pixels.std))
    return (f"colour={pixels.colour},mean={mean},std={std},resize={pixels.resize},size={pixels.size[0]}x"
            f"{pixels.size[1]},ignore_orientation={'true' if pixels.ignore_orientation else 'false'}")


def told(pixels: PixelFormat) -> str:
    """For people, in one phrase."""
    stored = " as stored" if pixels.ignore_orientation else ""
    return f"{pixels.colour} {pixels.resize} {pixels.size}{stored}"


def pixel_causes(candidate: PixelFormat, reference: PixelFormat) -> list[tuple[str, str, PixelFormat]]:
    """(cause, in words, the candidate's pixels mended of it and of those before), for all in which two formats differ.
    """
    found = []
    for cause, names in PIXEL_PARTS.items():
        right = {name: getattr(reference, name) for name in names}
        wrong = [f"{name} is {getattr(candidate, name)}, not {value}" for name, value in right.items()
                 if getattr(candidate, name) != value]
        if wrong:
            candidate = replace(candidate, **right)
            found.append((cause, "; ".join(wrong), candidate))
    return found


def _check_size(pixels: PixelFormat, text: str) -> None:
    bad = [side for side in pixels.size if side % STRIDE]
    if bad and pixels.resize in _AS_THEY_STAND:
        raise DbnetError(f"pixels {text!r}: the size {pixels.size[0]}x{pixels.size[1]} must be of multiples of "
                         f"{STRIDE} for {pixels.resize}")


# Values. Each raises ValueError, whose message says what it takes.


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        for choice in choices:
            if text.lower() == choice.lower():
                return choice
        raise ValueError(f"choose from {', '.join(choices)}")

    return read


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and 0 < int(side) <= MAX_SIDE for side in sides):
        raise ValueError(f"write HEIGHTxWIDTH, pixels from 1 to {MAX_SIDE}")
    return int(sides[0]), int(sides[-1])


def _three(text: str) -> tuple[float, float, float]:
    wanted = "write three numbers in units of 0..255 with / between them, e.g. 123.675/116.28/103.53"
    try:
        first, second, third = map(float, text.split("/"))
    except ValueError as error:
        raise ValueError(wanted) from error
    if not all(math.isfinite(value) and abs(value) <= 1e6 for value in (first, second, third)):
        raise ValueError(wanted)
    if 0 < max(first, second, third) < 1:
        raise ValueError("units are those of 0..255, so multiply by 255")
    return first, second, third


def _std(text: str) -> tuple[float, float, float]:
    values = _three(text)
    if not min(values) > 0:
        raise ValueError("nothing is divided by 0 or less")
    return values


_READERS: dict[str, Callable[[str], Any]] = {
    "colour": _one_of(get_args(Colour)), "mean": _three, "std": _std, "resize": _one_of(get_args(ResizeRule)),
    "size": _size, "ignore_orientation": lambda text: _one_of(("false", "true"))(text) == "true",
}
