"""Seeded weights and images for proofs: every value depends on (seed, name, shape) only, none is at a default.

A parameter left at gamma 1, beta 0, mean 0 or variance 1 could be swapped or dropped without any output changing.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

from dbnet.parameters import Parameter, Role, parameters
from dbnet.spec import ModelSpec


def seeded_weights(spec: ModelSpec, seed: int = 0, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Canonical names -> arrays of the spec's shapes, scaled so that 50 layers neither vanish nor saturate the head.

    dtype: a numpy name, or "bfloat16".
    """
    if dtype == "bfloat16":
        import ml_dtypes
        return {p.name: _values(p, seed).astype(ml_dtypes.bfloat16) for p in parameters(spec)}
    return {p.name: _values(p, seed).astype(dtype) for p in parameters(spec)}


def _values(parameter: Parameter, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, zlib.crc32(parameter.name.encode())])
    shape = parameter.shape
    if parameter.role in (Role.NORM_SCALE, Role.NORM_VARIANCE):
        return rng.uniform(0.6, 1.4, shape)
    if parameter.role in (Role.NORM_SHIFT, Role.NORM_MEAN, Role.BIAS):
        return rng.normal(0.0, 0.1, shape)
    return rng.normal(0.0, 1.0 / math.sqrt(math.prod(shape[1:])), shape)


def seeded_images(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """(count, 3, height, width) float32 network inputs of about unit spread: gradients, bars and noise."""
    rng = np.random.default_rng([seed, height, width])
    y, x = np.mgrid[0:height, 0:width]
    images = rng.normal(0.0, 0.2, (count, 3, height, width))
    for image in images:
        for channel in image:
            angle, period = rng.uniform(0, math.pi), rng.uniform(8, 64)
            channel += np.sin((x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period)
            top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
            channel[top:top + height // 3, left:left + width // 3] += rng.normal(0.0, 2.0)
    return (images / images.std()).astype(np.float32)
