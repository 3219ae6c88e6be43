"""A small SynthText with every fault, and what MindOCR's rule makes of it, one image and one box at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat, savemat

from tests.mat_scenes import cell_row
from tests.test_synthtext_boxes import plainly

IMAGES = 40
WORDS = ["one", "two", "thr33", "four!", "fi-ve", "Six", "7", "a" * 17]


def draw_boxes(rng: np.random.Generator, count: int, width: int, height: int) -> np.ndarray:
    """(2, 4, count) float32 in every state that SynthText has, and (2, 4) for one."""
    quads = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * rng.uniform(2, 30, (count, 1, 2))
    quads = quads + rng.uniform(-10, (width + 10, height + 10), (count, 1, 2)) + rng.normal(0, 1, (count, 4, 2))
    fault = rng.random(count)
    quads[fault < 0.3] = quads[fault < 0.3][:, [0, 2, 1, 3]]
    quads[fault > 0.95] += 500
    quads[(fault > 0.9) & (fault < 0.95), 1:] = quads[(fault > 0.9) & (fault < 0.95), :1]
    boxes = quads.transpose(2, 1, 0).astype(np.float32)
    return boxes[..., 0] if count == 1 else boxes


def draw_set(folder: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """Images on disk, and the four variables. Entries 3 to 9 are special."""
    rng = np.random.default_rng(seed)
    names, boxes, texts, chars = [], [], [], []
    for i in range(IMAGES):
        name, width, height = f"{i // 9 + 1}/img_{i}.jpg", *rng.integers(40, 120, 2).tolist()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(folder / name)
        words = [str(rng.choice(WORDS)) for _ in range(int(rng.integers(2, 12)))]
        words = {3: ["one"], 7: [], 8: ["gone", "too"]}.get(i, words)
        count = len(words) + {5: 2, 6: -1}.get(i, 0)
        box = draw_boxes(rng, count, width, height)
        box = {4: np.float64(box), 7: np.empty((2, 4, 0), np.float32), 8: box + 900, 9: np.int16(box)}.get(i, box)
        if i == 10:
            box[:, :, 0] = [[0, width, width, 0], [-3, -3, height, height + 9]]
        names.append(name)
        boxes.append(box)
        texts.append(in_lines(rng, words))
        chars.append(draw_boxes(rng, sum(map(len, words)), width, height))
    return {"charBB": cell_row(chars), "wordBB": cell_row(boxes), "imnames": cell_row(names), "txt": cell_row(texts)}


def in_lines(rng: np.random.Generator, words: list[str]) -> np.ndarray:
    """The words in rows, several in some, with blanks and line ends between and after them."""
    rows: list[str] = []
    for word in words:
        if rows and rng.random() < 0.4:
            rows[-1] += rng.choice([" ", "\n", "  \n"]) + word
        else:
            rows.append(word)
    return np.array(rows) if rows else np.array([""])


def write(path: Path, cells: dict[str, np.ndarray], compress: bool = False) -> Path:
    savemat(str(path), cells, do_compression=compress)
    return path


def expected(cells: dict[str, np.ndarray], images: Path) -> list[tuple[str, np.ndarray, list[str]]]:
    """Name, boxes (W, 4, 2) and words of every image, by MindOCR's rule."""
    result = []
    for name, boxes, rows in zip(cells["imnames"][0], cells["wordBB"][0], cells["txt"][0], strict=True):
        width, height = Image.open(images / name).size
        words = split_words(rows)
        kept = [(plainly(quad, width, height), word)
                for quad, word in zip(boxes.transpose().reshape(-1, 4, 2), words)]  # noqa: B905 - as far as both go
        kept = [(quad, word) for quad, word in kept if quad is not None]
        result.append((name, np.array([quad for quad, _ in kept]).reshape(-1, 4, 2), [word for _, word in kept]))
    return result


def split_words(texts: np.ndarray) -> list[str]:
    return [word for text in texts.tolist() for word in text.split()]


def as_mindocr_reads(path: Path) -> list[tuple[str, np.ndarray, list[str]]]:
    """What SynthTextDataset makes of a gt.mat (mindocr/data/det_dataset.py)."""
    mat = loadmat(str(path))
    return [(name.item(), boxes.transpose().reshape(-1, 4, 2), split_words(texts))
            for name, boxes, texts in zip(mat["imnames"][0], mat["wordBB"][0], mat["txt"][0], strict=True)]


def assert_same(found: list, wanted: list) -> None:
    """Both as `expected` gives them; coordinates to the last bit."""
    assert len(found) == len(wanted)
    for (name, boxes, words), (other, quads, texts) in zip(found, wanted, strict=True):
        assert name == other
        assert words == texts
        assert boxes.dtype.str[1:] == "f8" and np.array_equal(boxes, quads), name
