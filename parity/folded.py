"""Two networks in like terms: exporters multiply batch norms into the convolutions before them, training does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, combinations
from typing import Any

import numpy as np

from converters.tensor_file import Weights
from dbnet.parameters import Parameter, Role, parameters
from parity.lab import Network
from parity.tensor_ways import LARGEST_EPSILON, NOISE, coarser

_LEAVES = ("gamma", "beta", "moving_mean", "moving_variance")
#: Of so many channels, those with the least variance, the epsilon is read that was folded into a kernel.
_TELLING = 5


@dataclass(frozen=True)
class Pair:
    """A convolution and the norm behind it. kernel, bias: names, "" without a bias. axis: of the output channels."""

    kernel: str
    bias: str
    norm: str
    axis: int


@dataclass(frozen=True, eq=False)
class _Terms:
    """What a convolution's bias and the norm behind it may have been, (C,) each, in float32."""

    gamma: np.ndarray
    beta: np.ndarray
    moving_mean: np.ndarray
    moving_variance: np.ndarray
    bias: np.ndarray
    eps: float
    has_bias: bool = False

    @cached_property
    def scale(self) -> np.ndarray:
        """What the kernel is multiplied by, in float64."""
        with np.errstate(invalid="ignore", divide="ignore"):  # what a damaged file holds may be no variance
            return self.gamma / np.sqrt(self.moving_variance.astype(np.float64) + self.eps)

    @cached_property
    def total(self) -> np.ndarray:
        """What is added behind the kernel, in float64."""
        return self.beta + self.scale * (self.bias.astype(np.float64) - self.moving_mean)

    @property
    def reach(self) -> float:
        """The largest of the numbers that `total` is the sum of."""
        return float(max(np.abs(self.beta).max(), np.abs(self.scale * self.bias).max(),
                         np.abs(self.scale * self.moving_mean).max()))

    def fits_scale(self, scale: np.ndarray) -> bool:
        """Whether it gives it, where it is known: no number where a channel's kernel is nothing but zeros."""
        return bool(((np.abs(self.scale - scale) <= NOISE * np.abs(self.scale)) | np.isnan(scale)).all())

    def fits(self, scale: np.ndarray, total: np.ndarray) -> bool:
        return self.fits_scale(scale) and bool(np.abs(self.total - total).max() <= NOISE * self.reach)

    def with_total(self, total: np.ndarray) -> _Terms:
        """With the shift that gives it; with the bias, where there seems to be none."""
        further = total - self.total
        if np.abs(further).max() <= NOISE * self.reach:
            return self
        if self.beta.any() and not self.bias.any() and self.scale.all() and self.has_bias:
            return replace(self, bias=(further / self.scale).astype(np.float32))
        return replace(self, beta=(self.beta + further).astype(np.float32))


def in_like_terms(candidate: Network, reference: Network) -> Iterator[tuple[Network, Network]]:
    """Where a norm of one of the two is folded and the other's is not, with the norm beside its kernel; then the two as
    they are; then both with the norm folded. All compute what the two do."""
    mine, theirs = folded_apart(candidate, reference), folded_apart(reference, candidate)
    if mine or theirs:
        yield (replace(candidate, weights=_unfolded(candidate, reference, mine)),
               replace(reference, weights=_unfolded(reference, candidate, theirs)))
    yield candidate, reference
    if mine or theirs:
        yield (replace(candidate, weights=_folded(candidate, theirs)),
               replace(reference, weights=_folded(reference, mine)))


def folded_layers(a: Network, b: Network) -> dict[str, str]:
    """The paths of convolutions that give another output in two networks that are alike, since the norm behind is
    folded in one of them, and of these norms, which give the same."""
    return {pair.kernel.rpartition(".")[0]: pair.norm for pair in (*folded_apart(a, b), *folded_apart(b, a))}


def folded_apart(network: Network, other: Network) -> list[Pair]:
    """Whose norms are folded in `network`, and are not in the other."""
    return [pair for pair in _pairs(network) if _is_folded(network, pair) and _knows(other, pair)
            and not _is_folded(other, pair) and other.weights[pair.kernel].shape == network.weights[pair.kernel].shape]


