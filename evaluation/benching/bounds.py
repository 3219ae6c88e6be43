"""Numbers that no measurement gives, and that no figure could be made of: told when a bundle is read."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from dbnet.errors import shown
from evaluation.benching.bundle_types import Bundle, Row, Seconds
from evaluation.benching.plain import BadBundleError, typed

#: Seconds of thirty years, and bytes of more than any machine has.
MOST_SECONDS, MOST_BYTES = 1e9, 1 << 60
#: What takes time whatever does it; of other parts nothing may be left, such as of a graph that a first run compiles.
_TAKES_TIME = ("network", "whole", "train_step")
#: What newer bundles' settings have.
_SETTINGS = {"asked_rounds": int, "interrupted": bool, "groups": list[list[int]]}


def check_numbers(bundle: Bundle) -> None:
    """Raises BadBundleError."""
    _within(bundle.made["seconds"], 0, MOST_SECONDS, "made.seconds")
    _within(bundle.machine["memory_bytes"], 0, MOST_BYTES, "machine.memory_bytes")
    _within(bundle.machine["cores"], 0, MOST_BYTES, "machine.cores")
    for name, kind in _SETTINGS.items():
        if name in bundle.settings:
            typed(kind, bundle.settings[name], f"settings.{name}")
    for i, row in enumerate(bundle.rows):
        _check_row(row, f"rows[{i}]")


def _check_row(row: Row, where: str) -> None:
    sides = [] if row.shape is None else row.shape
    if row.shape is not None and len(sides) != 2:
        raise BadBundleError(f"{where}.shape is {shown(row.shape, 40)}, no height and width")
    whole = [("batch", row.batch), ("cards", row.cards), *(("shape", side) for side in sides)]
    for name, number in [*whole, ("threads", 1 if row.threads is None else row.threads)]:
        _within(number, 1, MOST_BYTES, f"{where}.{name}")
    _within(row.peak_memory_bytes or 0, 0, MOST_BYTES, f"{where}.peak_memory_bytes")
    for each in fields(Seconds):
        at = f"{where}.seconds.{each.metadata.get('name', each.name)}"
        for one in getattr(row.seconds, each.name):
            for value in one if isinstance(one, list) else [one]:
                _within(value, 0, MOST_SECONDS, at)
                if value == 0 and each.name in _TAKES_TIME:
                    raise BadBundleError(f"{at}: nothing takes 0 seconds")
    if row.training is not None:
        _check_training(row.training, f"{where}.training")


def _check_training(training: dict[str, Any], where: str) -> None:
    for name, kind, most in (("first_step", float, MOST_SECONDS), ("peak_memory_bytes", int | None, MOST_BYTES)):
        _within(typed(kind, training.get(name, 0), f"{where}.{name}") or 0, 0, most, f"{where}.{name}")
    for side in typed(list[int], training.get("size", []), f"{where}.size"):
        _within(side, 1, MOST_BYTES, f"{where}.size")


def _within(value: float, least: float, most: float, where: str) -> None:
    if not least <= value <= most:
        raise BadBundleError(f"{where} is {shown(value, 40)}, which is not from {least} to {most:g}")
