"""The sections of the page behind its stages, as plain values that a template writes out. What is empty is left out."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evaluation.comparison_report.pictures import Picture, differs, rank
from evaluation.comparison_report.stages import scale_of
from evaluation.comparison_report.verdict import CAUSES, KINDS
from evaluation.comparison_report.words import (
    NOTHING,
    both,
    cleaned,
    count,
    error,
    fixed,
    interval,
    listed,
    one_line,
    part,
    parts,
    percent,
    plain,
    real,
    seconds,
    sequence,
    signed,
    tolerance,
)

#: What a map's first pixels are worth telling, of those that decided.
SHOWN_PIXELS = 3


def causes(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each cause with the error before and after it was corrected, and both as places on one axis."""
    rows = parts(data, "causes")
    scale = scale_of(real(row.get(name)) for row in rows for name in ("before", "residual"))
    return [{"name": one_line(row.get("cause") or "unknown"), "what": one_line(row.get("what") or ""),
             "meaning": CAUSES.get(str(row.get("cause")), ""), "before": _left(row, "before"),
             "residual": _left(row, "residual"), "explained": bool(row.get("explained")), "said": _said(row),
             "from": scale.place(real(row.get("before"))), "to": scale.place(real(row.get("residual")))}
            for row in rows]


def _said(row: Mapping[str, Any]) -> str:
    """Whether it explains the error."""
    if row.get("explained"):
        return "yes"
    return "no" if row.get("cause") == "unknown" and row.get("before") == row.get("residual") else "not all of it"


def _left(row: Mapping[str, Any], name: str) -> str:
    """An error; one that JSON cannot hold says that sizes or values could not be compared."""
    return NOTHING if name not in row else "not comparable" if row[name] is None else error(row[name])


def images(data: Mapping[str, Any], pictures: Sequence[Picture]) -> dict[str, Any]:
    """cards: images with a picture, in the pictures' order. rows: all images, worst first. told: how many differ."""
    found = {name: part(row) for name, row in part(data, "images").items()}
    ordered = sorted(found, key=lambda name: rank(found[name]), reverse=True)
    told = parts(part(data, "boxes"), "differences")
    cards = []
    for picture in pictures:
        row = found.get(picture.image or "", {})
        mine = [_difference(each) for each in told if picture.image is not None and each.get("image") == picture.image]
        cards.append({"picture": picture, "row": _image(picture.image, row) if row else None, "boxes": mine[:3],
                      "more": max(0, len(mine) - 3)})
    return {"cards": cards, "rows": [_image(name, found[name]) for name in ordered],
            "told": _how_many(sum(map(differs, found.values())), len(found)), "in_all": len(found),
            "maps": [_maps(row) for row in parts(data, "maps")]}


def _how_many(differing: int, in_all: int) -> str:
    if in_all == 1:
        return "The image differs" if differing else "The image does not differ"
    verb = "differs" if differing < 2 else "differ"
    return f"{f'{differing:,}' if differing else 'None'} of {in_all:,} images {verb}"


def _image(name: str | None, row: Mapping[str, Any]) -> dict[str, Any]:
    boxes = part(row, "boxes")
    sizes = [[plain(side) for side in size] for size in sequence(row, "sizes") if isinstance(size, (list, tuple))]
    return {"name": one_line(name), "differs": differs(row), "max_abs": error(row.get("max_abs")),
            "mean_abs": error(row.get("mean_abs")),
            "cells": [plain(boxes.get(key)) for key in ("a", "b", "identical", *KINDS)],
            "shift": plain(boxes.get("max_shift"), 1),
            "sizes": "" if len(sizes) != 2 or sizes[0] == sizes[1] else
                     "maps " + " against ".join(" x ".join(reversed(size)) for size in sizes),
            "counts": ", ".join(f"{count(boxes.get(kind)):,} {kind}" for kind in ("identical", *KINDS)
                                if count(boxes.get(kind)))}


