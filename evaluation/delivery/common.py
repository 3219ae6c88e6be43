"""What the .onnx targets share: which pixels a file takes, and writing it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from converters.delivery_note import DeliveryNote
from converters.export import remarks, write_delivery
from converters.load import LoadedModel
from converters.onnx_graph import INPUT, default_opset
from dbnet.errors import DbnetError
from dbnet.pixel_formats import EXACT
from dbnet.spec import BoxRule, PixelFormat, check_size
from evaluation.delivery.settings import Delivered, ExportSettings, Size


def write_onnx(model: LoadedModel, out: Path, settings: ExportSettings, *, pixels: PixelFormat | None = None,
               boxes: BoxRule | None = None, rank: Literal[4, 2] = 4, opset: int | None = None) -> Delivered:
    """Writes an .onnx as the settings say. pixels, boxes: that it takes and its runtime makes, if not the model's own;
    opset: unless the settings say one. Raises DbnetError.
    """
    spec, deformable = model.record.spec, settings.deformable
    if settings.data_shape is not None:
        check_size(*settings.data_shape)
    batch = 1 if settings.data_shape and settings.batch is None else settings.batch
    pixels = pixels or fixed_pixels(spec.pixels, settings.data_shape)
    note = DeliveryNote(settings.target, pixels, boxes or spec.boxes, settings.output, rank, settings.precision,
                        settings.keep_float32)
    opset = settings.opset or (opset if deformable != "native" else None) or default_opset("delivery", deformable)
    written = write_delivery(model, out, None if says_nothing(note, model) else note, opset=opset,
                             data_shape=settings.data_shape, batch=batch, deformable=deformable)
    height, width = settings.data_shape or ("H", "W")
    told = [fixed_note(spec.pixels, pixels)] if pixels.resize != spec.pixels.resize and settings.data_shape else []
    return Delivered(out, settings.target, note.of(spec), INPUT, settings.output, (batch or "N", 3, height, width),
                     rank, settings.output, settings.precision, opset, (out,),
                     (*told, *remarks(written, deformable)))


def says_nothing(note: DeliveryNote, model: LoadedModel) -> bool:
    """Whether the file's record says all that its note would."""
    spec = model.record.spec
    return note == DeliveryNote(note.target, spec.pixels, spec.boxes)


def fixed_pixels(pixels: PixelFormat, size: Size | None) -> PixelFormat:
    """Of a file that takes images of `size` only: the rule that gives exactly one size, with this one; images are
    padded where the model's own rule is none of those.
    """
    if size is None:
        return pixels
    return replace(pixels, size=size, resize=pixels.resize if pixels.resize in EXACT else "keep_ratio_pad")


def fixed_note(own: PixelFormat, pixels: PixelFormat) -> str:
    """For people: how images come to the size that a file takes, where the model's own rule does not say."""
    way = "stretched" if pixels.resize == "stretch" else "padded"
    return (f"images are {way} to {pixels.size[0]}x{pixels.size[1]}, the only size that the file takes, not resized by "
            f"{own.resize} as the model's own are")


def refuse(settings: ExportSettings, why: str, **usual: object) -> None:
    """Raises DbnetError if a setting is not as usual: the target's runtime makes it so. usual: name -> its value."""
    for name, value in usual.items():
        if getattr(settings, name) != value:
            option = {"data_shape": "--data-shape", "keep_float32": "--keep-float32"}.get(name, f"--{name}")
            raise DbnetError(f"--target {settings.target} has no {option}: {why}")
