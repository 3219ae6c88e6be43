"""What an evaluation found out, and its JSON: a documented format that other people's scripts read."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from dbnet.sample import Detection
from evaluation.protocols import COLUMNS, Result, Score
from evaluation.store import plain

SWEEP_NOTE = ("The best of these settings is chosen on the images that it is scored on: not a result to compare with "
              "others.")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """results: by protocol. detections: by the image's file name, in the samples' order; those of a model are read from
    disk when asked for. sweep: the settings that vary, and the results under them. versions: of everything that can
    move a score, the runner's environment under `runner`. settings: what was chosen. resumed: how many images were
    taken over from an interrupted run.
    """

    results: dict[str, Result]
    detections: Mapping[str, list[Detection]]
    sweep: list[tuple[dict[str, Any], dict[str, Result]]]
    versions: dict[str, Any]
    settings: dict[str, Any]
    resumed: int = 0

    @property
    def scores(self) -> dict[str, Score]:
        """By protocol."""
        return {name: result.score for name, result in self.results.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values: scores, protocols, images (name -> detections in pixels, counts), sweep, versions, settings.

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
            "protocols": {name: _protocol(result) for name, result in self.results.items()},
            "images": {}}
        if self.sweep:
            parts["sweep"] = {"note": SWEEP_NOTE, "settings": [
                {"values": values, "scores": _scores(results)} for values, results in self.sweep]}
        return parts | {"versions": self.versions, "settings": self.settings}

    def _images(self) -> Iterator[tuple[str, dict[str, Any]]]:
        tables = {name: result.per_image for name, result in self.results.items()}
        for i, (image, found) in enumerate(self.detections.items()):
            yield image, {"detections": [plain(detection) for detection in found],
                          "counts": {name: _counts(table[i]) for name, table in tables.items()}}


def _scores(results: Mapping[str, Result]) -> dict[str, dict[str, float]]:
    return {name: asdict(result.score) for name, result in results.items()}


def _protocol(result: Result) -> dict[str, Any]:
    protocol = result.protocol
    told: dict[str, Any] = {"title": protocol.title, "thresholds": dict(protocol.thresholds)}
    if len(protocol.variants) > 1:
        told["variant"] = protocol.variants[result.best]
    return told | {"interval95": {name: list(ends) for name, ends in result.interval().items()}}


def _counts(row: Any) -> dict[str, float]:
    values = (float(value) for value in row)
    return {name: int(value) if value.is_integer() else value for name, value in zip(COLUMNS, values, strict=True)}
