"""Weights to begin a training with: the same in both halves, from a seed and each parameter's name."""

from __future__ import annotations

import math
import zlib

import numpy as np

from dbnet.parameters import Parameter, Role, parameters
from dbnet.spec import ModelSpec


def initial_weights(spec: ModelSpec, seed: int) -> dict[str, np.ndarray]:
    """Canonical names -> float32 arrays.

    Kernels as MindOCR draws them (He et al. 2015): the backbone's from a normal distribution by their outputs, those of
    neck and head from a uniform one by their inputs; batch norms do nothing yet, biases are 0. Deformable convolutions
    begin with offsets of 0 (and masks of 1/2), as by MhLiao/DB.
    """
    return {p.name: _values(p, seed) for p in parameters(spec)}


def _values(parameter: Parameter, seed: int) -> np.ndarray:
    shape, role = parameter.shape, parameter.role
    if role in (Role.NORM_SCALE, Role.NORM_VARIANCE):
        return np.ones(shape, np.float32)
    if role in (Role.NORM_SHIFT, Role.NORM_MEAN, Role.BIAS) or parameter.path.endswith(".conv2_offset"):
        return np.zeros(shape, np.float32)
    rng = np.random.default_rng([seed, zlib.crc32(parameter.name.encode())])
    if role is Role.DENSE:
        return rng.normal(0.0, 0.01, shape).astype(np.float32)
    window = math.prod(shape[2:])
    if parameter.path.startswith("backbone."):
        return rng.normal(0.0, math.sqrt(2 / (shape[0] * window)), shape).astype(np.float32)
    limit = math.sqrt(6 / (shape[1] * window))
    return rng.uniform(-limit, limit, shape).astype(np.float32)