def _maps(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"stage": one_line(row.get("stage") or "probability"), "max_abs": error(row.get("max_abs")),
            "mean_abs": error(row.get("mean_abs")), "tolerance": tolerance(row.get("tolerance")),
            "passed": bool(row.get("passed")), "other_sizes": count(row.get("other_sizes"))}


def differences(data: Mapping[str, Any]) -> dict[str, Any]:
    """rows: boxes that differ, worst first. left_out: how many more there are."""
    boxes = part(data, "boxes")
    rows = [_difference(row) for row in parts(boxes, "differences")]
    in_all = sum(count(boxes.get(kind)) for kind in KINDS)
    return {"rows": rows, "left_out": max(0, in_all - len(rows)), "in_all": in_all}


def _difference(row: Mapping[str, Any]) -> dict[str, Any]:
    shift = real(row.get("shift"))
    pixels = parts(row, "pixels")
    return {"image": one_line(row.get("image") or ""), "kind": one_line(row.get("kind") or ""),
            "shift": f"{shift:.1f} px" if shift else "", "why": one_line(row.get("why") or ""),
            "decided_by": one_line(row.get("decided_by") or ""),
            "at": _place(row.get("a")) or _place(row.get("b")),
            "scores": f"{fixed(row.get('score_a'))} → {fixed(row.get('score_b'))}"
                      if real(row.get("score_a")) is not None or real(row.get("score_b")) is not None else "",
            "pixels": [f"x {count(pixel.get('x'))} y {count(pixel.get('y'))}: {fixed(pixel.get('a'))} → "
                       f"{fixed(pixel.get('b'))}" for pixel in pixels[:SHOWN_PIXELS]]}


def _place(polygon: Any) -> str:
    """The middle of a polygon, in words."""
    points = [pair for point in polygon or () if None not in (pair := both(point))] \
        if isinstance(polygon, (list, tuple)) else []
    if not points:
        return ""
    x, y = (sum(float(pair[axis] or 0) for pair in points) / len(points) for axis in (0, 1))
    return f"x {x:.0f} y {y:.0f}"


def scores(data: Mapping[str, Any]) -> dict[str, Any]:
    """rows: one for each protocol."""
    told = part(data, "scores")
    found = {name: part(row) for name, row in part(told, "protocols").items()}
    scale = _even(row for row in found.values())
    return {"gt": one_line(told.get("gt") or ""), "images": plain(told.get("images")) if told.get("images") else "",
            "rows": [_score(name, row, scale) for name, row in found.items()]}


def _even(rows: Iterable[Mapping[str, Any]]) -> float:
    """Half the width of an axis around 0 on which all intervals and margins have a place."""
    ends: list[float] = []
    for row in rows:
        values = [*both(row.get("interval")), *both(row.get("interval_90")), real(part(row, "same_f").get("margin")),
                  real(part(row, "difference").get("fscore"))]
        ends += [abs(value) for value in values if value is not None]
    return 1.15 * max(ends, default=0.0)


def _score(name: str, row: Mapping[str, Any], half: float) -> dict[str, Any]:
    gap, test = part(row, "difference"), part(row, "same_f")

    def place(value: float | None) -> float | None:
        return None if value is None or not half else round(50 + 50 * value / half, 2)

    sides = [{"cells": [(fixed(part(row, side).get(key)), interval(part(row, side, "interval").get(key)))
                        for key in ("precision", "recall", "fscore")], "name": side.upper()} for side in "ab"]
    margin = real(test.get("margin"))
    p = real(test.get("p"))
    return {"name": one_line(name), "title": one_line(row.get("title") or ""), "sides": sides,
            "gap": [signed(gap.get(key)) for key in ("precision", "recall", "fscore")],
            "interval": interval(row.get("interval"), 5), "interval_90": interval(row.get("interval_90"), 5),
            "apart": plain(row.get("images_apart")) if row.get("images_apart") is not None else "",
            "plot": {"ends": [place(end) for end in both(row.get("interval_90") or row.get("interval"))],
                     "at": place(real(gap.get("fscore"))),
                     "margin": [place(-margin), place(margin)] if margin is not None else None} if half else None,
            "margin": f"±{margin:g}" if margin is not None else "", "verdict": one_line(test.get("verdict") or ""),
            "p": "" if p is None or test.get("verdict") == "different" else _p(p),
            "why": one_line(test.get("why") or ""), "note": one_line(row.get("note") or "")}


