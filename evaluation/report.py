"""What an evaluation found out, and its JSON: a documented format that other people's scripts read."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TextIO

from dbnet.sample import Detection
from evaluation.part import KEY, VARIANTS, Part, numbers, sweep_sums, variants_of
from evaluation.protocols import COLUMNS, Result, Score, intervals
from evaluation.store import plain

SWEEP_NOTE = ("The best of these settings is chosen on the images that it is scored on: not a result to compare with "
              "others.")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """results: by protocol. detections: by the image's file name, in the samples' order; those of a model are read from
    disk when asked for. sweep: the settings that vary, and the results under them. versions: of everything that can
    move a score, the runner's environment under `runner`. settings: what was chosen. resumed: how many images were
    taken over from an interrupted run. part: which part of a whole this is, None of a whole.
    """

    results: dict[str, Result]
    detections: Mapping[str, list[Detection]]
    sweep: list[tuple[dict[str, Any], dict[str, Result]]]
    versions: dict[str, Any]
    settings: dict[str, Any]
    resumed: int = 0
    part: Part | None = None

    @property
    def scores(self) -> dict[str, Score]:
        """By protocol."""
        return {name: result.score for name, result in self.results.items()}

    @cached_property
    def intervals(self) -> dict[str, dict[str, tuple[float, float]]]:
        """By protocol, as `Result.interval` has it."""
        return dict(zip(self.results, intervals(list(self.results.values())), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain values: scores, protocols, images (name -> detections in pixels, counts), sweep, versions, settings; of
        a part also what a merge needs (`evaluation.part`).

        Holds everything in memory; `write_json` does not.
        """
        parts = self._parts()
        return {**parts, "images": dict(self._images())}

    def to_json(self) -> str:
        """`to_dict` as text."""
        stream = io.StringIO()
        self.write_json(stream)
        return stream.getvalue()

    def write_json(self, stream: TextIO) -> None:
        """Writes `to_dict` as text, with one image in memory at a time."""
        separator = "{\n "
        for name, value in self._parts().items():
            stream.write(f"{separator}{json.dumps(name)}: ")
            separator = ",\n "
            if name != "images":
                stream.write(json.dumps(value, indent=1, allow_nan=False).replace("\n", "\n "))
                continue
            between = "{\n  "
            for image, found in self._images():
                stream.write(f"{between}{json.dumps(image)}: {json.dumps(found, allow_nan=False)}")
                between = ",\n  "
            stream.write("\n }")
        stream.write("\n}\n")

    def _parts(self) -> dict[str, Any]:
        """`to_dict` without the images, but with a place for them."""
        parts: dict[str, Any] = {
            "scores": _scores(self.results),
            "protocols": {name: _protocol(result, self.intervals[name]) for name, result in self.results.items()},
            "images": {}}
        if self.sweep:
            parts["sweep"] = {"note": SWEEP_NOTE, "settings": [
                {"values": values, "scores": _scores(results)} for values, results in self.sweep]}
        parts |= {"versions": self.versions, "settings": self.settings}
        if self.part is not None:
            sums = [sweep_sums(results) for _, results in self.sweep]
            parts[KEY] = self.part.to_dict() | {VARIANTS: variants_of(self.results)} | ({"sweep": sums} if sums else {})
        return parts

    def _images(self) -> Iterator[tuple[str, dict[str, Any]]]:
        tables = {name: result.per_image for name, result in self.results.items()}
        several = {} if self.part is None else {name: self.results[name].counts for name in variants_of(self.results)}
        for i, (image, found) in enumerate(self.detections.items()):
            told = {"detections": [plain(detection) for detection in found],
                    "counts": {name: _counts(table[i]) for name, table in tables.items()}}
            yield image, told | ({VARIANTS: {name: numbers(table[i]) for name, table in several.items()}} if several
                                 else {})


def _scores(results: Mapping[str, Result]) -> dict[str, dict[str, float]]:
    return {name: asdict(result.score) for name, result in results.items()}


def _protocol(result: Result, interval: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    protocol = result.protocol
    told: dict[str, Any] = {"title": protocol.title, "thresholds": dict(protocol.thresholds)}
    if len(protocol.variants) > 1:
        told["variant"] = protocol.variants[result.best]
    return told | {"interval95": {name: list(ends) for name, ends in interval.items()}}


def _counts(row: Any) -> dict[str, float]:
    values = (float(value) for value in row)
    return {name: int(value) if value.is_integer() else value for name, value in zip(COLUMNS, values, strict=True)}
