"""The examples that a network learns from follow from the seed, the epoch and their place alone."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dbnet.augment import Augmentation
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.sample import Sample
from dbnet.targets import make_targets
from dbnet.training_set import MOST_UNREADABLE, TargetSettings, TrainingSet, batches_of, stacked

ROOT = Path(__file__).parents[1]
SMALL = replace(Augmentation(), crop_size=(64, 96))
TARGETS = TargetSettings(min_text_size=2)


def write_samples(folder: Path, count: int = 6) -> list[Sample]:
    samples = []
    for i in range(count):
        image, polygons = draw(i, 96, 160, 3)
        cv2.imwrite(str(folder / f"{i}.png"), image)
        samples.append(Sample(folder / f"{i}.png", polygons, np.arange(len(polygons)) == 9, [""] * len(polygons)))
    return samples


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    return write_samples(tmp_path_factory.mktemp("images"))


@pytest.fixture
def training_set(samples) -> TrainingSet:
    return TrainingSet(samples, SMALL, TARGETS, 5)


def digest(example) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in example[:-1])
                          + repr(example.names).encode()).hexdigest()


def test_an_example(training_set) -> None:
    image, binary_map, mask, thresh_map, thresh_mask, names = training_set.draw(0, 2)
    assert image.shape == (64, 96, 3) and image.dtype == np.uint8 and names == ("2.png",)
    for values, kind in ((binary_map, np.uint8), (mask, np.uint8), (thresh_map, np.float32), (thresh_mask, np.uint8)):
        assert values.shape == (64, 96) and values.dtype == kind
    assert {*np.unique(binary_map), *np.unique(mask), *np.unique(thresh_mask)} <= {0, 1}


def test_its_maps_are_those_of_its_texts(samples) -> None:
    still = replace(SMALL, brightness=0, saturation=0, flip_p=0, rotate_p=0, scale_p=0, crop_p=0, crop_size=(96, 160))
    settings = TargetSettings(0.55, 0.4, 4, 0.2, 0.8)
    example = TrainingSet(samples, still, settings, 5).draw(3, 1)
    wanted = make_targets(samples[1].polygons, samples[1].ignore, 96, 160, 0.55, 4, 0.2, 0.8, border_shrink_ratio=0.4)
    for ours, theirs in zip(example[1:5], wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(example.image, cv2.imread(str(samples[1].image))[:, :, ::-1])


def test_the_same_for_ever(samples, training_set) -> None:
    """In any order, in another set of the same seed, and in another process."""
    found = {(epoch, index): digest(training_set.draw(epoch, index)) for epoch in (0, 1) for index in range(6)}
    assert len(set(found.values())) == 12
    other = TrainingSet(samples, SMALL, TARGETS, 5)
    assert {key: digest(other.draw(*key)) for key in reversed(found)} == found
    assert digest(TrainingSet(samples, SMALL, TARGETS, 6).draw(0, 0)) != found[0, 0]
    code = (f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
            f"from pathlib import Path\nfrom tests.test_training_set import *\n"
            f"samples = write_samples(Path({str(samples[0].image.parent)!r}))\n"
            f"print(digest(TrainingSet(samples, SMALL, TARGETS, 5).draw(1, 4)))")
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == found[1, 4]


def test_an_image_is_turned_as_its_exif_says_unless_that_is_ignored(tmp_path) -> None:
    """The stored image is 96 x 64 with its left half white; orientation 6 turns that half to the top."""
    stored = np.zeros((64, 96, 3), np.uint8)
    stored[:, :48] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "a.jpg", quality=95, exif=exif)
    still = replace(SMALL, brightness=0, saturation=0, flip_p=0, rotate_p=0, scale_p=0, crop_p=0)
    for ignored, size in ((True, (64, 96)), (False, (96, 64))):
        found = TrainingSet([Sample(tmp_path / "a.jpg", [], np.zeros(0, bool), [])], replace(still, crop_size=size),
                            TARGETS, 5, ignore_orientation=ignored).draw(0, 0).image
        bright, dark = (found[:, :48], found[:, 48:]) if ignored else (found[:48], found[48:])
        assert bright.min() > 200
        assert dark.max() < 50


def test_orders(training_set) -> None:
    orders = [training_set.order(epoch) for epoch in range(8)]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    np.testing.assert_array_equal(orders[3], training_set.order(3))


def test_a_batch(training_set) -> None:
    parts = [training_set.draw(0, index) for index in (4, 1)]
    batch = stacked(parts)
    assert batch.names == ("4.png", "1.png") and batch.image.shape == (2, 64, 96, 3)
    np.testing.assert_array_equal(batch.thresh_map[1], parts[1].thresh_map)


@pytest.mark.parametrize(("count", "size", "world"), [(10, 3, 1), (10, 2, 2), (12, 2, 3), (5, 6, 1), (6, 6, 1)])
def test_batches_of_several_workers_share_the_order(count: int, size: int, world: int) -> None:
    order = np.random.default_rng(0).permutation(count)
    parts = [list(batches_of(order, size, rank, world)) for rank in range(world)]
    assert {len(part) for part in parts} == {count // (size * world)}
    together = [place for row in zip(*parts, strict=True) for batch in row for place in batch]
    np.testing.assert_array_equal(together, order[:count // (size * world) * size * world])


def broken(samples: list[Sample], folder: Path, places: list[int]) -> list[Sample]:
    (folder / "broken.png").write_bytes(b"no image")
    return [replace(sample, image=folder / ("broken.png" if i % 2 else "missing.png")) if i in places else sample
            for i, sample in enumerate(samples)]


def test_the_next_image_takes_the_place_of_a_broken_one(samples, tmp_path, caplog) -> None:
    found = TrainingSet(broken(samples, tmp_path, [2, 3, 5]), SMALL, TARGETS, 5)
    assert [found.draw(0, i).names[0] for i in range(6)] == ["0.png", "1.png", "4.png", "4.png", "4.png", "0.png"]
    assert [found.draw(1, i).names[0] for i in (2, 5)] == ["4.png", "0.png"]
    assert [str(tmp_path / name) in record.getMessage() for name, record in zip(
        ("missing.png", "broken.png"), caplog.records, strict=True)] == [True, True]  # each once
    assert all("the next image takes its place" in record.getMessage() for record in caplog.records)
    np.testing.assert_array_equal(found.draw(0, 0).image, TrainingSet(samples, SMALL, TARGETS, 5).draw(0, 0).image)


@pytest.mark.parametrize("count", [1, 3, MOST_UNREADABLE + 30])
def test_a_set_without_a_readable_image(samples, tmp_path, count: int) -> None:
    found = TrainingSet([replace(samples[0], image=tmp_path / f"{i}.png") for i in range(count)], SMALL, TARGETS, 5)
    with pytest.raises(DbnetError, match="data check") as error:
        found.draw(0, 0)
    assert (f"the {min(count, MOST_UNREADABLE) - 1} images before it" in str(error.value)) == (count > 1)


def test_a_set_without_images() -> None:
    with pytest.raises(DbnetError, match="no images"):
        TrainingSet([], SMALL, TARGETS, 5)


def test_a_photograph_among_labels_that_are_nonsense(samples) -> None:
    polygons = [np.zeros((0, 2)), np.full((4, 2), np.nan), np.array([[1e30, 0], [1e30, 9], [0, 9]]), np.ones((5, 2)),
                np.array([[10, 10], [60, 60], [60, 10], [10, 60.0]]), samples[0].polygons[0]]
    found = TrainingSet([replace(samples[0], polygons=polygons, ignore=np.zeros(6, bool))], SMALL, TARGETS, 5)
    for epoch in range(10):
        assert np.isfinite(found.draw(epoch, 0).thresh_map).all()
