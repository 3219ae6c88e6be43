"""What `dbnet bench` is told: lists of runners, shapes and batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import click

from dbnet.runner_names import RunnerNameError, parse_runner
from dbnet.spec import STRIDE

T = TypeVar("T")

#: Pixels on a side: no network here is run on more.
MAX_SIDE = 2**13
#: Images of a batch.
MAX_BATCH = 1024
OWN_SHAPE = "own"


def _items(given: Sequence[str]) -> list[str]:
    """`a,b` and repeated options as one list. A usage error for nothing between two commas."""
    items = [item.strip() for text in given for item in text.split(",")]
    if "" in items:
        raise click.BadParameter(f"{','.join(given)!r}: something is missing between two commas")
    return items


def _once(items: Sequence[T], told: Sequence[str]) -> tuple[T, ...]:
    """A usage error for an item that is there twice. told: each, for people."""
    for i, item in enumerate(items):
        if item in items[:i]:
            raise click.BadParameter(f"{told[i]} is given twice")
    return tuple(items)


def runner_list(_context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    """The interpreters' paths become absolute."""
    try:
        names = [str(parse_runner(item)) for item in _items(given)]
    except RunnerNameError as error:
        raise click.BadParameter(str(error)) from error
    return _once(names, names)


def shape_list(_context: click.Context, _parameter: click.Parameter,
            given: Sequence[str]) -> tuple[tuple[int, int] | None, ...]:
    items = _items(given)
    return _once([_shape(item) for item in items], items) or (None,)


def _shape(text: str) -> tuple[int, int] | None:
    if text == OWN_SHAPE:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and len(side) < 6 for side in sides):
        raise click.BadParameter(f"{text!r}: write HEIGHTxWIDTH in pixels, such as 736x1280, or {OWN_SHAPE}")
    height, width = map(int, sides)
    if not all(0 < side <= MAX_SIDE for side in (height, width)):
        raise click.BadParameter(f"{text}: sides are from {STRIDE} to {MAX_SIDE} pixels")
    if height % STRIDE or width % STRIDE:
        near = "x".join(str(max(STRIDE, round(side / STRIDE) * STRIDE)) for side in (height, width))
        raise click.BadParameter(f"{text}: sides must be multiples of {STRIDE}; the nearest is {near}")
    return height, width


def batch_list(_context: click.Context, _parameter: click.Parameter, given: Sequence[str]) -> tuple[int, ...]:
    items = _items(given)
    for item in items:
        if not (item.isascii() and item.isdigit() and 0 < int(item) <= MAX_BATCH):
            raise click.BadParameter(f"{item!r}: a batch is a number of images from 1 to {MAX_BATCH}")
    return _once(list(map(int, items)), items) or (1,)
