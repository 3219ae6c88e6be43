"""Tells a detector's weights from what a training run stores beside them: optimizer state, EMA copies, counters.

MindOCR's train_resume.ckpt holds the whole training cell. MindSpore names an optimizer's state after the parameter it
belongs to (`ParameterTuple.clone(prefix)`: "moments.backbone.conv1.weight"), so a state entry is recognised by its
prefix *and* by that parameter being in the file: a network's own `linear.weight` is not mistaken for Ftrl's state.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from converters.tensor_file import Weights
from dbnet.training import AVERAGE, MOMENTS, PENDING

#: What may stand before a parameter's name in a training file of ours.
PREFIXES = (*(prefix for prefixes in MOMENTS.values() for prefix in prefixes), AVERAGE, PENDING)
#: The keys of TensorFile.training.
OPTIMIZER, SWAP, EMA = "optimizer state", "swap copies", "EMA copies"

#: Prefixes of the clones that optimizers and gradient accumulation make, each followed by "." and a parameter's name.
#: mindspore/{nn,experimental,mint}/optim, nn/wrap and boost (2.10); MindOCR's own in mindocr/optim.
STATE_PREFIXES = (
    "moments", "moment", "moment1", "moment2", "moment3", "momentum", "momentum_buf", "accum", "accum_update", "stat",
    "vhat", "adam_m", "adam_v", "nadam_m", "nadam_v", "lion_m", "lamb_m", "lamb_v", "linear", "mean_grad",
    "mean_square", "ax_", "ax", "prev", "prev_gradient", "step_size", "exp_avg", "exp_avg_sq", "max_exp_avg_sq",
    "exp_inf", "accu_grads", "grad_accumulation", "grad_accumulated_", "zeros_", "weights_clone",
    "delta_weight", "grad_res_momentum", "grad_proj_init", "dn_init",
)
#: Prefixes that AdaFactor, ASGD and NAdam glue to the parameter's name without a dot.
GLUED_PREFIXES = ("exp_avg_sq_row_", "exp_avg_sq_col_", "exp_avg_sq_", "mu_product_", "mu_", "eta_")
#: Counters and schedules of a training run. They stand outside the network, hence without a dot.
_BOOKKEEPING = re.compile(
    r"global_step|learning_rate(_group_\d+)?|weight_decay(_group_\d+)?|beta[12]_power|mu_schedule|momentum|scale_sense"
    r"|loss_scale|epoch_num|step_num|step_t|state_step|updates|current_iterator_step|last_overflow_iterator_step"
    r"|cov_step|afactor_step|accumulation_(step|size)|grad_accumulate_step_|accu_(step|overflow|loss)"
    r"|graceful_(exit|init)|overflows|scale_step|dbnet_training")

_PREFIXES = (*(f"{prefix}." for prefix in STATE_PREFIXES), *GLUED_PREFIXES)


def split_training_state(tensors: Mapping[str, np.ndarray]) -> tuple[Weights, dict[str, int], Weights | None]:
    """Splits a file's tensors into (weights, what was left out -> number of entries, EMA copies under plain names).

    Both `ema.` and `swap.` are MindOCR's (mindocr/utils/ema.py). No array is copied; the order is kept.
    """
    weights: Weights = {}
    ema: Weights = {}
    training: dict[str, int] = {}
    averaged = _averaged(tensors)
    for name, array in tensors.items():
        kind = EMA if name in averaged else _kind(name, tensors)
        if kind is None:
            weights[name] = array
            continue
        training[kind] = training.get(kind, 0) + 1
        if kind == EMA:
            ema[averaged.get(name, name.removeprefix("ema."))] = array
    return weights, training, ema or None


def _averaged(names: Mapping[str, np.ndarray]) -> dict[str, str]:
    """EMA copies within a state dict -> the names that they are copies of: MMCV 1's EMAHook, Lightning's callbacks."""
    if not any(name.startswith(("ema_", "model_ema.")) for name in names):
        return {}
    glued = {f"ema_{name.replace('.', '_')}": name for name in names if "." in name}
    plain_names = set(glued.values())
    found = {name: glued[name] for name in names if name in glued and name not in plain_names}
    for name in names:
        for prefix in ("ema_model.", "model_ema."):
            rest = name.removeprefix(prefix)
            for plain in (rest, f"module.{rest}", f"model.{rest}") if rest != name else ():
                if plain in names:
                    found[name] = plain
    return found


def split_scalars(tensors: Mapping[str, np.ndarray]) -> tuple[Weights, dict[str, str]]:
    """Splits off the single numbers that belong to no module (epoch_num, global_step), as name -> text.

    They are 0-d, or one of the known counters of shape (1,), and have no dot in their name. A module's 0-d tensor
    (torch's `num_batches_tracked`) stays: the weight map knows it, or reports it.
    """
    text = {name: str(array.reshape(-1)[0]) for name, array in tensors.items()
            if "." not in name and (array.ndim == 0 or (array.shape == (1,) and _BOOKKEEPING.fullmatch(name)))}
    return {name: array for name, array in tensors.items() if name not in text}, text


def _kind(name: str, names: Mapping[str, np.ndarray]) -> str | None:
    if name.startswith("ema."):
        return EMA
    if name.startswith("swap."):
        return SWAP
    if _BOOKKEEPING.fullmatch(name):
        return OPTIMIZER
    if any(name.startswith(prefix) and name.removeprefix(prefix) in names for prefix in _PREFIXES):
        return OPTIMIZER
    return None
