"""A few drawn images as a prepared data set, a recipe for it, and `dbnet train` on both, in this process or another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from dbnet.cli.train import train
from dbnet.datasets.drawn import draw

ROOT = Path(__file__).parents[1]
IMAGES, BATCH = 8, 2
RECIPE = """
system: {log_interval: 2}
model:
  backbone: {name: det_mobilenet_v3, pretrained: False}
scheduler: {num_epochs: 3, warmup_epochs: 1, lr: 0.01}
train:
  ckpt_save_dir: SAVED
  dataset:
    dataset_root: DATA
    data_dir: train/images
    label_file: train/train_det_gt.txt
    transform_pipeline:
      - DecodeImage: {img_mode: RGB}
      - DetLabelEncode:
      - RandomColorAdjust: {brightness: 0.1255, saturation: 0.5}
      - RandomHorizontalFlip: {p: 0.5}
      - RandomRotate: {degrees: [-10, 10], expand_canvas: False, p: 1.0}
      - RandomScale: {scale_range: [0.5, 3.0], p: 1.0}
      - RandomCropWithBBox: {max_tries: 10, min_crop_ratio: 0.1, crop_size: [64, 96], p: 1.0}
      - ValidatePolygons:
      - ShrinkBinaryMap: {min_text_size: 2, shrink_ratio: 0.4}
      - BorderMap: {shrink_ratio: 0.4, thresh_min: 0.3, thresh_max: 0.7}
      - NormalizeImage: {mean: imagenet, std: imagenet}
      - ToCHWImage:
  loader: {batch_size: 2}
eval:
  dataset:
    dataset_root: DATA
    data_dir: test/images
    label_file: test/test_det_gt.txt
    transform_pipeline:
      - DecodeImage: {img_mode: RGB}
      - DetLabelEncode:
      - DetResize: {target_size: [64, 96], keep_ratio: False, limit_type: none}
      - NormalizeImage: {mean: imagenet, std: imagenet}
      - ToCHWImage:
"""


def write_set(folder: Path) -> Path:
    """`train` and `test` as the seed's page has ICDAR 2015, below `folder`."""
    for part, first, count in (("train", 0, IMAGES), ("test", 100, 3)):
        (folder / part / "images").mkdir(parents=True)
        lines = []
        for i in range(count):
            image, polygons = draw(first + i, 96, 160, 3)
            cv2.imwrite(str(folder / part / f"images/{part}_{i}.png"), image)
            labels = [{"transcription": "word", "points": np.round(polygon).tolist()} for polygon in polygons]
            lines.append(f"{part}_{i}.png\t{json.dumps(labels)}")
        (folder / part / f"{part}_det_gt.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def write_recipe(folder: Path, data: Path) -> Path:
    """recipe.yaml in `folder`; its training goes to `folder`/saved."""
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.replace("SAVED", str(folder / "saved")).replace("DATA", str(data)), encoding="utf-8")
    return path


def train_here(recipe: Path | str, *arguments: str | Path, settings: tuple[str, ...] = ()) -> Result:
    """In this process, without others that make images."""
    given = [part for setting in settings for part in ("-o", setting)]
    return CliRunner().invoke(train, ["-c", str(recipe), "--workers", "0", "--backend", "torch", "--device", "cpu",
                                      *given, *map(str, arguments)])


def begin_train(recipe: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """In a process and a process group of its own. The frameworks compute in one thread: others want the cores too."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "dbnet", "train", "-c", str(recipe), "--backend", "torch", "--device", "cpu",
         *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        cwd=ROOT, env=environment, start_new_session=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("data"))


@pytest.fixture
def recipe(tmp_path: Path, data: Path) -> Path:
    return write_recipe(tmp_path, data)
