"""What an exported file takes and gives where that is not what its record says: one line of JSON that goes with it.

The record is that of the weights. A file made for a runtime may take that runtime's pixels, give logits in place of a
probability, or a map without N and C, or compute in float16; whatever opens such a file as it is asks here first.

Carriers: .onnx `metadata_props["dbnet.delivery"]`; .mindir `user_info["dbnet.delivery"]`; OpenVINO's .xml
`rt_info/dbnet/delivery` (the record beside it, and of the .bin the sha256).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from converters.formats import detect
from converters.mapped_file import MappedFile
from converters.onnx_wire import model_places
from converters.protobuf_wire import MalformedError
from dbnet.errors import DbnetError, short, shown
from dbnet.pixel_formats import S
from dbnet.record import RECORD_KEY, Record, read_fields
from dbnet.spec import BoxRule, PixelFormat

DELIVERY_KEY = "dbnet.delivery"
#: Of an .xml: the sha256 of the .bin that it was written with.
BIN_KEY = "dbnet.bin_sha256"
VERSION = 1
#: Of PixelFormat: what a front in the graph changes. How images come to their size is outside of every file.
_NORMALISED = ("colour", "mean", "std")
#: How `exported` begins.
EXPORTED = "exported for "
#: Bytes of the largest .xml that is read; DBNet++ with deformable convolutions taken apart has 2 MB.
LARGEST_XML = 1 << 26


@dataclass(frozen=True)
class DeliveryNote:
    """target: of `dbnet export`. pixels, boxes: what the file takes, and how its runtime makes boxes of its map.

    output: the name and kind of the file's only output; logits want a sigmoid. rank: 4 for (N, 1, H, W), 2 for (H, W).
    precision: `fp16` is float16 inside, float32 at both ends; keep_float32: the layers that it leaves out.
    """

    target: str
    pixels: PixelFormat
    boxes: BoxRule
    output: Literal["probability", "logits"] = "probability"
    rank: Literal[4, 2] = 4
    precision: Literal["float32", "fp16"] = "float32"
    keep_float32: tuple[str, ...] = field(default=())

    @property
    def logits(self) -> bool:
        return self.output == "logits"

    def of(self, spec: S) -> S:
        """The record's spec with the pixels and boxes of the file."""
        return replace(spec, pixels=self.pixels, boxes=self.boxes)

    def has_front(self, record_pixels: PixelFormat) -> bool:
        """Whether the file makes the network's pixels of others, so that it must be given these."""
        return any(getattr(self.pixels, name) != getattr(record_pixels, name) for name in _NORMALISED)

    def describe(self, record_pixels: PixelFormat) -> str:
        """For people, one phrase; empty where nothing is said that the record does not."""
        parts = []
        if self.has_front(record_pixels):
            parts.append(f"takes the pixels of {self.target}")
        elif self.pixels != record_pixels:
            height, width = self.pixels.size
            parts.append(f"takes images resized by {self.pixels.resize} with {height}x{width}")
        parts += ["gives logits"] * self.logits + ["gives a map (H, W)"] * (self.rank == 2)
        parts += ["computes in float16"] * (self.precision == "fp16")
        return ", ".join(parts)

    def to_json(self) -> str:
        """One line, keys sorted."""
        return json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> DeliveryNote:
        """Raises DbnetError if the text is no such note; `where` names the file. It came with it and is not trusted."""
        again = "export the model again"
        try:
            data = json.loads(text)
            if not isinstance(data, dict):
                raise TypeError("not an object")
            if data.get("version") != VERSION:
                raise DbnetError(f"{where}: its delivery note has version {shown(data.get('version'))}, this dbnet "
                                 f"reads {VERSION}; update dbnet-parity")
            note = cls(_one(data, "target", str), read_fields(PixelFormat, data["pixels"]),
                       read_fields(BoxRule, data["boxes"]), _of(data, "output", ("probability", "logits")),
                       _of(data, "rank", (4, 2)), _of(data, "precision", ("float32", "fp16")),
                       tuple(_one({"layer": name}, "layer", str) for name in _one(data, "keep_float32", list)))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise DbnetError(f"{where}: its delivery note is damaged ({type(error).__name__}: {short(error)}); "
                             f"{again}") from error
        return note


def _one(data: Mapping[str, Any], key: str, kind: type) -> Any:
    if type(data[key]) is not kind:
        raise TypeError(f"{key} is {shown(data[key])}")
    return data[key]


