"""Every key of a recipe: MindOCR's own keys for text detection, what each must be, and the seed's defaults.

A default is what the seed's 19 recipes say; it is filled in where a file says nothing, so that files can be short.
`absent` is what MindOCR's code takes for a key that its recipes may leave out. Sources: MindOCR `configs/det/dbnet/`,
`tools/train.py`, `tools/eval.py`, `mindocr/data/builder.py`, `optim/`, `scheduler/`,
`docs/en/tutorials/yaml_configuration.md`.
"""

from __future__ import annotations

from typing import Any

from dbnet.recipe_kinds import (
    Kind,
    anything,
    boolean,
    choice,
    either,
    fraction,
    integer,
    null,
    number,
    one_of,
    optional,
    sequence,
    text,
)
from dbnet.recipe_schema import UNSET, By, Key, Section
from dbnet.recipe_transforms import EVAL_PIPELINE, SYNTHTEXT_PIPELINE, TRAIN_PIPELINE

PIPELINE = Kind("a list of operations, each `- Name:` with its arguments below", lambda value: value)
_PATH = optional(text)
_PATHS = optional(either(text, sequence(text)))
_COUNT = integer(1)
_INDICES = sequence(integer(0))
_MOBILENET = ("https://download.mindspore.cn/toolkits/mindcv/mobilenet/mobilenetv3/"
              "mobilenet_v3_large_050_no_scale_se_v2_expand-3c4047ac.ckpt")
_ENHANCE = "det_mobilenet_v3_enhance"


def _in_mobilenets(value: Any) -> By:
    return By("name", {"det_mobilenet_v3": value, _ENHANCE: value})


_SYSTEM = Section({
    "mode": Key(one_of(0, 1), 0, doc="MindSpore: 0 graph mode, 1 PyNative"),
    "distribute": Key(boolean, False, doc="several devices"),
    "amp_level": Key(choice("O0", "O1", "O2", "O3"), "O0", doc="mixed precision in training"),
    "amp_level_infer": Key(choice("O0", "O1", "O2", "O3"), absent="O0", doc="mixed precision in evaluation"),
    "seed": Key(integer(0), 42),
    "device_id": Key(integer(0), absent=0),
    "log_interval": Key(_COUNT, 10, doc="steps between two lines of the log"),
    "log_level": Key(text, absent="logging.INFO"),
    "val_while_train": Key(boolean, True, doc="evaluate during training; needs the section eval"),
    "val_start_epoch": Key(integer(0), absent=1, doc="first epoch that is evaluated"),
    "drop_overflow_update": Key(boolean, False, doc="skip the step when gradients overflow"),
    "val_interval": Key(_COUNT, absent=1, doc="epochs between two evaluations"),
    "ckpt_save_policy": Key(choice("top_k", "latest_k"), absent="top_k"),
    "ckpt_max_keep": Key(_COUNT, absent=10, doc="checkpoints that are kept"),
    "refine_batch_size": Key(boolean, absent=True),
})

_MODEL = Section({
    "type": Key(choice("det"), "det"),
    "name": Key(text, absent=None, doc="for the log"),
    "transform": Key(null, None),
    "backbone": Section({
        "name": Key(choice("det_resnet18", "det_resnet50", "det_resnet152", "det_mobilenet_v3", _ENHANCE),
                    "det_resnet50"),
        "architecture": Key(choice("large", "small"), _in_mobilenets("large")),
        "alpha": Key(number(above=0), _in_mobilenets(0.5), doc="width"),
        "out_stages": Key(sequence(integer(0)), By("name", {"det_mobilenet_v3": [5, 8, 14, 20]})),
        "bottleneck_params": Section({
            "se_version": Key(choice("SqueezeExcite", "SqueezeExciteV2"), "SqueezeExciteV2"),
            "always_expand": Key(boolean, True),
        }, By("name", {"det_mobilenet_v3": True}, False)),
        "disable_se": Key(boolean, By("name", {_ENHANCE: True}), absent=False),
        "pretrained": Key(optional(either(boolean, text)),
                          By("name", {"det_mobilenet_v3": _MOBILENET, _ENHANCE: False}, True),
                          doc="ImageNet weights: True, False, a file or an address"),
    }),
    "neck": Section({
        "name": Key(choice("DBFPN", "RSEFPN"), "DBFPN"),
        "out_channels": Key(_COUNT, By("name", {"rsefpn": 96}, 256)),
        "bias": Key(boolean, By("name", {"dbfpn": False}), absent=False),
        "shortcut": Key(boolean, By("name", {"rsefpn": True}), absent=True),
        "use_asf": Key(boolean, absent=False, doc="adaptive scale fusion: DBNet++"),
        "channel_attention": Key(boolean, By("use_asf", {True: True}), absent=True),
        "weight_init": Key(text, absent="HeUniform"),
    }),
    "head": Section({
        "name": Key(choice("DBHead", "DBHeadEnhance"), "DBHead"),
        "k": Key(number(above=0), 50, doc="amplifying factor of the step function"),
        "bias": Key(boolean, False),
        "adaptive": Key(boolean, True, doc="with the threshold branch, which training needs"),
        "serial": Key(boolean, absent=False),
        "weight_init": Key(text, absent="HeUniform"),
    }),
    "pretrained": Key(optional(text), absent=None, doc="weights of the whole network: a file or an address"),
    "resume": Key(optional(either(boolean, text)), absent=False, doc="go on from train_resume.ckpt, or from this file"),
})

