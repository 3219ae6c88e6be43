"""In what way a tensor is not the one that it should be: its values stand elsewhere, or they are others, or both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from converters.tensor_file import Weights
from converters.weights import same_bits

#: Convolutions whose input is the four joined maps.
JOINED = ("head.segm.0.weight", "head.thresh.0.weight", "neck.fuse.conv.weight")
#: The first convolution, and the mean of the batch norm behind it.
STEMS = {"backbone.conv1.weight": "backbone.bn1.moving_mean",
         "backbone.features.0.weight": "backbone.features.1.moving_mean"}
#: (cause, how), of `suspects.CAUSES` and in words.
Way = tuple[str, str]
#: Rounding leaves at most this much of a tensor's length as error; 4 bits leave 0.2.
NEAR = 0.25
#: What a norm that was folded into a kernel and taken out again leaves, relative to the largest value.
NOISE = 3e-6
#: Digits of float32 that a coarser type leaves out: at least those of TF32 and float16, at most all but two.
FEWEST, MOST = 12, 21
#: The largest that is in use is 1e-3.
LARGEST_EPSILON = 1e-2
#: Whole multiples of one step that integers of 8 bits can be.
LEVELS = 255


@dataclass(frozen=True, eq=False)
class Difference:
    """ways: all of them must be mended for the tensor to be right. moved: the values where they belong, if the first
    way is that they stand elsewhere; else None."""

    name: str
    ways: tuple[Way, ...]
    moved: np.ndarray | None = None


def differences(weights: Weights, reference: Weights) -> Iterator[Difference]:
    """Of every tensor that has the reference's name and shape, and whose values differ in a way that has a name."""
    pairs = {name: (np.asarray(array, np.float32), np.asarray(reference[name], np.float32))
             for name, array in weights.items() if name in reference and reference[name].shape == array.shape}
    pairs = {name: pair for name, pair in pairs.items() if not same_bits(*pair)}
    rights = {name: right for name, (_, right) in pairs.items()}
    shifted = {mean for stem, mean in STEMS.items() if mean in pairs and _shifted(*pairs[mean], reference[stem])}
    for name, (mine, right) in pairs.items():
        if name in shifted:
            yield Difference(name, (("normalization", "is shifted by a mean of the colours"),))
        elif (found := difference(name, mine, right, rights)) is not None:
            yield found


def difference(name: str, mine: np.ndarray, right: np.ndarray, others: Mapping[str, np.ndarray]) -> Difference | None:
    """The same of one tensor, None if nothing is known of it. others: what the tensors that differ should be."""
    if mine.any() != right.any() and name.endswith((".bias", ".beta")):
        return Difference(name, (("missing_bias", "is zero" if right.any() else "is zero in the reference"),))
    if (way := changed_values(name, mine, right)) is not None:
        return Difference(name, (way,))
    for moved_by, moved in _moves(name, mine, right):
        if _is_same(moved, right):
            return Difference(name, (moved_by,), moved)
        if (way := changed_values(name, moved, right)) is not None:
            return Difference(name, (moved_by, way), moved)
    if _is_anothers(name, mine, others):
        return Difference(name, (("swapped_tensors", "holds another tensor's values"),))
    if mine.ndim and _is_permuted(mine, right):
        return Difference(name, (("swapped_tensors", "its channels are in another order"),))
    return None


# Values that stand elsewhere ------------------------------------------------------------------------------------------


def _moves(name: str, mine: np.ndarray, right: np.ndarray) -> Iterator[tuple[Way, np.ndarray]]:
    """How the values may have been put elsewhere, and where they stand without it; only what comes near the right."""
    if name in STEMS and mine.shape[1] == 3:
        for order in itertools.permutations(range(3)):
            moved = mine[:, list(order)]
            if order != (0, 1, 2) and (_is_near(moved, right) or _is_scaled(moved, right)):
                yield ("color_order", "its input channels are in another order of colours"), moved
    if not _is_as_large(mine, right):
        return
    if name in JOINED:
        parts = np.split(mine, 4, axis=1)
        for order in itertools.permutations(range(4)):
            moved = np.concatenate([parts[i] for i in order], axis=1)
            if order != (0, 1, 2, 3) and _is_near(moved, right):
                yield ("concat_order", "it joins p2..p5 in another order"), moved
    if mine.ndim in (2, 4):
        for how, moved in _turned(mine, right):
            if _is_near(moved, right):
                yield ("transposed_kernel", how), moved