def _of(data: Mapping[str, Any], key: str, choices: tuple[Any, ...]) -> Any:
    if type(data[key]) not in (str, int) or data[key] not in choices:
        raise ValueError(f"{key} is {shown(data[key])}, none of {', '.join(map(str, choices))}")
    return data[key]


def read_delivery(path: Path) -> DeliveryNote | None:
    """The note of an .onnx, .mindir or .xml; None if it carries none, so that its record says all, or for another file.

    Raises DbnetError if the file or the note is damaged.
    """
    texts = texts_of(path)
    text = texts.get(DELIVERY_KEY)
    return None if text is None else DeliveryNote.from_json(text, str(path))


def recorded_pixels(path: Path) -> PixelFormat | None:
    """Those of the record that a file carries: what its network takes. Raises DbnetError if it is damaged."""
    text = texts_of(path).get(RECORD_KEY)
    return None if text is None else Record.from_json(text, str(path)).spec.pixels


def exported(metadata: Mapping[str, str], path: Path, pixels: PixelFormat) -> list[str]:
    """For people, what a file takes and gives beyond its record, with the `pixels` of that; a line, or none.

    Raises DbnetError if the note is damaged.
    """
    if DELIVERY_KEY not in metadata:
        return []
    note = DeliveryNote.from_json(metadata[DELIVERY_KEY], str(path))
    told = note.describe(pixels)
    own = "record is the model's own, its weights are rounded to float16" if note.precision == "fp16" else \
        "weights and record are the model's own"
    return [f"{EXPORTED}{note.target}: {told}; its {own}"] if told else []


def texts_of(path: Path) -> dict[str, str]:
    """Record and note of an .onnx, .mindir or .xml as they stand, by `RECORD_KEY` and `DELIVERY_KEY`; of an .xml also
    what stands under `BIN_KEY`. Raises DbnetError.
    """
    if path.suffix.lower() == ".xml":
        return _texts_of_xml(path)
    found_format = detect(path)
    if found_format == "mindir":
        from converters import mindir_file
        return mindir_file.texts_of(path)
    if found_format != "onnx":
        return {}
    mapped = MappedFile(path)
    try:
        found = model_places(mapped.view).metadata
    except MalformedError as error:
        raise DbnetError(f"{path}: is damaged or no ONNX model: {short(error)}; copy or download it again") from error
    return {key: found[key] for key in (RECORD_KEY, DELIVERY_KEY) if key in found}


def _is_utf8(content: bytes) -> bool:
    """Whether a reader of XML takes it for that: no other mark at its beginning, no other encoding said, no byte 0."""
    said = re.match(rb"""(?:\xef\xbb\xbf)?\s*<\?xml[^>]*?encoding\s*=\s*["']([^"']*)["']""", content)
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in content and (said is None or said[1].lower() in (b"utf-8", b"utf8", b"us-ascii", b"ascii"))


def _texts_of_xml(path: Path) -> dict[str, str]:
    """Entities are refused: OpenVINO writes none, and a few lines of them become gigabytes. So is another encoding than
    UTF-8, in which they would look otherwise.
    """
    try:
        if path.stat().st_size > LARGEST_XML:
            raise DbnetError(f"{path}: has more than {LARGEST_XML >> 20} MiB, so it is no OpenVINO model of a network "
                             f"that is known here")
        content = path.read_bytes()
    except OSError as error:
        raise DbnetError(f"{path}: cannot be read ({error.strerror})") from error
    if not _is_utf8(content):
        raise DbnetError(f"{path}: is not in UTF-8, as every OpenVINO model is; export the model again")
    if b"<!" in content.replace(b"<!--", b""):
        raise DbnetError(f"{path}: declares entities or a document type, which no OpenVINO model does; it is not read")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DbnetError(f"{path}: is damaged or no OpenVINO model: {short(error)}; export the model again") from error
    if root.tag != "net":
        raise DbnetError(f"{path}: is no OpenVINO model, its root is <{short(root.tag, 40)}>")
    found = {}
    for key, name in ((RECORD_KEY, "record"), (DELIVERY_KEY, "delivery"), (BIN_KEY, "bin_sha256")):
        place = root.find(f"rt_info/dbnet/{name}")
        if place is not None and (value := place.get("value")) is not None:
            found[key] = value
    return found