def _pairs(network: Network) -> list[Pair]:
    """In the order of the network, of which each norm follows the convolution that it belongs to."""
    found: list[Pair] = []
    conv: Parameter | None = None
    bias = ""
    for p in parameters(network.spec):
        if p.name not in network.weights:
            continue
        if p.role in (Role.KERNEL, Role.TRANSPOSED_KERNEL):
            conv, bias = p, ""
        elif conv is not None and p.role is Role.BIAS and p.path == conv.path:
            bias = p.name
        elif conv is not None and p.role.is_norm:
            found.append(Pair(conv.name, bias, p.path, int(conv.role is Role.TRANSPOSED_KERNEL)))
            conv = None
        elif not p.role.is_norm:
            conv = None
    return found


def _knows(network: Network, pair: Pair) -> bool:
    return all(name in network.weights for name in (
        pair.kernel, *filter(None, [pair.bias]), *(f"{pair.norm}.{leaf}" for leaf in _LEAVES)))


def _terms(network: Network, pair: Pair) -> _Terms:
    gamma, beta, mean, variance = (np.asarray(network.weights[f"{pair.norm}.{leaf}"], np.float32) for leaf in _LEAVES)
    bias = np.asarray(network.weights[pair.bias], np.float32) if pair.bias else np.zeros_like(gamma)
    return _Terms(gamma, beta, mean, variance, bias, network.spec.norm_eps, bool(pair.bias))


def _is_folded(network: Network, pair: Pair) -> bool:
    if not _knows(network, pair):
        return False
    terms = _terms(network, pair)
    return bool(np.abs(terms.scale - 1).max() < 1e-6 and not terms.moving_mean.any())


def _by_channel(values: np.ndarray, pair: Pair) -> np.ndarray:
    """So that (C,) values multiply the output channels of a kernel."""
    return values[None, :, None, None] if pair.axis else values[:, None, None, None]


# Taken out ------------------------------------------------------------------------------------------------------------


@np.errstate(all="ignore")
def _unfolded(folded: Network, other: Network, pairs: Sequence[Pair]) -> dict[str, np.ndarray]:
    """The norms beside the kernels, with the other's values wherever they give what was folded: what is left is the
    fault."""
    weights = dict(folded.weights)
    known = {pair.norm: _terms(Network(folded.spec, other.weights), pair) for pair in _pairs(other)
             if _knows(other, pair)}
    epsilon: tuple[float, float] | None = None  # with the least variance of the norm that it was read from
    left = []
    kernels: dict[tuple[tuple[int, ...], int], list[str]] = {}
    for each in pairs:
        kernels.setdefault((other.weights[each.kernel].shape, each.axis), []).append(each.kernel)
    for pair in pairs:
        terms, kernel = _terms(folded, pair), np.asarray(other.weights[pair.kernel], np.float32)
        mine = folded.weights[pair.kernel].astype(np.float64) * _by_channel(terms.scale, pair)
        others = (other.weights[name] for name in kernels[kernel.shape, pair.axis] if name != pair.kernel)
        read = _read(mine, chain((kernel,), coarser(kernel), others), pair)
        if read is None:
            left.append((pair, mine, terms.total))
            continue
        plain, scale = read
        found = _explained(known, pair, scale, terms.total)
        if found is None:  # its scale is nobody's
            right = known[pair.norm]
            gamma = scale * np.sqrt(right.moving_variance.astype(np.float64) + right.eps)
            gamma = np.where(np.isnan(scale), right.gamma, gamma).astype(np.float32)
            found = replace(right, gamma=gamma).with_total(terms.total)
        further = float(np.median(found.moving_variance.astype(np.float64) - known[pair.norm].moving_variance))
        least = float(known[pair.norm].moving_variance.min())
        if epsilon is None or least < epsilon[1]:
            epsilon = further, least
        _put(weights, pair, plain, found)
    for pair, mine, total in left:
        right = known[pair.norm]
        if epsilon is not None and 0 < abs(epsilon[0]) <= LARGEST_EPSILON:
            right = _further(right, epsilon[0])
        by = _by_channel(right.scale, pair)
        plain = np.where(by, mine / by, other.weights[pair.kernel]).astype(np.float32)  # where it was lost, the right
        _put(weights, pair, plain, right.with_total(total))
    return weights


def _put(weights: dict[str, np.ndarray], pair: Pair, kernel: np.ndarray, terms: _Terms) -> None:
    weights[pair.kernel] = kernel
    weights |= {f"{pair.norm}.{leaf}": getattr(terms, leaf) for leaf in _LEAVES}
    if pair.bias:
        weights[pair.bias] = terms.bias


