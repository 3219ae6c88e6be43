"""An export from the model's file to files for a runtime: written aside, compared, only then moved to their place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converters.delivery_note import EXPORTED
from converters.export import read_source
from converters.load import LoadedModel, SourceOptions
from dbnet.errors import DbnetError
from dbnet.extras import OPTIONAL, installed, require
from dbnet.runner_names import parse_runner
from dbnet.spec import check_size
from dbnet.writing import check_target
from evaluation.delivery.check import Checked, check, require_own_graph
from evaluation.delivery.half import require_range
from evaluation.delivery.refused import RefusedError
from evaluation.delivery.settings import Delivered, ExportSettings
from evaluation.delivery.targets import target_of


@dataclass(frozen=True)
class Delivery:
    """model: without its training branch. checked: a row for each runtime. told: for the user, a line each."""

    model: LoadedModel
    delivered: Delivered
    checked: list[Checked]
    told: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        done = self.delivered
        return {"source": str(self.model.path), "target": done.target, "files": [str(path) for path in done.files],
                "spec": done.spec.name, "input": {"name": done.input_name, "shape": list(done.input_shape)},
                "output": {"name": done.output_name, "kind": done.output, "rank": done.output_rank},
                "precision": done.precision, "opset": done.opset,
                "undone": done.undone, "checked": [row.to_dict() for row in self.checked], "told": self.told}


def deliver(source: Path, out: Path, options: SourceOptions | None, settings: ExportSettings, *,
            images: Sequence[Path] = (), check_in: Sequence[str] = ()) -> Delivery:
    """Writes `out` for settings.target, once the file is what the model is (`evaluation.delivery.check`).

    images: that both are compared on; none: drawn scenes. check_in: more runtimes. Raises DbnetError: nothing is
    written then, but where a runtime refuses the file it is kept beside `out`, as OUT.refused.
    """
    target = target_of(out, settings.target)
    for place in target.places(out):
        check_target(place, source, settings.force)
    if settings.prepare:
        check_no_earlier(out, "")
    if settings.data_shape is not None:
        check_size(*settings.data_shape)
    require_own_graph(".onnx" if target.name == "om" else out.suffix, check_in)  # all of this before all the work
    for who in map(parse_runner, check_in):
        if who.python is None and who.framework in OPTIONAL and not installed(who.framework):
            require(who.framework)
    model, told = read_source(source, options)
    if settings.boxes not in (None, model.record.spec.boxes):
        spec, rule = replace(model.record.spec, boxes=settings.boxes), settings.boxes
        told.append(f"boxes by the recipe's rule: binary_thresh {rule.binary_thresh}, box_thresh {rule.box_thresh}, "
                    f"unclip_ratio {rule.unclip_ratio}, {rule.box_type}")
        model = replace(model, record=replace(model.record, spec=spec))
    try:
        folder = Path(tempfile.mkdtemp(prefix=".dbnet-export-", dir=out.absolute().parent))
    except OSError as error:
        raise DbnetError(f"{out}: could not be written ({error.strerror}); nothing was changed") from error
    try:
        written = target.write(model, folder / out.name, settings)
        if written.undone is not None:
            check_no_earlier(out, f" ({written.why})")
        if settings.precision == "fp16" and target.runner is not None:
            told += require_range(model, written, settings.keep_float32, images, folder)
        rows = check(written, model, target.runner, check_in, images, folder)
        files = _placed(written.files, out, settings.force)
    except RefusedError as error:
        kept = _kept(error, folder / out.name, out, settings.force)
        raise DbnetError(f"{out}: {error}; {kept}{_offer(model, settings)}") from error
    except DbnetError as error:
        if str(folder) not in str(error):
            raise
        raise DbnetError(str(error).replace(str(folder), str(out.parent))) from error  # that is gone in a moment
    except OSError as error:
        raise DbnetError(f"{out}: could not be written ({error.strerror or error}); nothing was changed") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    delivered = replace(written, path=files[0], files=files)
    told = [_headline(source, delivered), *told, *(row.describe(not images) for row in rows),
            *_of_source(source, model.notes), *delivered.told]
    return Delivery(model, delivered, rows, told)


def check_no_earlier(out: Path, why: str) -> None:
    """Where no new file is made. Raises DbnetError if there is one of an earlier export, for it would pass for it."""
    if out.exists():
        raise DbnetError(f"{out}: is of an earlier export, and no new one is made{why}; what is written beside it "
                         f"would not belong to it: move it away, or name another OUT; nothing was changed")


def _of_source(source: Path, notes: Sequence[str]) -> list[str]:
    """What a file that was exported before takes and gives is told as its own: nothing of it is in the new file."""
    return [f"{source.name} itself was {note}" if note.startswith(EXPORTED) else note for note in notes]


def _headline(source: Path, delivered: Delivered) -> str:
    batch, _, *sides = delivered.input_shape
    shape = "x".join(map(str, sides)) if isinstance(sides[0], int) else "dynamic"
    shape += f", batch {batch}" if isinstance(batch, int) else ""
    opset = f", opset {delivered.opset}" if delivered.opset else ""
    half = ", float16" if delivered.precision == "fp16" else ""
    size = sum(path.stat().st_size for path in delivered.files) / 1e6
    *names, last = [path.name for path in delivered.files]
    if len(names) > 2:
        names, last = names[:2], f"{len(names) - 1} more files"
    files = " and ".join([", ".join(names), last] if names else [last])
    return (f"{source.name} -> {files}: {delivered.spec.name} for {delivered.target}{opset}{half}, shape "
            f"{shape}, {size:.1f} MB")


def _placed(files: Sequence[Path], out: Path, force: bool) -> tuple[Path, ...]:
    """Moves the files to the folder of `out`: all of them or none. Raises DbnetError, and OSError as the system does.
    """
    real = Path(os.path.realpath(out)) if len(files) == 1 else out.absolute()  # a pair has one name
    places = tuple(real if path.name == out.name else real.with_name(path.name) for path in files)
    for place in places:
        check_target(place, None, force)
    moved: list[Path] = []
    old = Path(tempfile.mkdtemp(dir=files[0].parent))
    try:
        for path, place in reversed(list(zip(files, places, strict=True))):
            if place.exists():
                os.replace(place, old / place.name)
            moved.append(place)
            os.replace(path, place)
    except OSError:
        for place in moved:
            if (old / place.name).exists():
                os.replace(old / place.name, place)
            else:
                place.unlink(missing_ok=True)
        raise
    return tuple(out if place == real else out.with_name(place.name) for place in places)


def _kept(error: RefusedError, written: Path, out: Path, force: bool) -> str:
    """Keeps the file that a runtime refused, and says where, or why not: the refusal is what matters."""
    kept = out.with_name(f"{out.name if error.content is None else out.stem + error.suffix}.refused")
    try:
        if kept.exists() and not force:
            return f"not kept, for {kept.name} exists already (--force replaces it)"
        if error.content is not None:
            written = written.with_name(kept.name)
            written.write_bytes(error.content)
        os.replace(written, kept)
    except OSError as failed:
        return f"not kept as {kept.name} ({failed.strerror or failed})"
    return f"kept as {kept.name}"


def _offer(model: LoadedModel, settings: ExportSettings) -> str:
    """What else can be had, where the model is the reason."""
    if settings.deformable == "native":
        return "; made of plain operators it runs in more runtimes: leave out --deformable"
    if settings.target == "opencv" and model.record.spec.deformable != "none":
        return ("; OpenCV runs deformable convolutions, made of plain operators, from 5 on: --check-in opencv@PYTHON "
                "of such an environment; or choose --target onnx or openvino")
    return ""
