"""Files with a graph for one runtime, and no weights that are read here: OpenVINO's .xml, MindSpore Lite's models."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from converters.delivery_note import BIN_KEY, DELIVERY_KEY, DeliveryNote, texts_of
from converters.load import NoChoiceError, SourceOptions
from dbnet.errors import DbnetError
from dbnet.pixel_formats import CHOICES, FAMILIES, AnySpec, OpaqueSpec, pixel_choice
from dbnet.record import RECORD_KEY, Record
from dbnet.runner_names import parse_runner
from evaluation.delivered import DeliveredRunner
from evaluation.graph_files import OtherGraphError
from evaluation.opaque import fitted
from evaluation.opening import Asked, chosen_pixels, graph_runner


def is_weightless(path: Path, runner: str | None = None) -> bool:
    """Whether a file is one of these; by its name, and by what lies beside it."""
    suffix = path.suffix.lower()
    if suffix in (".xml", ".ms"):
        return True
    if suffix != ".mindir" or (runner is not None and parse_runner(runner).framework != "mindspore_lite"):
        return False
    from evaluation.lite_sidecar import is_converted
    return is_converted(path)


def open_weightless(path: Path, runner: str | None, device: str | None, stages: tuple[str, ...] | None,
                    threads: int | None, options: SourceOptions, concurrent: bool, precision: str) -> Any:
    """Such a file, for the probability. Raises DbnetError if another framework is asked for, or nobody knows its
    pixels.
    """
    own = "openvino" if path.suffix.lower() == ".xml" else "mindspore_lite"
    who = parse_runner(runner or own)
    if who.framework != own:
        title = "OpenVINO" if own == "openvino" else "MindSpore Lite"
        raise DbnetError(f"{path}: is a graph for {title} alone, it does not run in {who.framework}; use --runner "
                         f"{own}, or the model that it was made of")
    if precision != "float32":
        raise DbnetError(f"{path}: runs as it is, so not in {precision}: leave out --precision")
    if any((options.semantics, options.spec, options.dialect, options.take, options.part)):
        raise DbnetError(f"{path}: runs by its own graph, so --set, --spec, --from, --take and --part mean nothing to "
                         f"it")
    if options.output is not None:
        raise NoChoiceError(f"{path}: has one output, so none is chosen; leave out --map-output", "output")
    asked = Asked(who, device, stages, threads, concurrent, options)
    opened = _openvino(path, asked) if own == "openvino" else _lite(path, asked)
    opened.spec, fit = fitted(opened.spec, options, opened.shape)
    opened.notes = [*opened.notes, *fit]
    return opened


def _openvino(path: Path, asked: Asked) -> Any:
    texts = texts_of(path)
    notes = _check_bin(path, texts, asked.options.allow_edited)
    note = DeliveryNote.from_json(texts[DELIVERY_KEY], str(path)) if DELIVERY_KEY in texts else None
    known = Record.from_json(texts[RECORD_KEY], str(path)).spec if RECORD_KEY in texts else None
    spec: AnySpec
    if known is not None and note is not None:
        spec = chosen_pixels(path, note, known.pixels, note.of(known), asked.options)
    else:
        spec = _chosen(path, known, asked.options)
    if note is None:
        try:
            opened = graph_runner(path, spec, asked, asked.stages)
        except OtherGraphError as error:
            raise DbnetError(f"{error}; a file with outputs of other names runs here as an .onnx in ONNX Runtime") \
                from error
    else:
        opened = DeliveredRunner.opened(note, asked.stages, lambda own: graph_runner(path, spec, asked, own), str(path))
        opened.recorded = None if known is None else known.pixels
    opened.digest = _digest(path, path.with_suffix(".bin"))
    opened.notes = [*opened.notes, *notes]
    return opened


def _check_bin(path: Path, texts: dict[str, str], allowed: bool) -> list[str]:
    """What to tell of its weights. Raises DbnetError unless the .bin is the one that the .xml was written with."""
    bin_ = path.with_suffix(".bin")
    if BIN_KEY not in texts or not bin_.is_file() or _digest(bin_) == texts[BIN_KEY]:
        return []
    told = f"{bin_.name} is not the one that {path.name} was written with (its sha256 is another)"
    if not allowed:
        raise DbnetError(f"{path}: {told}, so the record is not of these weights; copy both files of one export, or "
                         f"--allow-edited")
    return [f"{told}: accepted (--allow-edited)"]


def _chosen(path: Path, own: AnySpec | None, options: SourceOptions) -> AnySpec:
    """The pixels and boxes of a file: its own, if it says any, under what the user says."""
    choice = None if options.pixels is None else pixel_choice(options.pixels)
    if own is None:
        family = choice.family if choice is not None else None
        if family is None:
            raise DbnetError(f"{path}: says nothing of its pixels (dbnet export --target openvino writes them into "
                             f"it); say which it takes: --pixels NAME, one of {CHOICES}")
        own = OpaqueSpec(*FAMILIES[family], output="probability", sigmoid=False)
    return own if choice is None else choice.of(own)


def _digest(*files: Path) -> str:
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def _lite(path: Path, asked: Asked) -> Any:
    from evaluation.elsewhere import Worker
    from evaluation.elsewhere_graphs import ElsewhereGraphRunner
    from evaluation.lite_sidecar import open_lite, read_sidecar
    if asked.who.python is None:
        opened: Any = open_lite(path, asked.place, asked.stages, asked.threads)
    else:
        sidecar = read_sidecar(path)
        if sidecar is None:
            raise DbnetError(f"{path}: says nothing of its pixels, and the .lite.json that dbnet export --target lite "
                             f"wrote is not beside it; copy that file too")
        opened = ElsewhereGraphRunner(Worker(asked.who.python, asked.who.framework), path, sidecar.spec, asked.place,
                                      asked.stages, asked.threads)
    if asked.options.pixels is not None:
        opened.spec = pixel_choice(asked.options.pixels).of(opened.spec)
    return opened
