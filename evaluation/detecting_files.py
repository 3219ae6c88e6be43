"""The forms in which detections are written: our JSON, the competition's text files, MindOCR's det_results.txt."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

import numpy as np

from dbnet.sample import Detection
from evaluation.detecting_inputs import same_stems, unique_stems
from evaluation.detecting_output import JSON, MINDOCR, ZIP, Growing, OutputFolder, Zip, unwritable
from evaluation.store import plain

log = logging.getLogger("dbnet")

#: What can be written, and what it is called in the folder.
KINDS = {"json": JSON, "txt": "submit/", "zip": ZIP, "mindocr": MINDOCR, "pictures": "pictures/", "crops": "crops/"}


@dataclass(eq=False)
class Outcome:
    """What one image gave: detections, and images to write, or why it failed. size: (height, width) in pixels.
    checksum: CRC-32 of its file. picture, crops: contents of image files, a crop for each detection.
    """

    detections: list[Detection] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    checksum: int = 0
    picture: bytes | None = None
    crops: list[bytes] = field(default_factory=list)
    error: str | None = None


class Sink(Protocol):
    """Where pieces of a file go. Methods raise OSError."""

    def append(self, piece: bytes) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...


class Pipe:
    """A sink that cannot be taken back: standard output, a pipe or a device."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream

    def append(self, piece: bytes) -> None:
        self._stream.write(piece)
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()

    def abandon(self) -> None:
        """What was written stays."""


def json_sink(path: Path) -> Sink:
    """A sink for --json FILE, which replaces an older file when it is closed. Raises DbnetError."""
    try:
        if path.exists() and not path.is_file():
            return Pipe(path.open("wb"))
        return Growing(path.resolve())
    except OSError as error:
        raise unwritable(path, error, "--json") from error


