"""What may be wrong with a model that differs from another: known differences, each with the model mended of it.

Data in, data out: a suspect is a cause's name and the spec and weights with which it would be gone. Whether it is the
cause is seen by running them (`parity.causes`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args, get_type_hints

import numpy as np

from converters.tensor_file import Weights
from converters.weights import same_bits
from dbnet.spec import ModelSpec
from parity.lab import Network

#: The names that a cause can have.
CAUSES = ("stem_pool", "depthwise_padding", "bn_eps", "step_function", "se_gate", "concat_order", "color_order",
          "normalization", "resize_rule", "transposed_kernel", "swapped_tensors", "missing_bias", "precision",
          "upsample_mode", "unknown")
#: Field of a spec -> the cause's name. Offsets that are read otherwise are maps that stand for others: CAUSES, which
#: scripts rely on, has no name of its own for them.
FIELDS = {"stem_pool": "stem_pool", "depthwise_padding": "depthwise_padding", "norm_eps": "bn_eps",
          "se_gate": "se_gate", "neck_gate": "se_gate", "upsampling": "upsample_mode", "offsets": "swapped_tensors",
          "step_function": "step_function", "k": "step_function"}
#: What projects use for the epsilon of batch norms.
EPSILONS = (1e-5, 1e-3, 1e-4, 1e-6, 2e-5, 1e-2)
#: Convolutions whose input is the four joined maps.
_JOINED = ("head.segm.0.weight", "head.thresh.0.weight", "neck.fuse.conv.weight")
_STEMS = ("backbone.conv1.weight", "backbone.features.0.weight")


@dataclass(frozen=True, eq=False)
class Suspect:
    """cause: of CAUSES. what: in words. mended: the candidate without it."""

    cause: str
    what: str
    mended: Network


def by_semantics(candidate: Network, reference: ModelSpec) -> Iterator[Suspect]:
    """One field changed, to the reference's value first. Others are tried too: a record may be wrong."""
    hints = get_type_hints(ModelSpec)
    for name, cause in FIELDS.items():
        if name != "norm_eps" and name not in candidate.spec.relevant_semantics():
            continue
        mine = getattr(candidate.spec, name)
        others: tuple[Any, ...] = EPSILONS if name == "norm_eps" else get_args(hints[name])  # none for a number
        for value in dict.fromkeys((getattr(reference, name), *others)):
            # A gate that is not there has no weights either.
            if value != mine and "none" not in (value, mine):
                mended = replace(candidate, spec=replace(candidate.spec, **{name: value}))
                yield Suspect(cause, f"{name} is {mine}, not {value}", mended)


def by_weights(candidate: Network, reference: Weights) -> Iterator[Suspect]:
    """Tensors that differ from the reference's in a way that has a name; mended are all that differ in that way."""
    weights = candidate.weights
    differing = [name for name, array in weights.items()
                 if name in reference and reference[name].shape == array.shape
                 and not same_bits(np.asarray(array, np.float32), np.asarray(reference[name], np.float32))]
    ways: dict[tuple[str, str], list[str]] = {}
    for name in differing:
        way = _way(name, differing, weights, reference)
        if way is not None:
            ways.setdefault(way, []).append(name)
    for (cause, how), names in ways.items():
        told = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        mended = replace(candidate, weights={**weights, **{name: reference[name] for name in names}})
        yield Suspect(cause, f"{told}: {how}", mended)


def _way(name: str, differing: list[str], weights: Weights, reference: Weights) -> tuple[str, str] | None:
    """(cause, how) of one tensor that differs, None if it is no difference that is known."""
    mine, right = (np.asarray(array, np.float32) for array in (weights[name], reference[name]))
    if not mine.any() and right.any() and name.endswith((".bias", ".beta")):
        return "missing_bias", "is zero"
    if name in _STEMS and mine.shape[1] == 3 and np.array_equal(mine[:, ::-1], right):
        return "color_order", "its input channels are in the other order of colours"
    if name in _JOINED and np.array_equal(reversed_blocks(mine), right):
        return "concat_order", "it joins p2..p5 in the other order"
    if mine.ndim == 4 and (how := _transposition(mine, right)) is not None:
        return "transposed_kernel", how
    other = next((n for n in differing if n != name and reference[n].shape == mine.shape
                  and np.array_equal(mine, np.asarray(reference[n], np.float32))), None)
    if other is not None:
        return "swapped_tensors", "holds another tensor's values"
    if mine.ndim and _is_permuted(mine, right):
        return "swapped_tensors", "its channels are in another order"
    if _is_rounded(mine, right):
        return "precision", "is rounded"
    if name in _STEMS and _is_scaled(mine, right):
        return "normalization", "is scaled by channel"
    return None


def reversed_blocks(kernel: np.ndarray) -> np.ndarray:
    """A kernel (O, I, h, w) for the four joined maps in the other order."""
    return np.concatenate(np.split(kernel, 4, axis=1)[::-1], axis=1)


def _transposition(mine: np.ndarray, right: np.ndarray) -> str | None:
    for axes in itertools.permutations(range(4)):
        turned = mine.transpose(axes)
        if turned.shape == right.shape:
            for flipped in ((), (2, 3), (2,), (3,)):
                if (axes != (0, 1, 2, 3) or flipped) and np.array_equal(np.flip(turned, flipped), right):
                    return "its axes are in another order" if not flipped else "its kernels are mirrored"
    return None


def _is_permuted(mine: np.ndarray, right: np.ndarray) -> bool:
    """Whether the channels of an axis are the other's, in another order."""
    for axis in range(min(2, mine.ndim)):
        rows = [np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in (mine, right)]
        if len(rows[0]) > 1 and sorted(row.tobytes() for row in rows[0]) == sorted(row.tobytes() for row in rows[1]):
            return True
    return False


def _is_rounded(mine: np.ndarray, right: np.ndarray) -> bool:
    """Whether the values agree to a format of fewer digits: 8 bits of bfloat16, of float16 below 1."""
    scale = np.maximum(np.abs(right), np.float32(2.0**-14))
    return bool((np.abs(mine - right) <= scale * np.float32(2.0**-7)).all())


def _is_scaled(mine: np.ndarray, right: np.ndarray) -> bool:
    for channel in range(mine.shape[1]):
        a, b = mine[:, channel].ravel(), right[:, channel].ravel()
        if not b.any() or np.abs(a * (a @ b) - b * (a @ a)).max() > 1e-4 * np.abs(a).max() * abs(a @ b):
            return False
    return True