_POSTPROCESS = Section({
    "name": Key(choice("DBPostprocess"), "DBPostprocess"),
    "output_polygon": Key(boolean, doc="of the seed's first files, for box_type"),
    "box_type": Key(choice("quad", "poly"), By("output_polygon", {True: UNSET, False: UNSET}, "quad")),
    "binary_thresh": Key(fraction, 0.3),
    "box_thresh": Key(fraction, 0.6),
    "max_candidates": Key(_COUNT, 1000),
    "expand_ratio": Key(number(above=0), 1.5, doc="unclip ratio"),
    "pred_name": Key(choice("binary", "thresh", "thresh_binary"), absent="binary"),
    "rescale_fields": Key(sequence(text), absent=["polys"]),
})

_METRIC = Section({
    "name": Key(choice("DetMetric"), "DetMetric"),
    "main_indicator": Key(choice("f-score", "recall", "precision"), "f-score", doc="what the best checkpoint is"),
    "print_flag": Key(boolean, absent=False),
})

_LOSS = Section({
    "name": Key(choice("DBLoss", "L1BalancedCELoss"), "DBLoss", doc="two names of one loss"),
    "eps": Key(number(above=0), 1e-6),
    "l1_scale": Key(number(0), 10),
    "bce_scale": Key(number(0), 5),
    "bce_replace": Key(choice("bceloss", "diceloss"), "bceloss"),
})

_SCHEDULER = Section({
    "scheduler": Key(choice("constant", "cosine_decay", "warmup_cosine_decay", "exponential_decay", "polynomial_decay",
                            "step_decay", "multi_step_decay"), "polynomial_decay"),
    "lr": Key(number(above=0), 0.007),
    "min_lr": Key(number(0), absent=1e-6),
    "num_epochs": Key(_COUNT, 1200),
    "decay_rate": Key(number(above=0), By("scheduler", {"polynomial_decay": 0.9}), absent=0.9),
    "warmup_epochs": Key(number(0), 3),
    "warmup_factor": Key(number(0), absent=0.0),
    "decay_epochs": Key(number(0), absent=10),
    "milestones": Key(sequence(_COUNT), absent=[]),
    "num_cycles": Key(_COUNT, absent=1),
    "cycle_decay": Key(number(above=0), absent=1.0),
    "lr_epoch_stair": Key(boolean, absent=False),
})


def _with_momentum(value: Any) -> By:
    return By("opt", dict.fromkeys(("sgd", "momentum", "nesterov"), value))


_OPTIMIZER = Section({
    "opt": Key(choice("SGD", "momentum", "nesterov", "Adam", "AdamW", "NAdam", "Adan", "Lion", "RMSProp", "Adagrad",
                      "Lamb", fold=True), "SGD"),
    "filter_bias_and_bn": Key(boolean, _with_momentum(False), absent=True, doc="no decay of biases and batch norms"),
    "momentum": Key(number(0, 1), _with_momentum(0.9), absent=0.9),
    "nesterov": Key(boolean, absent=False),
    "beta1": Key(number(0, 1), By("opt", {"adam": 0.9}), absent=0.9),
    "beta2": Key(number(0, 1), By("opt", {"adam": 0.999}), absent=0.999),
    "eps": Key(number(above=0), absent=1e-10),
    "weight_decay": Key(number(0), _with_momentum(1e-4), absent=0),
    "grouping_strategy": Key(optional(choice("filter_norm_and_bias", "svtr")), absent=None),
    "no_weight_decay_params": Key(sequence(text), absent=[]),
    "loss_scale": Key(number(above=0), doc="of the seed's first files, for loss_scaler.loss_scale"),
    "schedule_decay": Key(number(0), absent=4e-3),
    "checkpoint_path": Key(text, absent=""),
})

_LOSS_SCALER = Section({
    "type": Key(choice("dynamic", "static"), "dynamic"),
    "loss_scale": Key(number(above=0), By("type", {"dynamic": 512}, 1.0)),
    "scale_factor": Key(number(above=1), By("type", {"dynamic": 2}), absent=2.0),
    "scale_window": Key(_COUNT, By("type", {"dynamic": 1000}), absent=2000),
})