class Writer:
    """Writes what is wanted, image by image in the order of `names`. Methods raise OSError.

    folder: None where only `report`, a sink for the JSON, is written; with both, the JSON goes to `report`. kinds: of
    `KINDS`, for the folder. suffix: of pictures. settings: what the detections were made with, JSON values.
    kinds and notes are then what is written, and what a user should know of the names and of what stays. The files of
    an earlier run stay until the first image; then those of the same kinds are removed.
    """

    def __init__(self, folder: OutputFolder | None, kinds: Collection[str], names: Sequence[str], suffix: str,
                 settings: Mapping[str, Any], report: Sink | None = None):
        self._folder, self._names, self._suffix, self._begun = folder, names, suffix, False
        self._stems = unique_stems(names)
        clash = same_stems(names)
        self._apart = clash is None
        self.kinds = [kind for kind in KINDS if folder and kind in kinds and not (kind == "json" and report)]
        self.notes = []
        if clash and {"txt", "zip", "mindocr"} & set(self.kinds):
            self.kinds = [kind for kind in self.kinds if kind != "zip"]
            self.notes = [f"{clash[0]} and {clash[1]} differ by folder or suffix only, and submissions tell images "
                          f"apart by the rest of their names: submit/ keeps folders, and there is no {ZIP}"]
        self._replaced = [KINDS[kind].rstrip("/") for kind in kinds if folder and not (kind == "json" and report)]
        if folder:
            self._tell_kept(folder)
        self._json, self._mindocr, self._zip = report, None, None
        if folder:
            self._json = Growing(folder.listed(JSON)) if "json" in self.kinds else report
            self._mindocr = Growing(folder.listed(MINDOCR)) if "mindocr" in self.kinds else None
            self._zip = Zip(folder.listed(ZIP)) if "zip" in self.kinds else None
        if self._json:
            text = json.dumps({**settings, "images": {}}, indent=1, allow_nan=False)
            self._json.append(text[:-len("}\n}")].encode())

    def image(self, index: int, file: str, outcome: Outcome) -> None:
        """Writes all that one image gave. file: its path, as the user wrote it."""
        if self._folder and not self._begun:
            self._folder.replace(self._replaced)
        stem = self._stems[index]
        entry: dict[str, Any] = {"file": file, "width": outcome.size[1], "height": outcome.size[0],
                                 "crc32": outcome.checksum, "detections": list(map(plain, outcome.detections))}
        if self._folder:
            self._images(self._folder, entry, stem, outcome)
        outlines = [whole_pixels(detection.polygon) for detection in outcome.detections]
        lines = "".join(",".join(map(str, outline.ravel().tolist())) + "\r\n" for outline in outlines).encode()
        if self._folder and "txt" in self.kinds:
            self._folder.put(self._text_file(stem), lines)
        if self._mindocr:
            self._mindocr.append(self._mindocr_line(index, outlines))
        if self._zip:
            self._zip.add(f"res_{_printable(PurePosixPath(stem).name)}.txt", lines)
        if self._json:
            begin = ",\n  " if self._begun else "\n  "
            self._json.append(f"{begin}{json.dumps(self._names[index])}: {json.dumps(entry, allow_nan=False)}".encode())
        self._begun = True

    def _images(self, folder: OutputFolder, entry: dict[str, Any], stem: str, outcome: Outcome) -> None:
        """Writes the picture and the crops, and says in the JSON where."""
        if "pictures" in self.kinds and outcome.picture is not None:
            entry["picture"] = f"pictures/{stem}{self._suffix}"
            folder.put(entry["picture"], outcome.picture)
        if "crops" in self.kinds:
            for i, crop in enumerate(outcome.crops):
                entry["detections"][i]["crop"] = f"crops/{stem}_{i}{self._suffix}"
                folder.put(entry["detections"][i]["crop"], crop)

    def _text_file(self, stem: str) -> str:
        path = PurePosixPath(stem)
        return str("submit" / (PurePosixPath() if self._apart else path.parent) / f"res_{path.name}.txt")

    def _mindocr_line(self, index: int, outlines: Sequence[np.ndarray]) -> bytes:
        name = self._names[index].rpartition("/")[2] if self._apart else self._names[index]
        return f"{name}\t{json.dumps([outline.tolist() for outline in outlines])}\n".encode(errors="surrogateescape")

    def _tell_kept(self, folder: OutputFolder) -> None:
        kept = [name for name in KINDS.values()
                if name.rstrip("/") not in self._replaced and folder.holds_earlier([name.rstrip("/")])]
        if kept:
            self.notes = [*self.notes, f"{folder.path}: {', '.join(kept)} of an earlier run stay as they are"]

    def close(self, failed: Sequence[str], asked: int, stopped: str | None = None) -> None:
        """Gives every file its name. failed: one line for each image. stopped: why not all of `asked` are there.

        A file that cannot be brought to an end is removed; the others stay. Without any image, results of an earlier
        run stay, and nothing is written into the folder.
        """
        with contextlib.ExitStack() as stack:
            if self._folder:
                stack.callback(self._folder.release)
                if not self._begun and self._folder.holds_earlier(self._replaced):
                    self._keep(self._folder)
                elif not self._begun:
                    self._folder.replace(self._replaced)
            for sink in (self._mindocr, self._zip):
                if sink:
                    stack.callback(sink.close)
            if self._json:
                self._close_json(self._json, {"failed": list(failed), "asked": asked, "complete": stopped is None,
                                              "stopped": stopped})

    def _keep(self, folder: OutputFolder) -> None:
        log.warning("%s: nothing was detected, and the results of an earlier run stay as they were", folder.path)
        for sink in (self._json if "json" in self.kinds else None, self._mindocr, self._zip):
            if sink:
                sink.abandon()
        folder.keep()
        self._json, self._mindocr, self._zip = None if "json" in self.kinds else self._json, None, None
        self.kinds = []

    def _close_json(self, sink: Sink, last: dict[str, Any]) -> None:
        end = "\n }" if self._begun else "}"
        try:
            sink.append(f"{end},\n {json.dumps(last, indent=1)[3:]}\n".encode())
        except OSError:
            sink.abandon()
            raise
        sink.close()

    def abandon(self) -> None:
        """Instead of `close`: what is not whole is removed."""
        for sink in (self._json, self._mindocr, self._zip):
            if sink:
                sink.abandon()
        if self._folder:
            with contextlib.ExitStack() as stack:
                stack.callback(self._folder.release)
                if not self._begun:
                    self._folder.keep()


def whole_pixels(polygon: np.ndarray) -> np.ndarray:
    """(P, 2) int64, clockwise as seen: what the competition's script asks for.

    Of the rules only mmocr gives fractions and corners the other way round.
    """
    points = np.rint(np.asarray(polygon, np.float64)).astype(np.int64)
    x, y = points.T
    # The script's own sum over edges of (x2 - x1) (y2 + y1), which must be 0 or less.
    if np.sum((np.roll(x, -1) - x) * (np.roll(y, -1) + y)) > 0:
        points = np.roll(points[::-1], 1, axis=0)
    return points


def _printable(text: str) -> str:
    """A file's name as text, where it is not UTF-8."""
    return text.encode(errors="surrogateescape").decode(errors="replace")
