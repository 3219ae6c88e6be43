"""Recipes: the seed's 19 read and shown as they are, defaults filled in, settings changed on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dbnet.cli.recipe import recipe as command
from dbnet.errors import DbnetError
from dbnet.recipe import Data, read_recipe
from tests import seed_recipes


def write(folder: Path, text: str, name: str = "r.yaml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def show(*arguments: str | Path) -> str:
    done = CliRunner().invoke(command, ["show", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


# The seed's own ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seed(need) -> dict[str, dict[str, str]]:
    return seed_recipes.sections(need("recipes_of_the_seed.txt").read_text(encoding="utf-8"))


def test_every_recipe_of_the_seed_is_shown_as_it_is(seed, tmp_path):
    """The same keys and values, nothing lost, nothing added, every one from its line."""
    assert len(seed) == 19
    for name, settings in seed.items():
        file = write(tmp_path, seed_recipes.to_yaml(settings), f"{name}.yaml")
        output = show(file)
        assert output.splitlines()[0] == f"[{name}]"
        shown = seed_recipes.shown(output)
        assert [(path, value) for path, (value, _) in shown.items()] == list(settings.items()), name
        lines = file.read_text().splitlines()
        for path, (_, origin) in shown.items():
            stem, _, number = origin.partition(":")
            assert stem == f"{name}.yaml", path
            last = path.rpartition(".")[2].partition("[")[0]
            assert (last if "[" not in path else "- ") in lines[int(number) - 1], path


def test_what_is_shown_reads_as_the_same_recipe_again(seed, tmp_path):
    for name in seed:
        first = read_recipe(name)
        text = seed_recipes.to_yaml({path: value for path, value, _ in first.lines()})
        assert read_recipe(write(tmp_path, text)).settings == first.settings


#: What stood in the seed's files at other times.
OTHER_TIMES = """
system:
  mode: 0 # 0 for graph mode, 1 for pynative mode in MindSpore
  distribute: True
  ckpt_max_keep: 5
common:
  mean: &mean [ 123.675, 116.28, 103.53 ]
model:
  type: det
  transform: None
  backbone: {name: det_resnet50, pretrained: True}
  resume: False
postprocess:
  name: DBPostprocess
  output_polygon: False   # whether to output a polygon or a box
loss:
  name: L1BalancedCELoss
  eps: 1e-6
train:
  ckpt_save_dir: './tmp_det'
  clip_grad: True
  clip_norm: 5.0
  dataset:
    type: DetDataset
    mindrecord: False
    dataset_root: /data/ocr_datasets
    data_dir: [ic15/train, td500/train]
    label_file: [ic15/train.txt, td500/train.txt]
    sample_ratio: [1.0, 0.5]
    transform_pipeline:
      - Decode:
      - DetLabelEncode:
      - IaaAugment:
          Fliplr: { p: 0.5 }
          Affine: { rotate: [ -10, 10 ], p: 1.0 }
      - Normalize:
          mean: *mean
          std: &std [ 58.395, 57.12, 57.375 ]
      - HWC2CHW:
    num_columns_to_net: 1
  loader: {num_workers: 20, num_workers_dataset: 10, max_rowsize: 96}
eval:
  dataset:
    transform_pipeline:
      - Decode:
      - DetLabelEncode:
      - GridResize:
          factor: 32
      - Normalize:
          mean: *mean
          std: *std
      - HWC2CHW:
predict:
  ckpt_load_path: tmp_det/best.ckpt
  dataset:
    type: PredictDataset
    transform_pipeline:
      - DetResize: {target_size: [736, 1280], limit_type: None, force_divisable: False}
    output_columns: [ 'img_path', 'image', 'raw_img_shape' ]
