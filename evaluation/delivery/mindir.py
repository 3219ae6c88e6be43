"""Target mindir: MindSpore's .mindir from graph mode, loaded back and compared bit for bit before it appears.

It is what MindSpore loads with `mindspore.load`, and what the converter of MindSpore Lite takes (target lite).
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from converters import mindir_file
from converters.convert import require_same
from converters.delivery_note import DELIVERY_KEY, DeliveryNote
from converters.export import inference_part
from converters.load import LoadedModel, load_model, require_sound
from converters.weights import digest
from converters.writing import write_verified
from dbnet.errors import DbnetError
from dbnet.extras import require
from dbnet.record import RECORD_KEY
from dbnet.seeded import seeded_images
from dbnet.spec import PixelFormat, check_size
from dbnet.writing import check_target
from evaluation.delivery.common import fixed_note, fixed_pixels
from evaluation.delivery.settings import Delivered, ExportSettings

#: (N, H, W) of the images with which a file of any shape is compared: two sizes, so that it is not tied to one.
_TRIED = ((1, 96, 160), (2, 64, 96))
#: Where it runs while it is compared: what a file computes does not depend on where it was written.
_DEVICE = "cpu"


def write(model: LoadedModel, out: Path, settings: ExportSettings) -> Delivered:
    """Writes the graph that `MindSporeRunner` runs, its weights in float32 and without the training branch.

    Raises DbnetError without MindSpore, for settings that mean nothing to a .mindir, and if the file that was written
    computes anything else than graph mode does; `out` is then untouched.
    """
    require_sound(model)
    _check(out, settings)
    check_target(out, model.path, settings.force)
    require("mindspore")
    own = model.record.spec.pixels
    pixels = fixed_pixels(own, settings.data_shape)
    written = write_as("mindir", model, out, settings, pixels)
    if pixels.resize == own.resize:
        return written
    return replace(written, told=(*written.told, fixed_note(own, pixels)))


def write_as(target: str, model: LoadedModel, out: Path, settings: ExportSettings, pixels: PixelFormat) -> Delivered:
    """The same for another target that needs a .mindir, whose settings are checked there. pixels: what it takes."""
    from ms_models import mindir
    from ms_models.runner import MindSporeRunner
    model, stored = in_float32(model)
    spec = replace(model.record.spec, pixels=pixels)
    note = DeliveryNote(target, spec.pixels, spec.boxes, settings.output)
    texts = {RECORD_KEY: model.record.to_json(), DELIVERY_KEY: note.to_json()}
    shape = shape_of(settings)
    opened = [MindSporeRunner(spec, model.weights, _DEVICE, (settings.output,))]
    expected = {size: opened[0].run(seeded_images(*size))[settings.output] for size in _sizes(shape)}
    told = []

    def fill(stream: BinaryIO) -> None:
        mindir.write(stream, opened[0], shape, texts)
        opened.clear()
        gc.collect()  # deformable convolutions take gigabytes, which the loaded graph takes too

    def verify(path: Path) -> None:
        require_same(mindir_file.read(path), model.weights, texts[RECORD_KEY], out)
        load_model(path)  # its graph, as far as it is read, is the record's
        told.append(_compared(mindir.MindIRRunner(path, spec, _DEVICE, (settings.output,)), expected))

    write_verified(out, fill, verify)
    if stored:
        told.append(f"the weights were {stored}; a .mindir computes in float32 and holds them so")
    letters = tuple(letter if side is None else side for side, letter in zip(shape, "NCHW", strict=True))
    return Delivered(out, target, spec, "x", settings.output, letters, output=settings.output, files=(out,),
                     told=tuple(told))


def in_float32(model: LoadedModel) -> tuple[LoadedModel, str]:
    """The model without its training branch, in float32, whose record has the digest of that; what its weights were
    stored as, empty if all of them were float32.
    """
    model = inference_part(model)
    stored = sorted({array.dtype.name for array in model.weights.values()} - {"float32"})
    weights = {name: np.ascontiguousarray(array, np.float32) for name, array in model.weights.items()}
    return replace(model, weights=weights, record=replace(model.record, sha256=digest(weights))), ", ".join(stored)


def shape_of(settings: ExportSettings) -> tuple[int | None, ...]:
    """(N, 3, H, W) of the file's input, None where any will do."""
    if settings.data_shape is None:
        return settings.batch, 3, None, None
    return settings.batch or 1, 3, *settings.data_shape


def _sizes(shape: Sequence[int | None]) -> list[tuple[int, int, int]]:
    """(N, H, W) of the images on which a file of that input is compared."""
    count, _, height, width = shape
    return [(count or 1, height, width)] if height and width else [(count or n, h, w) for n, h, w in _TRIED]


def _compared(file: Any, expected: Mapping[tuple[int, int, int], np.ndarray]) -> str:
    """Runs the file on seeded images of each size; what to tell. Raises DbnetError if a bit is not as expected."""
    for size, map_ in expected.items():
        (stage, found), = file.run(seeded_images(*size)).items()
        if not np.array_equal(found, map_):
            error = float(np.abs(found - map_).max())
            raise DbnetError(f"the .mindir that was written gives another {stage} than graph mode, by {error:.1e} at "
                             f"{'x'.join(map(str, size))}; nothing was written, please report this")
    told = " and ".join("x".join(map(str, size)) for size in expected)
    return f"loaded back, the same as MindSpore's graph mode bit for bit (seeded images, NxHxW {told})"


def check_shape(settings: ExportSettings) -> None:
    """Raises DbnetError for a size that no network here takes, or a number of images below 1."""
    if settings.data_shape is not None:
        check_size(*settings.data_shape)
    if settings.batch is not None and settings.batch < 1:
        raise DbnetError(f"a file takes at least 1 image at once, not {settings.batch}")


def _check(out: Path, settings: ExportSettings) -> None:
    if out.suffix != ".mindir":
        raise DbnetError(f"{out}: MindSpore loads no file that is not called .mindir; name it so")
    check_shape(settings)
    if settings.precision != "float32" or settings.keep_float32:
        raise DbnetError("a .mindir has its weights in float32, and whoever runs it chooses float16: MindSpore by its "
                         "precision mode, MindSpore Lite when it converts it (--target lite --precision fp16); leave "
                         "out --precision and --keep-float32")
    for value, option in ((settings.opset, "--opset"), (settings.deformable, "--deformable"),
                          (settings.buckets or None, "--buckets")):
        if value is not None:
            whose = "targets lite and om" if option == "--buckets" else "an .onnx"
            raise DbnetError(f"{option} is of {whose}, and means nothing to a .mindir; leave it out")
