"""The sizes that a graph for Ascend is compiled for, which there are few of, so that they match the resize rule.

Some rules bring every image to one size. Under the others the images decide: the sizes that come most often are
compiled, and an image of another size is padded at the bottom and the right up to the next one, or refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dbnet.errors import DbnetError
from dbnet.pixel_formats import EXACT
from dbnet.preprocess import input_size, read_image
from dbnet.spec import PixelFormat, check_size
from evaluation.delivery.common import fixed_note, fixed_pixels
from evaluation.delivery.settings import ExportSettings
from evaluation.few_sizes import MOST, Size, area, bucket_for, told_size


@dataclass(frozen=True)
class Buckets:
    """sizes: (height, width) in pixels, by area. pixels: what brings images to them. told: what becomes of images, a
    line each.
    """

    sizes: tuple[Size, ...]
    pixels: PixelFormat
    told: tuple[str, ...] = ()


def choose(pixels: PixelFormat, settings: ExportSettings) -> Buckets:
    """The buckets for a resize rule, from the settings' data_shape, buckets or images.

    Raises DbnetError for sizes that no network takes, several where the rule gives one, or too many; and if the rule
    leaves the size to the images and neither images nor buckets are given.
    """
    if not 1 <= settings.most_buckets <= MOST:
        raise DbnetError(f"the converters take 1 to {MOST} sizes, not {settings.most_buckets}")
    said = _said(settings)
    own, pixels = pixels, fixed_pixels(pixels, settings.data_shape)
    if pixels.resize in EXACT:
        only = _only(pixels, said)
        return only if own.resize == pixels.resize else replace(only, told=(fixed_note(own, pixels),))
    if not said and not settings.images:
        raise DbnetError(f"under the resize rule {pixels.resize} the size depends on the image, and a graph for Ascend "
                         f"has few: say which images it will see (--images DIR), the sizes themselves (--buckets "
                         f"736x1280,736x992), or one for all (--data-shape 736 1280)")
    counts = count(settings.images, pixels)
    sizes = said or most_frequent(counts, settings.most_buckets)
    return Buckets(tuple(sorted(sizes, key=area)), pixels, tuple(told_shares(counts, sizes)))


def _said(settings: ExportSettings) -> tuple[Size, ...]:
    """Without repetitions."""
    if settings.buckets and settings.data_shape is not None:
        raise DbnetError("--data-shape fixes one size and --buckets are several; leave one of them out")
    said = tuple(dict.fromkeys(settings.buckets)) or \
        ((settings.data_shape,) if settings.data_shape is not None else ())
    if len(said) > MOST:
        raise DbnetError(f"{len(said)} buckets are too many: the converters take {MOST}")
    for size in said:
        check_size(*size)
    return said


def _only(pixels: PixelFormat, said: tuple[Size, ...]) -> Buckets:
    """Of a rule that gives one size."""
    size = said[0] if said else pixels.size
    if len(said) > 1:
        raise DbnetError(f"under the resize rule {pixels.resize} every image becomes {told_size(pixels.size)}, so "
                         f"there is no use for {len(said)} sizes; give one, or choose another rule (--pixels)")
    check_size(*size)
    return Buckets((size,), replace(pixels, size=size),
                   (f"every image becomes {told_size(size)} (resize rule {pixels.resize})",))


def size_of(pixels: PixelFormat, settings: ExportSettings) -> Size | None:
    """What the graph itself is fixed to: the only size that a rule gives; else it takes every one, and the converter
    fixes it.
    """
    return pixels.size if pixels.resize in EXACT else settings.data_shape


def count(images: Iterable[Path], pixels: PixelFormat) -> Counter[Size]:
    """How many of the images have each size after the resize rule. Raises DbnetError, naming an image."""
    sizes: Counter[Size] = Counter()
    for path in images:
        height, width = read_image(path, pixels.ignore_orientation).shape[:2]
        try:
            sizes[input_size(height, width, pixels)[1]] += 1
        except DbnetError as error:
            raise DbnetError(f"{path}: {error}") from error
    return sizes


def most_frequent(counts: Counter[Size], most: int) -> tuple[Size, ...]:
    """At most so many sizes, the most frequent first. If some images fit into none of these, the last one makes room
    for a size into which all of them fit.
    """
    ranked = sorted(counts, key=lambda size: (-counts[size], area(size)))
    sizes = ranked[:most]
    if any(bucket_for(size, sizes) is None for size in ranked):
        sizes = sizes[:-1]
        left = [size for size in ranked if bucket_for(size, sizes) is None]
        sizes.append((max(height for height, _ in left), max(width for _, width in left)))
    return tuple(sizes)


def told_shares(counts: Counter[Size], sizes: Sequence[Size]) -> list[str]:
    """For people: which sizes, and what becomes of the images."""
    lines = [f"{len(sizes)} sizes are compiled: {', '.join(told_size(size) for size in sorted(sizes, key=area))}"]
    total = sum(counts.values())
    if not total:
        return lines
    exact = sum(number for size, number in counts.items() if size in sizes)
    beyond = sum(number for size, number in counts.items() if bucket_for(size, sizes) is None)
    padded = total - exact - beyond
    parts = [f"{_share(exact, total)} have one of these sizes"]
    if padded:
        parts.append(f"{_share(padded, total)} are padded to the next one, which moves the numbers at their edges")
    if beyond:
        parts.append(f"{_share(beyond, total)} are larger than every one and are refused")
    return [*lines, f"of {total} images " + ", ".join(parts)]


def _share(number: int, total: int) -> str:
    return f"{number} ({100 * number / total:.3g} %)"