"""


def test_files_of_other_times_are_read_like_pyyaml_reads_them(tmp_path):
    file = write(tmp_path, OTHER_TIMES)
    recipe = read_recipe(file)
    plain = yaml.safe_load(OTHER_TIMES)
    assert recipe.settings["train"]["dataset"]["transform_pipeline"] == plain["train"]["dataset"]["transform_pipeline"]
    assert recipe.settings["predict"] == plain["predict"]
    assert recipe.get("loss.eps") == 1e-6 != plain["loss"]["eps"]  # YAML 1.1 takes it for text
    assert recipe.get("model.transform") is None
    shown = seed_recipes.shown(show(file))
    number = [i for i, line in enumerate(OTHER_TIMES.splitlines(), 1) if line.strip() == "- Normalize:"][1]
    assert shown["eval.dataset.transform_pipeline[3]"] == (
        'Normalize {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}', f"r.yaml:{number}")
    assert shown["common.mean"] == ("[123.675, 116.28, 103.53]", "r.yaml:7")
    assert "train.dataset.net_input_column_index" not in shown  # num_columns_to_net stands for it
    assert "postprocess.box_type" not in shown
    assert (recipe.boxes.box_type, recipe.pixels.resize, recipe.pixels.ignore_orientation) == ("quad", "grid", True)
    root = Path("/data/ocr_datasets")
    assert recipe.data("train") == [Data(root / "ic15/train.txt", root / "ic15/train"),
                                    Data(root / "td500/train.txt", root / "td500/train", 0.5)]


# Defaults ------------------------------------------------------------------------------------------------------------


def test_a_short_file_gets_the_defaults_of_the_seed(tmp_path):
    recipe = read_recipe(write(tmp_path, "model: {backbone: {name: det_resnet18}}\ntrain: {loader: {batch_size: 4}}\n"))
    named = read_recipe("db_r18_icdar15")
    assert recipe.settings["optimizer"] == named.settings["optimizer"]
    assert recipe.settings["eval"]["dataset"]["output_columns"] == ["image", "polys", "ignore_tags", "shape_list"]
    assert recipe.origins["model.backbone.name"] == "r.yaml:1"
    assert recipe.origins["train.loader.batch_size"] == "r.yaml:2"
    assert recipe.origins["train.dataset.transform_pipeline[6]"] == "seed default"


@pytest.mark.parametrize(("text", "present", "missing"), [
    ("optimizer: {opt: Adam}", "optimizer.beta2", "optimizer.momentum"),
    ("optimizer: {opt: adam}", "optimizer.beta1", "optimizer.weight_decay"),
    ("optimizer: {opt: momentum}", "optimizer.momentum", "optimizer.beta1"),
    ("scheduler: {scheduler: warmup_cosine_decay}", "scheduler.warmup_epochs", "scheduler.decay_rate"),
    ("loss_scaler: {type: static}", "loss_scaler.loss_scale", "loss_scaler.scale_factor"),
    ("model: {backbone: {name: det_mobilenet_v3}}", "model.backbone.bottleneck_params.se_version",
     "model.backbone.disable_se"),
    ("model: {backbone: {name: det_mobilenet_v3_enhance}}", "model.backbone.disable_se", "model.backbone.out_stages"),
    ("model: {neck: {use_asf: True}}", "model.neck.channel_attention", "model.neck.shortcut"),
    ("model: {neck: {use_asf: False}}", "model.neck.bias", "model.neck.channel_attention"),
    ("system: {val_while_train: False}", "train.loader.batch_size", "eval.loader.batch_size"),
    ("system: {val_while_train: False}", "loss.eps", "postprocess.box_thresh"),
    ("system: {val_while_train: False}\neval: {loader: {num_workers: 1}}", "postprocess.box_thresh",
     "system.val_interval"),
    ("postprocess: {output_polygon: True}", "postprocess.expand_ratio", "postprocess.box_type"),
])
def test_defaults_follow_what_they_belong_to(tmp_path, text, present, missing):
    recipe = read_recipe(write(tmp_path, text))
    paths = [path for path, _, _ in recipe.lines()]
    assert present in paths
    assert missing not in paths


def test_synthtext_has_labels_that_need_no_encoding(tmp_path):
    recipe = read_recipe(write(tmp_path, "train: {dataset: {type: SynthTextDataset}}"))
    assert {"DetLabelEncode": None} not in recipe.get("train.dataset.transform_pipeline")
    assert len(recipe.get("train.dataset.transform_pipeline")) == 11


def test_defaults_are_nobodys_to_change(tmp_path):
    file = write(tmp_path, "loss: {eps: 1e-6}")
    first = read_recipe(file)
    first.settings["train"]["dataset"]["transform_pipeline"][0]["DecodeImage"]["img_mode"] = "BGR"
    first.get("eval.dataset.output_columns").append("x")
    assert read_recipe(file).settings == read_recipe(file).settings != first.settings
    assert "x" not in first.settings["eval"]["dataset"]["output_columns"]


def test_get_knows_what_mindocr_takes_for_a_key_that_is_left_out(tmp_path):
    recipe = read_recipe(write(tmp_path, "train: {ema: True}\ncommon: {a: {b: 1}}\n"))
    assert recipe.get("train.ema") is True
    assert recipe.get("train.ema_decay") == 0.9999
    assert recipe.get("train.clip_grad") is False
    assert recipe.get("train.ema_decay", 0.5) == 0.5
    assert recipe.get("optimizer")["opt"] == "SGD"
    assert recipe.get("common.a.b") == 1
    with pytest.raises(DbnetError, match=r"r\.yaml: eval\.dataset\.shuffle is not set; add it, or give -o"):
        recipe.get("eval.dataset.shuffle")
    with pytest.raises(ValueError, match="no key"):
        recipe.get("train.emma")
    lines = {path: origin for path, _, origin in recipe.lines(absent=True)}
    assert lines["train.ema_decay"].startswith("not set")
    assert lines["train.ema"] == "r.yaml:1"
    assert "predict.loader.max_rowsize" not in lines


SETTINGS = [(path, value) for path, value, _ in read_recipe("db_r50_icdar15").lines() if "[" not in path]


@given(st.sets(st.sampled_from(range(len(SETTINGS)))))
def test_any_part_of_a_recipe_is_completed_to_it(kept):
    """db_r50_icdar15 is made of defaults but for a few settings: whatever is left out of them comes back."""
    own = ("gradient_accumulation_steps", "batch_size", "data_dir", "label_file")
    text = seed_recipes.to_yaml({path: value for i, (path, value) in enumerate(SETTINGS)
                                 if i in kept or path.endswith(own)})
    from dbnet.recipe_check import complete
    from dbnet.recipe_yaml import parse_yaml
    settings, origins = complete(parse_yaml(text, "r"))
    assert settings == read_recipe("db_r50_icdar15").settings
    assert sum(origin != "seed default" for origin in origins.values()) >= len(kept)
