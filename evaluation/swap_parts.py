"""In which parts the ways of two models differ, from an image to a score, and all mixtures of the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dbnet.pixel_formats import EXACT, PIXEL_PARTS, AnySpec
from dbnet.spec import TRAINING_FIELDS, BoxRule, ModelSpec, PixelFormat
from evaluation.compare_maps import Side
from evaluation.runners import Runner

#: More parts than this have too many mixtures, 2 for each more: what makes boxes is one part then.
MOST_PARTS = 7
#: Fields of BoxRule that belong together.
BOX_PARTS: dict[str, tuple[str, ...]] = {
    "box_rule": ("rule", "box_type"), "binary_thresh": ("binary_thresh",), "box_thresh": ("box_thresh",),
    "unclip_ratio": ("unclip_ratio",), "max_candidates": ("max_candidates",), "score_mode": ("score_mode",),
    "dilation": ("dilation",),
}
#: Choices that only PaddleOCR's rule has: no other is mixed with them.
_OF_PADDLE = ("score_mode", "dilation")


@dataclass(frozen=True)
class Part:
    """What A may take over from B. what: how B's differs from A's, in words. pixels, boxes: fields of PixelFormat and
    BoxRule; network, protocol: whether these go over.
    """

    name: str
    what: str
    pixels: tuple[str, ...] = ()
    network: bool = False
    boxes: tuple[str, ...] = ()
    protocol: bool = False


@dataclass(frozen=True)
class Mixture:
    """One way from an image to a score. network, protocol: 0 for A's, 1 for B's."""

    pixels: PixelFormat
    network: int
    rule: BoxRule
    protocol: int


def parts_of(a: Side, b: Side, protocols: tuple[str, str] | None = None) -> tuple[list[Part], list[str]]:
    """All in which the two differ, in the order of the way from image to score, and what a user should know of it.

    protocols: by which A and B are scored, None if they are not. What cannot go over alone is one part with what it
    needs, its name joined by `+`.
    """
    pixels = [Part(name, words, pixels=fields) for name, fields in PIXEL_PARTS.items()
              if (words := _changed(a.runner.spec.pixels, b.runner.spec.pixels, fields))]
    words = _networks_told(a.runner, b.runner)
    network = [Part("network", words, network=True)] if words else []
    boxes, notes = _box_parts(a.rule, b.rule)
    fixed = [side for side, runner, other in (("A", a.runner, b.runner), ("B", b.runner, a.runner))
             if not _takes(runner, other.spec.pixels)]
    if fixed and network and pixels and pixels[0].name == "resize_rule":
        notes.append(f"resize_rule and network go over together, for {' and '.join(fixed)} takes images of one size "
                     f"only" if len(fixed) == 1 else
                     "resize_rule and network go over together, for A and B each take images of one size only")
        pixels, network = pixels[1:], [_joined([pixels[0], *network])]
    scored = [Part("protocol", f"protocol is {protocols[1]}, not {protocols[0]}", protocol=True)
              ] if protocols and protocols[0] != protocols[1] else []
    if len(pixels + network + boxes + scored) > MOST_PARTS:
        notes.append(f"too many parts differ for all their mixtures, so these go over together as box_settings: "
                     f"{', '.join(part.name for part in boxes)}")
        boxes = [replace(_joined(boxes), name="box_settings")]
    return pixels + network + boxes + scored, notes


def mixtures(a: Side, b: Side, parts: Sequence[Part]) -> list[Mixture]:
    """A with any of B's parts; bit i of a place says whether part i is B's. The first is A, the last is B."""
    found = []
    for mask in range(1 << len(parts)):
        taken = [part for i, part in enumerate(parts) if mask & 1 << i]
        pixels = {name: getattr(b.runner.spec.pixels, name) for part in taken for name in part.pixels}
        boxes = {name: getattr(b.rule, name) for part in taken for name in part.boxes}
        found.append(Mixture(replace(a.runner.spec.pixels, **pixels), int(any(part.network for part in taken)),
                             replace(a.rule, **boxes), int(any(part.protocol for part in taken))))
    return found


def _box_parts(a: BoxRule, b: BoxRule) -> tuple[list[Part], list[str]]:
    parts = [Part(name, words, boxes=fields) for name, fields in BOX_PARTS.items()
             if (words := _changed(a, b, fields))]
    bound = [part for part in parts if part.name in _OF_PADDLE]
    if a.rule == b.rule or not bound:
        return parts, []
    note = f"{' and '.join(part.name for part in bound)} and box_rule go over together, for only paddle's rule has them"
    return [_joined([parts[0], *bound]), *(part for part in parts[1:] if part not in bound)], [note]


def _joined(parts: Sequence[Part]) -> Part:
    return Part("+".join(part.name for part in parts), "; ".join(part.what for part in parts),
                tuple(name for part in parts for name in part.pixels), any(part.network for part in parts),
                tuple(name for part in parts for name in part.boxes))


def _takes(runner: Runner, pixels: PixelFormat) -> bool:
    """Whether a network may take images of that format; False where its file takes one size and the format gives
    others, or may.
    """
    fixed = getattr(runner, "shape", (None,) * 4)[2:]
    if not any(fixed):
        return True
    return pixels.resize in EXACT and all(want in (None, side) for want, side in zip(fixed, pixels.size, strict=True))


# In words -------------------------------------------------------------------------------------------------------------


def _changed(a: PixelFormat | BoxRule, b: PixelFormat | BoxRule, fields: Sequence[str]) -> str:
    """Empty where these fields are the same."""
    return _told({name: getattr(a, name) for name in fields}, {name: getattr(b, name) for name in fields})


def _told(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} is {b.get(name)}, not {a.get(name)}" for name in {**a, **b} if a.get(name) != b.get(name))


def _networks_told(a: Runner, b: Runner) -> str:
    """How the network of B differs, or the runtime that it runs in; empty for the same."""
    if a is b:
        return ""
    told = [_models_told(a, b), _told(_semantics(a.spec), _semantics(b.spec))]
    places = [f"in {runner.name} on {runner.device}" for runner in (a, b)]
    told.append(f"runs {places[1]}, not {places[0]}" if places[0] != places[1] else
                _told(a.environment(), b.environment()))
    return "; ".join(filter(None, told))


def _models_told(a: Runner, b: Runner) -> str:
    """Whether they are of the same weights. A digest is of weights, or of a file that runs as it is: only those of one
    kind tell two models apart.
    """
    files, weights = ([str(getattr(runner, name, None) or "") for runner in (a, b)]
                      for name in ("digest", "weights_digest"))
    if all(files) and files[0] == files[1]:
        return ""
    if all(weights) and weights[0] == weights[1]:
        return "the same weights, run by another graph"
    ours, theirs = weights if any(weights) else files
    if not (ours and theirs):
        return "another file, and whether its weights are the same is not known"
    return f"another model (sha256 {theirs[:12]}, not {ours[:12]})"


def _semantics(spec: AnySpec) -> dict[str, Any]:
    """What decides the probability map."""
    if not isinstance(spec, ModelSpec):
        return spec.semantics()
    return {name: value for name, value in spec.relevant_semantics().items() if name not in TRAINING_FIELDS}