def _read(mine: np.ndarray, kernels: Iterable[np.ndarray], pair: Pair) -> tuple[np.ndarray, np.ndarray] | None:
    """The one of some kernels that was multiplied, and by what in each channel, which is no number where that holds
    zeros; None if it was another."""
    rows = np.moveaxis(mine, pair.axis, 0).reshape(mine.shape[pair.axis], -1)
    for plain in kernels:
        columns = np.moveaxis(plain, pair.axis, 0).reshape(rows.shape).astype(np.float64)
        lengths = (columns * columns).sum(axis=1)
        scale = (rows * columns).sum(axis=1) / np.where(lengths, lengths, 1.0)
        made = scale[:, None] * columns
        if (np.abs(rows - made).max(axis=1) <= NOISE * np.abs(made).max(axis=1)).all():
            return plain, np.where(lengths, scale, np.nan)
    return None


def _explained(known: Mapping[str, _Terms], pair: Pair, scale: np.ndarray, total: np.ndarray) -> _Terms | None:
    """What the norm may have been: the right one, or one of the known faults; if nothing gives the shift, what gives
    the scale, with the shift that is left. None if nothing gives that."""
    right = known[pair.norm]
    likely = [right, *_other_epsilon(right, scale), *_rounded(right)]
    tried: list[Iterable[_Terms]] = [likely, (less for terms in likely for less in _without(terms)), _swapped(right),
                                     _of_others(known, pair.norm)]
    for some in tried:
        for terms in some:
            if terms.fits(scale, total):
                return terms
    return next((terms.with_total(total) for terms in likely if terms.fits_scale(scale)), None)


def _other_epsilon(right: _Terms, scale: np.ndarray) -> Iterator[_Terms]:
    """The epsilon that gives the scale, put into the variances."""
    gamma, variance = right.gamma.astype(np.float64), right.moving_variance.astype(np.float64)
    order = [i for i in np.argsort(variance) if gamma[i] and scale[i]][:_TELLING]
    if order:
        further = float(np.median((gamma[order] / scale[order]) ** 2 - variance[order])) - right.eps
        if 0 < abs(further) <= LARGEST_EPSILON:
            yield _further(right, further)


def _further(terms: _Terms, amount: float) -> _Terms:
    return replace(terms, moving_variance=(terms.moving_variance.astype(np.float64) + amount).astype(np.float32))


def _rounded(right: _Terms) -> Iterator[_Terms]:
    for leaves in zip(*(coarser(getattr(right, leaf)) for leaf in _LEAVES), strict=True):
        changes: dict[str, Any] = dict(zip(_LEAVES, leaves, strict=True))
        yield replace(right, **changes)


def _without(terms: _Terms) -> Iterator[_Terms]:
    for leaf in ("bias", "beta", "moving_mean"):
        nothing: dict[str, Any] = {leaf: np.zeros_like(terms.beta)}
        yield replace(terms, **nothing)
    yield replace(terms, bias=np.zeros_like(terms.beta), beta=np.zeros_like(terms.beta))


def _swapped(right: _Terms) -> Iterator[_Terms]:
    for a, b in combinations(_LEAVES, 2):
        if "moving_variance" in (a, b) and (getattr(right, a if b == "moving_variance" else b) < 0).any():
            continue
        yield replace(right, **{a: getattr(right, b), b: getattr(right, a)})


def _of_others(known: Mapping[str, _Terms], norm: str) -> Iterator[_Terms]:
    """With the values of another norm of as many channels: all of them, or one."""
    right = known[norm]
    for name, terms in known.items():
        if name != norm and terms.gamma.shape == right.gamma.shape:
            yield terms
            yield replace(terms, bias=right.bias)
            for leaf in _LEAVES:
                yield replace(right, **{leaf: getattr(terms, leaf)})


# Folded ---------------------------------------------------------------------------------------------------------------


def _folded(network: Network, pairs: Sequence[Pair]) -> Weights:
    weights = dict(network.weights)
    for pair in pairs:
        terms = _terms(network, pair)
        kernel = weights[pair.kernel] * _by_channel(terms.scale, pair)
        ones = np.ones_like(terms.gamma)
        identity = (ones, terms.total.astype(np.float32), 0 * ones, ones - np.float32(terms.eps))
        _put(weights, pair, kernel.astype(np.float32), _Terms(*identity, 0 * ones, terms.eps))
    return weights