def _p(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}" if value < 0.99 else "p > 0.99"


def swap(data: Mapping[str, Any]) -> dict[str, Any]:
    """rows: the parts that were exchanged."""
    told = part(data, "swap")
    protocol = one_line(told.get("protocol") or "")
    return {"rows": [_exchanged(row) for row in parts(told, "parts")], "summary": one_line(told.get("summary") or ""),
            "total": [plain(told.get("total_boxes")), signed(told.get("total_fscore"))], "protocol": protocol,
            "scored": real(told.get("total_fscore")) is not None,
            "notes": [*_counted_by(data, protocol), *(one_line(line) for name in ("notes", "failed")
                                                      for line in sequence(told, name))]}


def _counted_by(data: Mapping[str, Any], protocol: str) -> list[str]:
    """Of several protocols, the one that the shares of F are of."""
    others = [one_line(name) for name in part(data, "scores", "protocols") if one_line(name) != protocol]
    return [f"F is by {protocol} here, not by {listed(others)}"] if protocol and others else []


def _exchanged(row: Mapping[str, Any]) -> dict[str, Any]:
    shares = {name: real(row.get(f"{name}_share")) for name in ("boxes", "fscore")}
    return {"part": one_line(row.get("part") or ""), "what": one_line(row.get("what") or ""),
            "boxes": plain(row.get("boxes"), 1), "fscore": signed(row.get("fscore")),
            "alone_boxes": plain(row.get("alone_boxes")), "alone_fscore": signed(row.get("alone_fscore")),
            "shares": {name: "" if share is None else percent(round(share, 4)) for name, share in shares.items()},
            "bars": {name: (min(100.0, round(100 * abs(share), 1)), share < 0) if share is not None else None
                     for name, share in shares.items()}}


def sides(data: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What A and B are, setting by setting. telling: the files and what differs; alike: all others."""
    told = [_side(part(data, name)) for name in "ab"]
    rows = [{"name": name, "a": told[0].get(name, NOTHING), "b": told[1].get(name, NOTHING),
             "differs": all(told) and told[0].get(name) != told[1].get(name)} for name in told[0] | told[1]]
    telling = [row for row in rows if row["differs"] or row["name"] in _SIDE.values() or not all(told)]
    return {"telling": telling, "alike": [row for row in rows if row not in telling]}


_SIDE = {"file": "file", "spec": "network", "runner": "runs on", "device": "device", "sha256": "sha256 of its weights",
         "origin": "origin"}
_PARTS = {"pixels": "pixels", "boxes": "box rule", "semantics": "network", "environment": "runtime"}


def _side(told: Mapping[str, Any]) -> dict[str, str]:
    found = {title: one_line(told[name]) for name, title in _SIDE.items() if told.get(name) is not None}
    for name, title in _PARTS.items():
        value = told.get(name)
        if isinstance(value, Mapping):
            found |= {f"{title}: {one_line(key)}": _value(each) for key, each in value.items() if each is not None}
        elif value is not None:
            found[title] = one_line(value)
    return found


def _value(value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(each) for each in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{one_line(key)} {_value(each)}" for key, each in value.items())
    return f"{value:g}" if isinstance(value, float) else one_line(value)


def command(data: Mapping[str, Any]) -> str:
    """The command line that made the comparison, as a shell takes it; empty where it is not known, or only its name."""
    words = [cleaned(str(word)) for word in sequence(data, "command")]
    return shlex.join(words) if len(words) > 1 else ""


def durations(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What took how long."""
    return [(one_line(name), seconds(value)) for name, value in part(data, "seconds").items()
            if real(value) is not None]


