"""Every setting of the seed's recipes, one by one: another value changes what is done here, or is refused by name, or a
note says that it is without effect. None is passed over in silence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from dbnet.errors import DbnetError
from dbnet.recipe import Recipe, read_recipe
from dbnet.recipe_train import schedule_settings, training_plan
from evaluation.training_setup import sinking
from evaluation.training_start import origin_of_weights
from evaluation.training_team import launch_of
from tests.seed_recipes import sections

#: Another value for what is not a number or a flag. A transform's arguments by their operation.
OTHERS: dict[str, Any] = {
    "system.amp_level": "O2", "model.type": "rec", "model.transform": "STN", "model.backbone.name": None,
    "model.backbone.architecture": "small", "model.backbone.out_stages": [5, 8, 14, 19],
    "model.backbone.bottleneck_params.se_version": "SqueezeExcite", "model.backbone.pretrained": "other.ckpt",
    "model.pretrained": "other.ckpt", "model.neck.name": None, "model.neck.out_channels": 128,
    "model.head.name": None, "postprocess.name": "PSEPostprocess", "postprocess.box_type": None,
    "metric.name": "RecMetric", "metric.main_indicator": "recall", "loss.name": "PSEDiceLoss", "loss.bce_replace": None,
    "scheduler.scheduler": None, "optimizer.opt": None, "loss_scaler.type": "static",
    "train.ckpt_save_dir": "elsewhere", "train.dataset.type": None, "train.dataset.sample_ratio": 0.5,
    "train.dataset.output_columns": ["image"], "train.dataset.net_input_column_index": [1],
    "train.dataset.label_column_index": [1],
    "eval.ckpt_load_path": "other.ckpt", "eval.dataset.type": "SynthTextDataset", "eval.dataset.sample_ratio": 0.5,
    "eval.dataset.output_columns": ["image"], "eval.dataset.net_input_column_index": [1],
    "eval.dataset.label_column_index": [1], "train.ema": False, "img_mode": "BGR", "degrees": [-5, 10],
    "scale_range": [0.5, 2.0], "crop_size": [320, 640], "target_size": [320, 640], "limit_type": None, "divisor": 64,
    "mean": [1.0, 2.0, 3.0], "std": [1.0, 2.0, 3.0], "shrink_ratio": 0.5, "thresh_min": 0.2, "thresh_max": 0.8,
}
#: Read where they are used: by `dbnet train` or `dbnet evaluate -c`.
ELSEWHERE = ("train.ckpt_save_dir", "train.dataset.type", "eval.ckpt_load_path", "eval.dataset.type")
#: Parts that a training looks at when it begins, where a refusal is an answer of its own: without a launcher here.
AT_START = ("start", "launch")
REFUSED = "refused: "
#: What must be set beside a setting to make it count.
CONTEXT = {
    "system.drop_overflow_update": ["system.amp_level=O2"],
    "eval.dataset.transform_pipeline.DetResize.force_divisable": [
        "eval.dataset.transform_pipeline.DetResize.target_size=[740, 1280]"],
}
#: For settings with few choices, those that the seed has, by key.
CHOICES = {
    "model.backbone.name": ["det_resnet18", "det_resnet50"], "model.neck.name": ["DBFPN", "FPN"],
    "model.head.name": ["DBHead", "DBHeadEnhance"], "postprocess.box_type": ["quad", "poly"],
    "loss.bce_replace": ["bceloss", "diceloss"], "scheduler.scheduler": ["polynomial_decay", "cosine_decay"],
    "optimizer.opt": ["SGD", "Adam"], "train.dataset.type": ["DetDataset", "SynthTextDataset"],
    "limit_type": ["min", "max"],
}


def other(key: str, value: Any) -> Any:
    """Another value of the same kind."""
    name = key if key in OTHERS else key.rpartition(".")[2]
    if name in CHOICES:
        return next(choice for choice in CHOICES[name] if choice != value)
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value / 2


def settings_of(told: dict[str, str]) -> Iterator[tuple[str, Any, str]]:
    """(key, value, the -o that changes it) of a section of the seed's file."""
    for path, text in told.items():
        operation = re.fullmatch(r"(.*transform_pipeline)\[\d+\]", path)
        if operation is None:
            value = read_value(text)
            yield path, value, f"{path}={json.dumps(other(path, value))}"
            continue
        name, _, arguments = text.partition(" ")
        for argument, value in json.loads(arguments or "{}").items():
            key = f"{operation[1]}.{name}.{argument}"
            yield key, value, f"{key}={json.dumps(other(key, value))}"


def read_value(text: str) -> Any:
    try:
        return json.loads(text.replace("'", '"').replace("True", "true").replace("False", "false")
                          .replace("None", "null"))
    except ValueError:
        return text


def parts(recipe: Recipe) -> tuple[dict[str, str], set[str]]:
    """All that follows from a recipe, as text, or why it is refused; and the notes on it."""
    notes: set[str] = set()

    def plan() -> Any:
        found = training_plan(recipe)
        notes.update(found.notes)
        return {name: value for name, value in vars(found).items() if name != "notes"}

    made = {"plan": plan, "rates": lambda: schedule_settings(recipe, 7),
            "start": lambda: origin_of_weights(recipe, None), "train": lambda: recipe.data("train"),
            "eval": lambda: recipe.data("eval"), "pixels": lambda: recipe.pixels, "boxes": lambda: recipe.boxes,
            "launch": lambda: launch_of(recipe),
            "sink": lambda: sinking(recipe, training_plan(recipe), "mindspore", "ascend:0"),
            "elsewhere": lambda: [recipe.get(key, None) for key in ELSEWHERE]}
    found = {}
    for name, make in made.items():
        try:
            found[name] = repr(make())
        except DbnetError as error:
            found[name] = f"{REFUSED}{error}"
    return found, notes


def outcome(name: str, key: str, option: str) -> set[str]:
    """honoured, refused, told: what becomes of another value."""
    context = CONTEXT.get(key, [])
    before, notes = parts(read_recipe(name, context))
    try:
        after, changed = parts(read_recipe(name, [*context, option]))
    except DbnetError as error:
        return {"refused"} if key.rpartition(".")[2] in str(error) else {f"unclear: {error}"}
    refused = [after[part] for part in after if after[part].startswith(REFUSED) and before[part] != after[part]
               and part not in AT_START]
    if refused and not any(before[part].startswith(REFUSED) for part in before if part not in AT_START):
        return {"refused"} if all(key.rpartition(".")[2] in why for why in refused) else {f"unclear: {refused}"}
    found = {"honoured"} if before != after else set()
    without = [note for note in notes ^ changed if key in note and (not found or "without effect" in note)]
    if not found and not without and before["plan"].startswith(REFUSED):
        return {"refused"}  # with its recipe
    return found | ({"told"} if without else set())


def test_every_setting_is_honoured_or_named(need):
    """In a recipe that has it. What changes nothing must be told, and what is told to be without effect has none."""
    seen: dict[str, set[str]] = {}
    for name, told in sections(need("recipes_of_the_seed.txt").read_text(encoding="utf-8")).items():
        for key, _, option in settings_of(told):
            if not seen.get(key):  # a setting may stand aside for another one in one recipe, and count in the next
                seen[key] = outcome(name, key, option)
    assert len(seen) > 120
    assert {key: found for key, found in seen.items() if len(found) != 1 or "unclear" in str(found)} == {}