def _dataset(columns: list[str], labels: list[int], pipeline: Any, types: tuple[str, ...]) -> Section:
    return Section({
        "type": Key(choice(*types), types[0]),
        "dataset_root": Key(_PATH, absent=None, doc="folder before data_dir and label_file"),
        "data_dir": Key(_PATHS, doc="folder of the images, or several"),
        "label_file": Key(_PATHS, doc="prepared labels (dbnet data convert), as many as folders"),
        "mindrecord": Key(boolean, absent=False),
        "sample_ratio": Key(either(fraction, sequence(fraction)), 1.0, doc="part of the images that is used"),
        "shuffle": Key(boolean, doc="absent: in training"),
        "use_minddata": Key(boolean, absent=False, doc="let MindSpore's C++ do some operations"),
        "transform_pipeline": Key(PIPELINE, pipeline),
        "output_columns": Key(sequence(text), columns),
        "num_columns_to_net": Key(_COUNT, doc="of the seed's first files, for net_input_column_index"),
        "num_columns_of_labels": Key(_COUNT, doc="of the seed's first files, for label_column_index"),
        "net_input_column_index": Key(_INDICES, By("num_columns_to_net", {1: UNSET}, [0])),
        "label_column_index": Key(_INDICES, By("num_columns_to_net", {1: UNSET}, labels)),
        "meta_data_column_index": Key(_INDICES, absent=None),
    })


def _loader(shuffle: bool, batch_size: int, workers: int) -> Section:
    return Section({
        "shuffle": Key(boolean, shuffle),
        "batch_size": Key(_COUNT, batch_size, doc="of one device"),
        "drop_remainder": Key(boolean, shuffle, doc="leave out the last, smaller batch"),
        "num_workers": Key(_COUNT, workers),
        "num_workers_dataset": Key(_COUNT),
        "num_workers_batch": Key(_COUNT),
        "max_rowsize": Key(_COUNT, absent=64, doc="MB of shared memory"),
        "prefetch_size": Key(_COUNT, absent=16),
        "collate_fn": Key(optional(text), absent=None),
        "output_columns": Key(sequence(text)),
    })


_TRAIN = Section({
    "ckpt_save_dir": Key(text, "./tmp_det"),
    "resume": Key(optional(either(boolean, text)), absent=False),
    "dataset_sink_mode": Key(boolean, True),
    "gradient_accumulation_steps": Key(_COUNT, absent=1),
    "clip_grad": Key(boolean, absent=False),
    "clip_norm": Key(number(above=0), absent=1.0),
    "ema": Key(boolean, absent=False, doc="keep an average of the weights"),
    "ema_decay": Key(number(0, 1), absent=0.9999),
    "pred_cast_fp32": Key(boolean, doc="absent: if amp_level is not O0"),
    "max_call_depth": Key(_COUNT),
    "dataset": _dataset(["image", "binary_map", "mask", "thresh_map", "thresh_mask"], [1, 2, 3, 4],
                        By("type", {"synthtextdataset": SYNTHTEXT_PIPELINE}, TRAIN_PIPELINE),
                        ("DetDataset", "SynthTextDataset")),
    "loader": _loader(True, 20, 8),
})


def _evaluating(types: tuple[str, ...], filled: bool) -> Section:
    return Section({
        "ckpt_load_path": Key(optional(text), "tmp_det/best.ckpt", doc="the model that is evaluated"),
        "dataset_sink_mode": Key(boolean, False),
        "pred_cast_fp32": Key(boolean, doc="absent: if amp_level is not O0"),
        "dataset": _dataset(["image", "polys", "ignore_tags", "shape_list"], [1, 2], EVAL_PIPELINE, types),
        "loader": _loader(False, 1, 2),
    }, filled)


SCHEMA = Section({
    "system": _SYSTEM,
    "common": Key(optional(anything), doc="whatever other sections share by anchors"),
    "model": _MODEL,
    "postprocess": _POSTPROCESS,
    "metric": _METRIC,
    "loss": _LOSS,
    "scheduler": _SCHEDULER,
    "optimizer": _OPTIMIZER,
    "loss_scaler": _LOSS_SCALER,
    "train": _TRAIN,
    "eval": _evaluating(("DetDataset", "SynthTextDataset"), True),
    "predict": _evaluating(("PredictDataset", "DetDataset"), False),
})
#: Only filled in for a recipe that evaluates: one with a section `eval`, or with system.val_while_train.
FOR_EVALUATION = ("postprocess", "metric", "eval")
#: What people write -> the key.
OTHER_NAMES = {"learning_rate": "lr", "base_lr": "lr", "epochs": "num_epochs", "epoch_num": "num_epochs",
               "unclip_ratio": "expand_ratio", "thresh": "binary_thresh", "optimiser": "optimizer",
               "batch_size_per_card": "batch_size", "pretrained_model": "pretrained"}
#: key -> the one that it stands before in the seed's recipes for DBNet++; in the others it is where SCHEMA has it.
ORDER_OF_DBPP = {"system.val_interval": "system.drop_overflow_update", "train.ema": "train.ckpt_save_dir"}
