"""Weights: bit for bit through the real converter, in all directions and over several hops, with the frameworks' own
loaders as witnesses.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import converters
from converters.convert import convert, load_model
from converters.weights import same_bits
from dbnet.parameters import parameters
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from parity.cases import CASES, LONG, marked

SUFFIXES = (".ckpt", ".pth", ".onnx", ".safetensors")
HOPS = 4
#: Small networks of each kind go from every format to every other; the rest from each to the next in the circle, which
#: reads and writes every format once, and the rest of their ways in the long run, with all single ways of large ones.
EVERY_WAY = ("dbnet_mobilenetv3", "dbnet_resnet18", "db_mv3_paddle", "db_mv3_ppocrv3")
LARGE = ("dbnet_resnet50", "dbnetpp_resnet50")
CIRCLE = list(zip(SUFFIXES, (*SUFFIXES[1:], SUFFIXES[0]), strict=True))


def one_hops():
    for case in (*SPECS, "dbnet_resnet18+symmetric"):
        for source, target in itertools.permutations(SUFFIXES, 2):
            quick = case not in (*LONG, *LARGE) and (case in EVERY_WAY or (source, target) in CIRCLE)
            yield pytest.param(case, source, target, marks=[] if quick else pytest.mark.long,
                               id=f"{case}-{source} to {target}")


@pytest.mark.parametrize(("case", "source", "target"), list(one_hops()))
def test_one_hop_is_exact(case, source, target, lab, tmp_path):
    end = convert(lab.file(case, source), tmp_path / f"b{target}").target
    require_exact(case, load_model(end), lab)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", marked(CASES, (*LONG, "dbnet_resnet50")))
def test_several_hops_are_exact(case, seed, lab, tmp_path):
    order = np.random.default_rng(seed).permutation(len(SUFFIXES))
    path = lab.file(case, SUFFIXES[order[-1]])
    for i in range(HOPS):
        path = convert(path, tmp_path / f"hop{i}{SUFFIXES[order[i % len(order)]]}").target
    require_exact(case, load_model(path), lab)


def require_exact(case, model, lab):
    expected = seeded_weights(CASES[case], 11)
    assert list(model.weights) == [p.name for p in parameters(CASES[case])]
    assert [n for n in expected if not same_bits(expected[n], model.weights[n])] == []
    assert model.record.to_json() == load_model(lab.file(case, ".safetensors")).record.to_json()
    assert model.record.spec == CASES[case]


@pytest.mark.parametrize("case", marked(CASES))
def test_torch_loads_what_we_write(case, lab, available):
    available("torch")
    import torch

    from torch_reference import build
    state = torch.load(lab.file(case, ".pth"), weights_only=True)
    model = build(CASES[case])
    model.load_state_dict(state, strict=True)
    expected = seeded_weights(CASES[case], 11)
    held = model.state_dict()
    for p in parameters(CASES[case]):
        assert np.array_equal(held[p.name_in("torch")].numpy(), expected[p.name]), p.name


@pytest.mark.parametrize("case", marked(CASES))
def test_we_read_what_torch_writes(case, lab, available, tmp_path):
    available("torch")
    import torch

    from torch_reference import build
    model = build(CASES[case])
    model.load_state_dict(torch.load(lab.file(case, ".pth"), weights_only=True), strict=True)
    torch.save(model.state_dict(), tmp_path / "torch.pth")
    loaded = load_model(tmp_path / "torch.pth")
    expected = seeded_weights(CASES[case], 11)
    assert [n for n in expected if not same_bits(expected[n], loaded.weights[n])] == []
    assert loaded.bare  # torch.save of a fresh state dict knows nothing of our record


@pytest.mark.parametrize("case", marked(CASES))
def test_mindspore_loads_what_we_write(case, lab, available):
    available("mindspore")
    import mindspore as ms

    from ms_models import build
    net = build(CASES[case])
    held = ms.load_checkpoint(str(lab.file(case, ".ckpt")))
    text = {name for name, value in held.items() if isinstance(value, str)}
    ms.load_param_into_net(net, held, strict_load=True)
    expected = seeded_weights(CASES[case], 11)
    assert set(held) - text == set(expected)
    for name, parameter in net.parameters_and_names():
        assert np.array_equal(parameter.asnumpy(), expected[name]), name


@pytest.mark.parametrize("case", marked(CASES))
def test_we_read_what_mindspore_writes(case, lab, available, tmp_path):
    available("mindspore")
    import mindspore as ms

    from ms_models import build
    net = build(CASES[case])
    ms.load_param_into_net(net, ms.load_checkpoint(str(lab.file(case, ".ckpt"))), strict_load=True)
    ms.save_checkpoint(net, str(tmp_path / "ms.ckpt"))
    expected = seeded_weights(CASES[case], 11)
    loaded = converters.load_weights(tmp_path / "ms.ckpt")
    assert [n for n in expected if not same_bits(expected[n], loaded[n])] == []


def test_onnx_initialisers_are_the_weights(lab):
    import onnx
    from onnx import numpy_helper
    model = onnx.load(lab.file("dbnet_resnet18", ".onnx"))
    expected = seeded_weights(CASES["dbnet_resnet18"], 11)
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in expected}
    assert set(held) == set(expected)
    assert [n for n in expected if not np.array_equal(held[n], expected[n])] == []
