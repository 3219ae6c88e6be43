"""Trainers: what a step does, the rules of the optimizers written out in numpy, and states. Torch's half mostly, and
what is MindSpore's own; the halves against each other: parity/test_training.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dbnet.errors import DbnetError
from dbnet.initial import initial_weights
from dbnet.loss_settings import Losses, LossSettings
from dbnet.parameters import Role, parameters
from dbnet.spec import SPECS
from dbnet.train_settings import OptimizerSettings, ScaleSettings, average_decay
from dbnet.training import check_batch, decayed, learned, unpacked
from parity.training import drawn_batch, run_steps, start_state

#: Graph mode compiles each trainer anew, which takes minutes in all: `make test-full` runs these.
pytestmark = pytest.mark.long

#: The smallest network, and the one with BGR pixels.
SPEC = SPECS["db_mv3_paddle"]
MOMENTUM, ADAM = OptimizerSettings(ema_decay=0.99), OptimizerSettings("adam", weight_decay=5e-5)
HALVES = {"torch": "torch_reference", "mindspore": "ms_models"}


def trainer(half, settings=MOMENTUM, amp="O0", weights=None, spec=SPEC):
    module = pytest.importorskip(half) and pytest.importorskip(f"{HALVES[half]}.train")
    return module.Trainer(spec, weights or initial_weights(spec, 0), settings, LossSettings(), "cpu", amp)


def batches(count, start=0):
    return [drawn_batch(start + i, height=64, width=64) for i in range(count)]


def require_equal(state, other):
    assert state.keys() == other.keys()
    assert [name for name in state if not np.array_equal(state[name], other[name])] == []


# Steps ----------------------------------------------------------------------------------------------------------------


def test_it_learns():
    learner = trainer("torch", replace(ADAM, clip_norm=5.0))
    losses = run_steps(learner, batches(4) * 8, [2e-3] * 32)
    assert losses[-4:, 0].mean() < 0.5 * losses[:4, 0].mean()
    assert learner.steps == 32


def test_losses_of_a_step():
    from torch_reference.train import losses
    found = losses(trainer("torch").step(batches(1)[0], 0.001))
    assert isinstance(found, Losses)
    assert found.total == pytest.approx(found.dice + 10 * found.l1 + 5 * found.cross_entropy, rel=1e-5)


def test_colours_and_normalisation():
    """A BGR network is given the channels in that order: the same as an RGB one given exchanged channels."""
    batch = batches(1)[0]
    exchanged = batch._replace(image=np.ascontiguousarray(batch.image[..., ::-1]))
    rgb = replace(SPEC, pixels=replace(SPEC.pixels, colour="RGB"))
    bgr = trainer("torch").step(batch, 0.0).tolist()
    assert trainer("torch", spec=rgb).step(exchanged, 0.0).tolist() == bgr
    assert trainer("torch", spec=rgb).step(batch, 0.0).tolist() != bgr


def test_weights_are_copies():
    learner = trainer("torch")
    before, state = learner.weights(), learner.state()
    kept = {name: array.copy() for name, array in state.items()}
    run_steps(learner, batches(2), [0.01] * 2)
    require_equal(state, kept)
    require_equal(before, {name: kept[name] for name in before})
    assert list(before) == [p.name for p in parameters(SPEC)]
    assert all(not np.array_equal(array, before[name]) for name, array in learner.weights().items())


def test_gradients_of_several_batches_make_one_step():
    """Two of them, of one image each twice: the mean of their gradients, so that of a batch of both."""
    settings = OptimizerSettings("sgd", weight_decay=0.0)
    first, second = batches(2)
    both, single = trainer("torch", replace(settings, accumulate=2)), trainer("torch", settings)
    run_steps(both, [first], [0.1])
    require_equal({n: a for n, a in both.weights().items() if "moving" not in n},
                  {n: a for n, a in single.weights().items() if "moving" not in n})
    assert (both.steps, both.waiting) == (0, 1)
    run_steps(both, [second], [0.1])
    changes = []
    for batch in (first, second):
        single.load_state(start_state(SPEC, settings))
        run_steps(single, [batch], [0.1])
        changes.append({p.name: single.weights()[p.name] - initial_weights(SPEC, 0)[p.name] for p in learned(SPEC)})
    for name in ("head.segm.6.weight", "neck.out.1.weight"):
        mean = (changes[0][name] + changes[1][name]) / 2
        found = both.weights()[name] - initial_weights(SPEC, 0)[name]
        assert np.linalg.norm(found - mean) < 1e-4 * np.linalg.norm(mean)
    assert (both.steps, both.waiting) == (1, 0)


@pytest.mark.parametrize("change", ["side", "colours", "dtype", "map", "few", "none"])
def test_a_batch_to_refuse(change):
    batch = drawn_batch(0, height=64, width=64)
    if change == "side":
        batch = drawn_batch(0, height=64, width=80)
    elif change == "colours":
        batch = batch._replace(image=batch.image[..., :1])
    elif change == "dtype":
        batch = batch._replace(image=batch.image.astype(np.float32))
    elif change == "map":
        batch = batch._replace(thresh_map=batch.thresh_map[:, :32])
    elif change == "few":
        batch = batch._replace(**{name: getattr(batch, name)[:1, :32, :32] for name in batch._fields[:-1]})
    else:
        batch = batch._replace(**{name: getattr(batch, name)[:0] for name in batch._fields[:-1]})
    wanted = {"side": "nearest: 64 x 96|nearest: 64 x 64", "colours": "must be uint8", "dtype": "must be uint8",
              "map": "thresh_map must have shape", "few": "too little to learn from", "none": "must be uint8"}[change]
    with pytest.raises(DbnetError, match=wanted):
        check_batch(batch)


# Optimizers -----------------------------------------------------------------------------------------------------------

RULES = {
    "sgd": OptimizerSettings("sgd", weight_decay=1e-2),
    "momentum": OptimizerSettings(weight_decay=1e-2, ema_decay=0.9, ema_start="quick"),
    "momentum, filtered, clipped": OptimizerSettings(weight_decay=1e-2, filter_bias_and_bn=True, clip_norm=0.5),
    "momentum, not long enough to clip": OptimizerSettings(clip_norm=1e6),
    "adam": OptimizerSettings("adam", weight_decay=1e-2, eps=1e-3, ema_decay=0.9),
    "adam, filtered, clipped": OptimizerSettings("adam", weight_decay=1e-2, filter_bias_and_bn=True, clip_norm=0.5),
}
RATES = (0.1, 0.2, 0.05)


#: Updates are tried on the head: they look at each parameter alone, but for the gradients' common length.
HEAD = tuple(p for p in learned(SPEC) if p.path.startswith("head."))


def random_gradients(seed):
    rng = np.random.default_rng(seed)
    return {p.name: rng.normal(0, 0.01, p.shape).astype(np.float32) for p in HEAD}


def expected(settings):
    """Weights, moments and average after three updates, by the published rules in float64."""
    weights = {p.name: initial_weights(SPEC, 0)[p.name].astype(np.float64) for p in HEAD}
    average = dict(weights)
    first, second = ({p.name: np.zeros(p.shape) for p in HEAD} for _ in range(2))
    for step, rate in enumerate(RATES, start=1):
        found = {name: array.astype(np.float64) for name, array in random_gradients(step).items()}
        length = np.sqrt(sum((array**2).sum() for array in found.values()))
        clip = 1.0 if settings.clip_norm is None else min(1.0, settings.clip_norm / (length + 1e-6))
        for p in HEAD:
            pulled = not settings.filter_bias_and_bn or p.role not in (Role.BIAS, Role.NORM_SCALE, Role.NORM_SHIFT)
            gradient = clip * found[p.name] + (settings.weight_decay if pulled else 0) * weights[p.name]
            if settings.name == "adam":
                beta1, beta2 = settings.betas
                first[p.name] = beta1 * first[p.name] + (1 - beta1) * gradient
                second[p.name] = beta2 * second[p.name] + (1 - beta2) * gradient**2
                gradient = first[p.name] / (1 - beta1**step) / (
                    np.sqrt(second[p.name] / (1 - beta2**step)) + settings.eps)
            elif settings.name == "momentum":
                gradient = first[p.name] = settings.momentum * first[p.name] + gradient
            weights[p.name] = weights[p.name] - rate * gradient
        if settings.ema_decay is not None:
            decay = average_decay(settings, step)
            average = {name: decay * average[name] + (1 - decay) * weights[name] for name in average}
    moments = {"sgd": {}, "momentum": {"moments.": first}, "adam": {"moment1.": first, "moment2.": second}}
    table = weights | ({f"ema.{n}": a for n, a in average.items()} if settings.ema_decay is not None else {})
    return table | {prefix + n: a for prefix, group in moments[settings.name].items() for n, a in group.items()}


def updated_in_torch(settings):
    import torch
    learner = trainer("torch", settings)
    for step, rate in enumerate(RATES, start=1):
        found = random_gradients(step)
        for name, value in learner._learned.items():
            gradient = found.get(name)
            value.grad = torch.zeros_like(value) if gradient is None else torch.from_numpy(gradient)
        learner._update(rate)
    return learner.state()


def updated_in_mindspore(settings):
    import mindspore as ms

    from ms_models.train import Update
    learner = trainer("mindspore", settings)
    head = ms.nn.CellDict({"head": learner.net.head})
    update = Update(SPEC, head, settings)
    for step, rate in enumerate(RATES, start=1):
        found = random_gradients(step)
        gradients = tuple(ms.Tensor(found[p.name]) for p in update.learned)
        update(gradients, ms.Tensor(1.0, ms.float32), *learner._numbers(rate))
        learner.steps += 1
    groups = [update.weights, *update.moments, *([update.average] if update.average is not None else [])]
    return {p.name: p.asnumpy() for group in groups for p in group} | {"global_step": learner.steps}


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("rule", RULES)
def test_rules_of_the_optimizers(rule, half):
    found = {"torch": updated_in_torch, "mindspore": updated_in_mindspore}[half](RULES[rule])
    start = start_state(SPEC, RULES[rule])
    assert found["global_step"] == 3
    for name, array in expected(RULES[rule]).items():
        change = np.linalg.norm(array - start[name].astype(np.float64))
        error = np.linalg.norm(found[name] - array)
        assert error <= 1e-5 * change + 2e-7 * np.linalg.norm(array), name


def test_what_weight_decay_pulls_at():
    everything = decayed(SPEC, MOMENTUM)
    assert everything == {p.name for p in learned(SPEC)}
    kernels = decayed(SPEC, replace(MOMENTUM, filter_bias_and_bn=True))
    assert {name.rpartition(".")[2] for name in everything - kernels} == {"gamma", "beta", "bias"}
    assert {name.rpartition(".")[2] for name in kernels} == {"weight"}


# States ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "amp", "steps"), [
    (MOMENTUM, "O0", 2), (ADAM, "O0", 2), (OptimizerSettings("sgd"), "O0", 1),
    (replace(ADAM, accumulate=2, ema_decay=0.9), "O0", 3),  # stopped within a step
    (replace(MOMENTUM, accumulate=2, loss_scale=ScaleSettings(64.0, 2.0, 2)), "O2", 3), (MOMENTUM, "bf16", 1),
])
def test_going_on_is_exact(settings, amp, steps):
    """The same bits as without a stop, in another trainer that has learned something else before."""
    straight = trainer("torch", settings, amp)
    run_steps(straight, batches(6), [0.001] * 6)
    stopped = trainer("torch", settings, amp)
    run_steps(stopped, batches(6)[:steps], [0.001] * steps)
    other = trainer("torch", settings, amp)
    run_steps(other, batches(1, start=9), [0.1])
    other.load_state(stopped.state())
    run_steps(other, batches(6)[steps:], [0.001] * (6 - steps))
    require_equal(other.state(), straight.state())


def test_an_average_begins_at_the_weights():
    learner = trainer("torch")
    require_equal(learner.weights(average=True), learner.weights())
    run_steps(learner, batches(2), [0.01] * 2)
    with pytest.raises(AssertionError):
        require_equal(learner.weights(average=True), learner.weights())
    without = trainer("torch", ADAM)
    require_equal(without.weights(average=True), without.weights())


FIRST = learned(SPEC)[0].name


@pytest.mark.parametrize(("change", "message"), [
    ({f"moments.{FIRST}": None}, f"moments of the optimizer momentum .*: moments.{FIRST} is missing"),
    ({f"moments.{FIRST}": np.zeros(3)}, r"has shape \(3,\), not \(8, 3, 3, 3\)"),
    ({f"ema.{FIRST}": None}, r"averaged weights \(ema\)"),
    ({FIRST: None}, f"does not hold the weights of db_mv3_paddle: {FIRST} is missing"),
    ({f"moment1.{FIRST}": np.zeros((8, 3, 3, 3))}, "saved by the optimizer adam, and this run uses momentum"),
    ({"accumulation_step": np.array(1)}, "pending gradients|gradients of 1 batches"),
    ({"global_step": np.array([1, 2])}, "damaged: global_step"),
    ({"global_step": np.array(-1)}, "damaged: global_step"),
    ({"loss_scale": np.array(np.nan)}, "damaged: loss_scale"),
])
def test_a_state_to_refuse(change, message):
    learner = trainer("torch")
    run_steps(learner, batches(1), [0.01])
    before = learner.state()
    state = {name: array for name, array in (start_state(SPEC, MOMENTUM) | change).items() if array is not None}
    with pytest.raises(DbnetError, match=message):
        learner.load_state(state)
    require_equal(learner.state(), before)


def test_states_of_others():
    for settings in (ADAM, OptimizerSettings("sgd")):
        with pytest.raises(DbnetError, match=r"resume with|begin anew"):
            unpacked(SPEC, MOMENTUM, start_state(SPEC, settings))
        with pytest.raises(DbnetError, match="saved by the optimizer momentum, and this run uses"):
            unpacked(SPEC, settings, start_state(SPEC, MOMENTUM))
    with pytest.raises(DbnetError, match="does not hold the weights of db_mv3_paddle"):
        unpacked(SPEC, MOMENTUM, start_state(SPECS["dbnet_resnet18"], MOMENTUM))
    # What others keep in the same file is left alone.
    extra = {"epoch_num": np.array(3), "dbnet_training": np.zeros(5, np.uint8), "swap.x": np.zeros(2)}
    assert unpacked(SPEC, MOMENTUM, start_state(SPEC, MOMENTUM) | extra).progress.global_step == 0
    accumulated = start_state(SPEC, ADAM) | {"accumulation_step": np.array(3)} | {
        f"grad_accumulation.{p.name}": np.zeros(p.shape) for p in learned(SPEC)}
    with pytest.raises(DbnetError, match="gradients of 3 batches, and this run makes a step of 2"):
        unpacked(SPEC, replace(ADAM, accumulate=2), accumulated)


# Short precisions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", HALVES)
def test_half_precision(half):
    """O2: near O0, an overflow leaves the weights alone and lowers the scale, and the next update is sound again."""
    settings = OptimizerSettings("sgd", accumulate=2, ema_decay=0.9, loss_scale=ScaleSettings(window=2))
    learner, exact = trainer(half, settings, "O2"), trainer("torch", settings)
    pair = batches(2)
    found, reference = (run_steps(each, pair, [0.001] * 2) for each in (learner, exact))
    assert found == pytest.approx(reference, rel=0.05)
    assert not np.array_equal(found, reference)
    assert (learner.steps, learner.overflows, learner.scale.value) == (1, 0, 512)
    name = "head.segm.6.weight"
    moved = [each.weights()[name] - initial_weights(SPEC, 0)[name] for each in (learner, exact)]
    assert np.linalg.norm(moved[0] - moved[1]) < 0.2 * np.linalg.norm(moved[1])

    state = learner.state()
    learner.scale.value = 1e30
    run_steps(learner, pair, [0.001] * 2)
    after = learner.state()
    assert (learner.steps, learner.overflows, learner.scale.good) == (1, 1, 0)
    assert learner.scale.value == pytest.approx(5e29)
    statistics = {p.name for p in parameters(SPEC)} - {p.name for p in learned(SPEC)}
    unchanged = [n for n, array in state.items() if array.ndim and n not in statistics]
    require_equal({n: after[n] for n in unchanged}, {n: state[n] for n in unchanged})
    assert np.isfinite(after["overflows"]) and after["overflows"] == 1

    # The same by way of a state in the middle of the step, which holds finite numbers only.
    learner.load_state(state)
    learner.scale.value = 1e30
    run_steps(learner, pair[:1], [0.001])
    state = learner.state()
    assert all(np.isfinite(array).all() for array in state.values())
    learner.load_state(state)
    run_steps(learner, pair[1:], [0.001])
    assert (learner.steps, learner.overflows) == (1, 1)

    learner.scale.value = 512.0
    run_steps(learner, pair * 2, [0.001] * 4)
    assert (learner.steps, learner.overflows, learner.scale.value) == (3, 1, 1024)
    assert all(np.isfinite(array).all() for array in learner.state().values())


def test_bfloat16_is_refused_where_it_cannot_be_had():
    with pytest.raises(DbnetError, match="MindSpore's CPU operators do not compute in bfloat16; use O0 or O2"):
        trainer("mindspore", amp="bf16")


@pytest.mark.parametrize("half", HALVES)
def test_what_a_trainer_refuses(half):
    with pytest.raises(DbnetError, match="amp cannot be 'O1'"):
        trainer(half, amp="O1")
    with pytest.raises(DbnetError, match="1 missing"):
        trainer(half, weights={n: a for n, a in initial_weights(SPEC, 0).items() if n != FIRST})


def test_a_step_in_mindspore():
    """One graph, BGR pixels, an average, a state in the middle: as in torch, and its arrays are copies."""
    learner, reference = trainer("mindspore"), trainer("torch")
    found, expected_losses = (run_steps(each, batches(2), [1e-4] * 2) for each in (learner, reference))
    assert found == pytest.approx(expected_losses, rel=1e-3)
    state = learner.state()
    kept = {name: array.copy() for name, array in state.items()}
    assert state.keys() == reference.state().keys()
    run_steps(learner, batches(1), [1e-2])
    require_equal(state, kept)
    after = learner.state()
    learner.load_state(state)
    run_steps(learner, batches(1), [1e-2])
    require_equal(learner.state(), after)
