"""Two networks in like terms: exporters multiply batch norms into the convolutions before them, training does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from dbnet.parameters import Role, parameters
from parity.lab import Network
from parity.tensor_ways import NOISE

_LEAVES = ("gamma", "beta", "moving_mean", "moving_variance")


def in_like_terms(candidate: Network, reference: Network) -> Iterator[tuple[Network, Network]]:
    """The two as they are; if norms of the candidate are folded that the reference has, the candidate with these norms
    beside its kernels; the reference with its norms folded too. All compute what the two do."""
    yield candidate, reference
    pairs = [pair for pair in _pairs(candidate) if _is_folded(candidate, pair[1]) and _is_known(reference, pair)
             and not _is_folded(reference, pair[1])]
    if pairs:
        yield replace(candidate, weights=_unfolded(candidate, reference, pairs)), reference
        yield candidate, replace(reference, weights=_folded(reference, pairs))


def _pairs(network: Network) -> list[tuple[str, str]]:
    """(kernel, path of the norm behind it) of the convolutions without a bias, which stand in this order."""
    order = [p for p in parameters(network.spec) if p.name in network.weights]
    return [(p.name, following.name.rpartition(".")[0]) for p, following in pairwise(order)
            if p.name.endswith(".weight") and following.role in (Role.NORM_SCALE, Role.NORM_SHIFT, Role.NORM_MEAN)]


def _norm(network: Network, path: str) -> tuple[np.ndarray, np.ndarray]:
    """What a norm multiplies by and adds, per channel, in float64."""
    gamma, beta, mean, variance = (np.asarray(network.weights[f"{path}.{leaf}"], np.float64) for leaf in _LEAVES)
    scale = gamma / np.sqrt(variance + network.spec.norm_eps)
    return scale, beta - scale * mean


def _is_folded(network: Network, path: str) -> bool:
    return bool(np.abs(_norm(network, path)[0] - 1).max() < 1e-6 and not network.weights[f"{path}.moving_mean"].any())


def _is_known(network: Network, pair: tuple[str, str]) -> bool:
    return pair[0] in network.weights and all(f"{pair[1]}.{leaf}" in network.weights for leaf in _LEAVES)


def _unfolded(candidate: Network, reference: Network, pairs: list[tuple[str, str]]) -> dict[str, np.ndarray]:
    weights, terms = dict(candidate.weights), Network(candidate.spec, reference.weights)
    for kernel, path in pairs:
        scale, shift = _norm(terms, path)
        if not scale.all():
            continue
        weights |= {f"{path}.{leaf}": reference.weights[f"{path}.{leaf}"] for leaf in _LEAVES}
        mine = weights[kernel].astype(np.float64) / scale[:, None, None, None]
        weights[kernel] = _snapped(mine, reference.weights[kernel])
        right = reference.weights[f"{path}.beta"]
        weights[f"{path}.beta"] = _snapped(candidate.weights[f"{path}.beta"] - shift + right, right)
    return weights


def _folded(reference: Network, pairs: list[tuple[str, str]]) -> dict[str, np.ndarray]:
    weights = dict(reference.weights)
    for kernel, path in pairs:
        scale, shift = _norm(reference, path)
        weights[kernel] = (weights[kernel] * scale[:, None, None, None]).astype(np.float32)
        ones = np.ones(len(scale), np.float32)
        norm = (ones, shift.astype(np.float32), 0 * ones, ones - np.float32(reference.spec.norm_eps))
        weights |= {f"{path}.{leaf}": array for leaf, array in zip(_LEAVES, norm, strict=True)}
    return weights


def _snapped(mine: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float32; the right values, or zeros, where nothing but noise lies between."""
    for known in (right, np.zeros_like(right)):
        if known.shape == mine.shape and np.abs(mine - known).max() <= NOISE * np.abs(right).max():
            return known
    return mine.astype(np.float32)