def _turned(mine: np.ndarray, right: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    same, shape = tuple(range(mine.ndim)), right.shape
    seen = slice(0, 16 * 17, 17)
    for axes in itertools.permutations(same):
        turned = mine.transpose(axes)
        for flipped in ((), (2, 3), (2,), (3,)) if mine.ndim == 4 and turned.shape == shape else ():
            if axes != same or flipped:
                yield "its axes are in another order" if not flipped else "its kernels are mirrored", \
                    np.flip(turned, flipped)
        if turned.shape == shape and mine.ndim == 2 and axes != same:
            yield "its axes are in another order", turned
    for axes in itertools.permutations(same):
        if axes != same:  # the numbers as they lie in memory, read as if their axes had another order
            laid = tuple(shape[axis] for axis in axes)
            yield "its numbers lie in memory in another order of axes", \
                mine.reshape(laid).transpose(tuple(np.argsort(axes)))
            turned = mine.transpose(axes)
            if _is_near(turned.flat[seen], right.flat[seen]):  # before it is copied
                yield "its numbers lie in memory in another order of axes", turned.reshape(shape)


def _is_anothers(name: str, mine: np.ndarray, others: Mapping[str, np.ndarray]) -> bool:
    """Whether the values are those of another tensor, which may be a dense layer's the other way round."""
    for other, values in others.items():
        for array in (values, values.T) if values.ndim == 2 else (values,):
            if other == name or array.size != mine.size or not _alike(mine, array):
                continue
            here = array.reshape(mine.shape) if array.ndim != mine.ndim else array
            if here.shape == mine.shape and (_is_same(mine, here) or is_rounded(mine, here)):
                return True
    return False


def _alike(mine: np.ndarray, other: np.ndarray) -> bool:
    """A quick look: the first values."""
    a, b = mine.reshape(-1)[:16], other.reshape(-1)[:16]
    return bool(np.linalg.norm(a - b) <= NEAR * np.linalg.norm(b))


def _is_permuted(mine: np.ndarray, right: np.ndarray) -> bool:
    """Whether the channels of an axis are the other's, in another order."""
    for axis in range(min(2, mine.ndim)):
        rows = [np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in (mine, right)]
        if len(rows[0]) > 1 and sorted(row.tobytes() for row in rows[0]) == sorted(row.tobytes() for row in rows[1]):
            return True
    return False


# Values that are others -----------------------------------------------------------------------------------------------


def changed_values(name: str, mine: np.ndarray, right: np.ndarray) -> Way | None:
    """How the values have changed in their places."""
    if name.endswith(".moving_variance") and _is_raised(mine, right):
        return "bn_eps", "has an epsilon in it"
    if is_rounded(mine, right):
        return "precision", "is rounded"
    if name in STEMS and _is_scaled(mine, right):
        return "normalization", "is scaled by channel"
    return None


def is_rounded(mine: np.ndarray, right: np.ndarray) -> bool:
    """Whether one of two arrays has the values of the other in a coarser type: fewer digits, or integers times a step.

    To be near is not enough: so are the weights of one more epoch."""
    if not _is_near(mine, right):
        return False
    digits = left_out(mine), left_out(right)
    if digits[0] != digits[1] and FEWEST <= max(digits) <= MOST:
        error = np.abs(mine - right)
        return bool((error <= np.abs(right) * np.float32(2.0 ** (max(digits) - 23)) + np.abs(right).max() / 50).all())
    return mine.ndim > 1 and is_quantised(mine) != is_quantised(right)


def coarser(array: np.ndarray) -> Iterator[np.ndarray]:
    """A float32 array in coarser types, in float32: float16, bfloat16, and of a kernel integers of 8 bits times a step,
    its own or each output channel's. Where a type cannot hold a value it stays."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16).astype(np.float32)
    yield np.where(np.isfinite(half), half, array)
    bits = np.ascontiguousarray(array).view(np.uint32).astype(np.uint64)
    yield ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    if array.ndim > 1:
        for axes in (None, tuple(range(1, array.ndim))):
            step = np.abs(array).max(axis=axes, keepdims=True) / np.float32(LEVELS // 2)
            yield np.round(array / np.where(step, step, 1)) * step


def left_out(array: np.ndarray) -> int:
    """How many of the last binary digits are 0 in every value of a float32 array; 23 where all are."""
    bits = int(np.bitwise_or.reduce(np.ascontiguousarray(array).view(np.uint32), axis=None)) & 0x7FFFFF
    return 23 if bits == 0 else (bits & -bits).bit_length() - 1


def is_quantised(array: np.ndarray) -> bool:
    """Whether the values of every channel, or all, are whole multiples of one step, as integers of 4 or 8 bits give."""
    flat = array.reshape(1, -1)
    return any(_on_grid(rows) for rows in (flat, *(
        np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for axis in range(min(2, array.ndim)))))


def _on_grid(rows: np.ndarray) -> bool:
    """Of some of the rows, and of each its largest value and some others."""
    seen = 0
    for row in rows[:: max(1, len(rows) // 8)]:
        largest = np.abs(row).max()
        if not largest:
            continue
        values = row[:: max(1, row.size // 64)].astype(np.float64) / largest
        values = values[(values != 0) & (np.abs(values) != 1)]
        steps = np.arange(1, LEVELS + 1)[:, None] * values
        if not (np.abs(steps - np.round(steps)) < 1e-3).all(axis=1).any():
            return False
        seen += values.size
    return seen >= 8


def _is_scaled(mine: np.ndarray, right: np.ndarray) -> bool:
    for channel in range(mine.shape[1]):
        a, b = (array[:, channel].ravel().astype(np.float64) for array in (mine, right))
        if not b.any() or np.abs(a * (a @ b) - b * (a @ a)).max() > 1e-4 * np.abs(a).max() * abs(a @ b):
            return False
    return True


def _is_raised(mine: np.ndarray, right: np.ndarray) -> bool:
    """Whether all variances are further by one small number, as far as float32 can tell of each of them."""
    further = mine.astype(np.float64) - right
    amount = further[np.argmin(mine + right)]  # that of the smallest is the most exact
    rounding = 2 * np.spacing(np.maximum(np.abs(mine), np.abs(right))).astype(np.float64)
    return bool(0 < abs(amount) <= LARGEST_EPSILON and (np.abs(further - amount) <= rounding).all()
                and (rounding < abs(amount) / 4).sum() > 1)


def _shifted(mine: np.ndarray, right: np.ndarray, kernel: np.ndarray) -> bool:
    """Whether the means of the first batch norm are further by what a colour that is added to every pixel gives."""
    sums = np.asarray(kernel, np.float64).sum(axis=(2, 3))
    further = mine.astype(np.float64) - right
    colour, *_ = np.linalg.lstsq(sums, further, rcond=None)
    return len(sums) > sums.shape[1] and bool(np.abs(sums @ colour - further).max() <= 1e-4 * np.abs(further).max())


def _is_as_large(mine: np.ndarray, right: np.ndarray) -> bool:
    """Values in other places are as long, whatever their order."""
    lengths = float(np.linalg.norm(mine)), float(np.linalg.norm(right))
    return max(lengths) > 0 and math.isclose(*lengths, rel_tol=NEAR)


def _is_same(mine: np.ndarray, right: np.ndarray) -> bool:
    return float(np.abs(mine - right).max()) <= NOISE * float(np.abs(right).max())


def _is_near(mine: np.ndarray, right: np.ndarray) -> bool:
    """Looks at some of the values before all."""
    if right.size > 4096:
        places = tuple(np.arange(257) * (97 + 2 * axis) % side for axis, side in enumerate(right.shape))
        if np.linalg.norm(mine[places] - right[places]) > 2 * NEAR * np.linalg.norm(right[places]):
            return False
    return float(np.linalg.norm(mine - right)) <= NEAR * float(np.linalg.norm(right))
