"""What a recipe says about training: everything that the trainers of both halves are told, or why it cannot be had.

Sources: MindOCR `tools/train.py`, `mindocr/optim`, `mindocr/scheduler`, `mindocr/utils/loss_scaler.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from dbnet.errors import DbnetError
from dbnet.loss_settings import LossSettings, Mining
from dbnet.recipe import Recipe
from dbnet.recipe_check import SEED_DEFAULT
from dbnet.recipe_keys import SCHEMA
from dbnet.recipe_schema import Key, find
from dbnet.recipe_train_pipeline import TrainingPipeline, training_pipeline
from dbnet.spec import ModelSpec, StepFunction
from dbnet.train_settings import OptimizerSettings, Precision, ScaleSettings, ScheduleSettings

#: The optimizers of the recipes. MindSpore's nn.SGD and nn.Momentum compute the same.
OPTIMIZERS: dict[str, Literal["momentum", "adam"]] = {"sgd": "momentum", "momentum": "momentum", "adam": "adam"}
#: Settings that can only be had with this value.
_ONLY: dict[str, Any] = {
    "model.head.adaptive": True, "model.neck.weight_init": "HeUniform", "model.head.weight_init": "HeUniform",
    "optimizer.nesterov": False, "optimizer.no_weight_decay_params": [], "optimizer.checkpoint_path": "",
    "train.dataset.mindrecord": False, "train.loader.collate_fn": None, "train.dataset.net_input_column_index": [0],
    "train.dataset.label_column_index": [1, 2, 3, 4], "train.dataset.meta_data_column_index": None,
    "train.dataset.output_columns": ["image", "binary_map", "mask", "thresh_map", "thresh_mask"],
}
#: Settings of how MindSpore feeds and runs itself: they change no number, and nothing here listens to them.
_NO_EFFECT = (
    "system.mode", "system.device_id", "system.log_level", "system.refine_batch_size", "model.name",
    "optimizer.schedule_decay", "train.max_call_depth", "train.dataset.use_minddata",
    "train.loader.num_workers_dataset", "train.loader.num_workers_batch", "train.loader.max_rowsize",
    "train.loader.prefetch_size", "eval.dataset_sink_mode", "eval.dataset.use_minddata", "eval.dataset.output_columns",
    "eval.dataset.net_input_column_index", "eval.dataset.label_column_index", "eval.loader.shuffle",
    "eval.loader.batch_size", "eval.loader.drop_remainder", "eval.loader.num_workers",
)


@dataclass(frozen=True)
class Validation:
    """start, interval: epochs, the first is 1. indicator: which score the best checkpoint is chosen by."""

    start: int
    interval: int
    indicator: Literal["f-score", "recall", "precision"]

    def due(self, epoch: int) -> bool:
        """Whether epoch 1, 2, ... ends with an evaluation."""
        return epoch >= self.start and (epoch - self.start) % self.interval == 0


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """spec: what is trained, with the colours that it is trained on. batch_size: images; workers: processes.
    validation: None without `system.val_while_train`. keep: checkpoints of single epochs, those with the best scores
    (`top_k`) or the latest. notes: what a user should know, a line each.
    """

    spec: ModelSpec
    pipeline: TrainingPipeline
    optimizer: OptimizerSettings
    loss: LossSettings
    precision: Precision
    epochs: int
    batch_size: int
    workers: int
    shuffle: bool
    drop_remainder: bool
    seed: int
    log_interval: int
    validation: Validation | None
    keep: int
    keep_policy: Literal["top_k", "latest_k"]
    notes: tuple[str, ...]


def training_plan(recipe: Recipe, *, step_function: StepFunction | None = None, mining: Mining = "mindocr",
                  precision: Precision | None = None, seed: int | None = None) -> TrainingPlan:
    """step_function: default the paper's. mining: how hard negatives are found. precision, seed: before the recipe's.

    Raises DbnetError, by name, for what cannot be had.
    """
    recipe.need("train")
    for path, value in _ONLY.items():
        if (found := recipe.get(path, value)) != value:
            raise DbnetError(f"{recipe.where(path)}: {found!r} is not supported, only {value!r}")
    pipeline = training_pipeline(recipe)
    notes = [*_step_notes(step_function), *_no_effect(recipe)]
    spec = recipe.spec()
    pixels = replace(spec.pixels, colour=pipeline.colour, mean=pipeline.mean, std=pipeline.std)
    if "eval" in recipe.settings and pixels != spec.pixels:
        notes.append(f"trained on {pixels.colour} pixels, evaluated on {spec.pixels.colour} ones or with another mean "
                     f"and std, as the recipe says")
    spec = replace(spec, pixels=pixels, step_function=step_function or "paper")
    precision = precision or _precision(recipe)
    notes += _run_notes(recipe, precision)
    return TrainingPlan(
        spec, pipeline, optimizer_settings(recipe), loss_settings(recipe, mining), precision,
        recipe.get("scheduler.num_epochs"), recipe.get("train.loader.batch_size"),
        recipe.get("train.loader.num_workers"), recipe.get("train.loader.shuffle"),
        recipe.get("train.loader.drop_remainder"), recipe.get("system.seed") if seed is None else seed,
        recipe.get("system.log_interval"), _validation(recipe), recipe.get("system.ckpt_max_keep"),
        recipe.get("system.ckpt_save_policy"), tuple(notes))


def optimizer_settings(recipe: Recipe) -> OptimizerSettings:
    """Of `optimizer`, `loss_scaler`, and what `train` says of gradients and the average."""
    name = recipe.get("optimizer.opt")
    if name.lower() not in OPTIMIZERS:
        raise DbnetError(f"{recipe.where('optimizer.opt')}: {name} is not supported; there are SGD, momentum and Adam")
    kind: Literal["sgd", "momentum", "adam"] = OPTIMIZERS[name.lower()]
    momentum = float(recipe.get("optimizer.momentum"))
    if kind == "momentum" and momentum == 0:
        kind = "sgd"
    grouping = recipe.get("optimizer.grouping_strategy")
    if grouping == "svtr":
        raise DbnetError(f"{recipe.where('optimizer.grouping_strategy')}: svtr is not supported, only "
                         f"filter_norm_and_bias")
    return OptimizerSettings(
        kind, momentum, float(recipe.get("optimizer.weight_decay")),
        recipe.get("optimizer.filter_bias_and_bn") or grouping is not None,
        (float(recipe.get("optimizer.beta1")), float(recipe.get("optimizer.beta2"))),
        # MindOCR hands its eps to RMSProp only; its Adam has MindSpore's own.
        float(recipe.get("optimizer.eps", 1e-8)),
        float(recipe.get("train.clip_norm")) if recipe.get("train.clip_grad") else None,
        recipe.get("train.gradient_accumulation_steps"),
        float(recipe.get("train.ema_decay")) if recipe.get("train.ema") else None,
        loss_scale=_scale(recipe))


def _scale(recipe: Recipe) -> ScaleSettings:
    path = "optimizer.loss_scale"  # of the seed's first files: a scale that stays
    if path in recipe.origins and recipe.origins.get("loss_scaler.loss_scale") == SEED_DEFAULT:
        return ScaleSettings(float(recipe.get(path)), dynamic=False)
    return ScaleSettings(float(recipe.get("loss_scaler.loss_scale")), float(recipe.get("loss_scaler.scale_factor")),
                         recipe.get("loss_scaler.scale_window"), recipe.get("loss_scaler.type") == "dynamic")


def loss_settings(recipe: Recipe, mining: Mining = "mindocr") -> LossSettings:
    """Of `loss`; its two names are one loss."""
    return LossSettings(float(recipe.get("loss.bce_scale")), float(recipe.get("loss.l1_scale")),
                        float(recipe.get("loss.eps")), recipe.get("loss.bce_replace"), mining)


def schedule_settings(recipe: Recipe, steps_per_epoch: int) -> ScheduleSettings:
    """Of `scheduler`, for an epoch of so many batches: MindOCR counts batches, also where several make one step."""
    name, epoch = recipe.get("scheduler.scheduler"), steps_per_epoch
    decay = recipe.get("scheduler.decay_epochs")
    if not decay and name in ("cosine_decay", "warmup_cosine_decay", "step_decay"):
        raise DbnetError(f"{recipe.where('scheduler.decay_epochs')}: 0 is no length for {name}")
    return ScheduleSettings(
        name, float(recipe.get("scheduler.lr")),
        0.0 if name == "polynomial_decay" else float(recipe.get("scheduler.min_lr")),  # as in MindOCR
        round(recipe.get("scheduler.warmup_epochs") * epoch), recipe.get("scheduler.num_epochs") * epoch,
        float(recipe.get("scheduler.decay_rate")), float(recipe.get("scheduler.warmup_factor")),
        max(1, round(decay * epoch)), epoch, tuple(m * epoch for m in recipe.get("scheduler.milestones")),
        recipe.get("scheduler.num_cycles"), float(recipe.get("scheduler.cycle_decay")),
        recipe.get("scheduler.lr_epoch_stair"))


def _precision(recipe: Recipe) -> Precision:
    path = "system.amp_level"
    level = recipe.get(path)
    if level not in ("O0", "O2"):
        raise DbnetError(f"{recipe.where(path)}: {level} is not supported, only O0 and O2")
    precision: Precision = level
    return precision


def _validation(recipe: Recipe) -> Validation | None:
    if not recipe.get("system.val_while_train"):
        return None
    recipe.need("eval")
    return Validation(recipe.get("system.val_start_epoch"), recipe.get("system.val_interval"),
                      recipe.get("metric.main_indicator"))


def _step_notes(step_function: StepFunction | None) -> Sequence[str]:
    if step_function is not None:
        return ()
    return ("step function: the paper's, sigmoid(k (P - T)); MindOCR trains with sigmoid(k P - T), which is "
            "--step-function mindocr",)


def _run_notes(recipe: Recipe, precision: Precision) -> list[str]:
    notes = []
    warmup, epochs = recipe.get("scheduler.warmup_epochs"), recipe.get("scheduler.num_epochs")
    if warmup >= epochs:
        notes.append(f"the warm-up of {warmup:g} epochs is not over when the training ends after {epochs}; shorten it: "
                     f"-o scheduler.warmup_epochs=...")
    if recipe.get("system.val_while_train") and recipe.get("system.val_start_epoch") > epochs:
        notes.append(f"no epoch is evaluated, so there will be no best checkpoint: system.val_start_epoch is "
                     f"{recipe.get('system.val_start_epoch')}, and there are {epochs} epochs")
    if recipe.get("optimizer.filter_bias_and_bn") and recipe.get("optimizer.weight_decay"):
        notes.append("optimizer.filter_bias_and_bn: no decay of biases and batch norms; MindOCR's code decays them all "
                     "the same, which is -o optimizer.filter_bias_and_bn=False")
    if precision == "O2" and not recipe.get("system.drop_overflow_update"):
        notes.append("system.drop_overflow_update is False: a step whose gradients overflow is left out all the same, "
                     "for it would spoil the weights")
    if recipe.get("system.amp_level_infer") != "O0":
        notes.append("system.amp_level_infer: evaluation computes in float32")
    if precision != "O0" and recipe.get("train.pred_cast_fp32", True) is False:
        notes.append("train.pred_cast_fp32 is False: the loss is computed in float32 all the same")
    return notes


def _no_effect(recipe: Recipe) -> Sequence[str]:
    """One line for the settings that the recipe's file, or the command line, changes to no avail."""
    usual = {path: entry for path in _NO_EFFECT if isinstance(entry := find(SCHEMA, path), Key)}
    found = [path for path, entry in usual.items() if recipe.origins.get(path, SEED_DEFAULT) != SEED_DEFAULT
             and recipe.get(path) not in (entry.default, entry.absent)]
    return (f"without effect here: {', '.join(found)}",) if found else ()
