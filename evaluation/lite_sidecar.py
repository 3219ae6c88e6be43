"""What is known of a model that converter_lite has made, whose file says nothing: it lies beside it, as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from converters.delivery_note import DELIVERY_KEY, DeliveryNote, texts_of
from dbnet.errors import DbnetError, short
from dbnet.extras import installed
from dbnet.record import RECORD_KEY, Record
from dbnet.seeded import seeded_images
from dbnet.spec import ModelSpec
from evaluation.few_sizes import Size
from evaluation.lite_runner import SIDECAR, VERSION, LiteRunner, model_file, read_told


@dataclass(frozen=True)
class Sidecar:
    """record: of the weights. note: what the file takes and gives. The others: see `evaluation.lite_runner.Told`."""

    record: Record
    note: DeliveryNote
    sizes: tuple[Size, ...]
    batch: int
    device: Literal["ascend", "cpu"]
    precision: str
    file: str | None = None

    @property
    def spec(self) -> ModelSpec:
        """With the pixels of the file."""
        return self.note.of(self.record.spec)

    def to_json(self) -> str:
        """Several lines, for people read it too."""
        return json.dumps({
            "version": VERSION, "record": json.loads(self.record.to_json()),
            "delivery": json.loads(self.note.to_json()), "sizes": [list(size) for size in self.sizes],
            "batch": self.batch, "device": self.device, "precision": self.precision, "file": self.file},
            indent=1, sort_keys=True) + "\n"  # the script finds the line of "file"


def read_sidecar(model: Path) -> Sidecar | None:
    """Of a converted model; None if none lies beside it. Raises DbnetError if it cannot be used."""
    told = read_told(model)
    if told is None:
        return None
    where = str(model.with_name(f"{model.stem}.{SIDECAR}"))
    try:
        record, note = json.dumps(told.data["record"]), json.dumps(told.data["delivery"])
    except KeyError as error:
        raise DbnetError(f"{where}: is damaged ({short(error)} is missing); write it again: dbnet export --target "
                         f"lite") from error
    return Sidecar(Record.from_json(record, where), DeliveryNote.from_json(note, where), told.sizes, told.batch,
                   told.device, told.precision, told.file)


def is_converted(path: Path) -> bool:
    """Whether a file is for MindSpore Lite alone: a .ms, or one with a sidecar, unless the file itself says that it is
    MindSpore's own: it then has the record of its weights, and was not exported for MindSpore Lite.
    """
    if path.suffix != ".mindir" or not path.with_name(f"{path.stem}.{SIDECAR}").is_file():
        return path.suffix == ".ms"
    try:
        texts = texts_of(path)
        note = DeliveryNote.from_json(texts[DELIVERY_KEY], str(path)) if DELIVERY_KEY in texts else None
    except DbnetError:  # as a converted file may be, of which nothing is known
        return True
    return RECORD_KEY not in texts or (note is not None and note.target == "lite")


def open_lite(path: Path, device: str | None = None, stages: tuple[str, ...] | None = ("probability",),
              threads: int | None = None) -> LiteRunner:
    """A converted model, whose network and pixels only its sidecar knows. Raises DbnetError without one."""
    sidecar = read_sidecar(model_file(path))
    if sidecar is None:
        raise DbnetError(f"{path}: says nothing of its pixels, and {path.stem}.{SIDECAR} is not beside it; copy that "
                         f"file too, which dbnet export --target lite wrote")
    return LiteRunner(path, sidecar.spec, device, stages, threads)


def first_look(path: Path) -> str:
    """Runs a converted model once where MindSpore Lite is installed; what to tell. Raises DbnetError if it fails."""
    if not installed("mindspore_lite"):
        return "not run: mindspore_lite is not installed here"
    runner = open_lite(path)
    height, width = runner.sizes[0] if runner.sizes else (96, 160)
    found = runner.run(seeded_images(runner.shape[0] or 1, height, width))["probability"]
    if not np.isfinite(found).all():
        raise DbnetError(f"{path}: gives NaN or Inf in MindSpore Lite for an ordinary image; convert it with "
                         f"--precision float32, or see which layers overflow: dbnet precision MODEL")
    return f"runs in MindSpore Lite on {runner.device}; compare it there: dbnet compare {path.name} MODEL --images DIR"
