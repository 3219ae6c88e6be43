"""A drawn scene as a camera would give it: light, lens, sensor, compression."""

from __future__ import annotations

import cv2
import numpy as np

from dbnet.datasets.synth_texture import clouds, grained, noise


def photographed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 BGR, another array of the same size; nothing moves in it."""
    height, width = image.shape[:2]
    if rng.random() < 0.5:
        image = cv2.multiply(image, _light(height, width, rng), dtype=cv2.CV_8U)
    image = cv2.LUT(image, _curve(rng))
    image = _out_of_focus(image, rng)
    if rng.random() < 0.7:
        image = _grainy(image, rng)
    if rng.random() < 0.6:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    return image


def _light(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width, 3) float32 around 1: how brightly each place is lit."""
    small = clouds(9, 16, rng, 0.5) * np.float32(rng.uniform(0.05, 0.3)) + np.float32(rng.uniform(0.8, 1.15))
    field = cv2.resize(np.maximum(small, np.float32(0.3)), (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.merge([field, field, field])


def _curve(rng: np.random.Generator) -> np.ndarray:
    """(256, 1, 3) uint8: exposure, contrast and white balance."""
    levels = np.arange(256)[:, np.newaxis] / 255
    gain = rng.normal(1, 0.05, 3) * rng.uniform(0.8, 1.12)
    bent = levels ** rng.uniform(0.75, 1.3) * gain * rng.uniform(0.75, 1) + rng.uniform(0, 0.12)
    return np.clip(np.rint(bent * 255), 0, 255).astype(np.uint8)[:, np.newaxis]


def _out_of_focus(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sharp, blurred, shaken, or enlarged from fewer pixels."""
    height, width = image.shape[:2]
    choice = rng.random()
    if choice < 0.35:
        return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.7)))
    if choice < 0.45:
        length = int(rng.integers(3, 9))
        kernel = np.zeros((length, length), np.float32)
        kernel[length // 2] = 1
        turn = cv2.getRotationMatrix2D((length / 2 - 0.5, length / 2 - 0.5), float(rng.uniform(0, 180)), 1)
        kernel = cv2.warpAffine(kernel, turn, (length, length))
        return cv2.filter2D(image, -1, kernel / kernel.sum())
    if choice < 0.65:
        factor = rng.uniform(0.45, 0.9)
        small = cv2.resize(image, (max(1, round(width * factor)), max(1, round(height * factor))),
                           interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def _grainy(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With a sensor's noise, fine or as wide as two pixels."""
    height, width = image.shape[:2]
    coarse = 2 if rng.random() < 0.3 else 1
    shape = -(-height // coarse), -(-width // coarse)
    strength = rng.uniform(1, 9) / 104  # the deviation of the sum of two such noises
    grain = cv2.addWeighted(noise(shape, rng), strength, noise(shape, rng), strength, 128 - 255 * strength)
    if coarse > 1:
        grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)
    return grained(image, grain, apart=True)
