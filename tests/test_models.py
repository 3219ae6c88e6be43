"""Both halves: names, shapes and order of the parameters, and the stages. Numbers: parity/."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest

from dbnet.errors import DbnetError
from dbnet.parameters import Parameter, parameters
from dbnet.running import runnable
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS, STAGES, TRAINING_STAGES

CHANGED = (
    replace(SPECS["dbnet_resnet18"], stem_pool="symmetric", fusion="asf", norm_eps=1e-3),
    replace(SPECS["dbnet_mobilenetv3"], se_gate="none", neck_channels=64),
    replace(SPECS["db_mv3_paddle"], se_gate="hard_sigmoid_0.2", fusion="asf"),
)
MAPS = dict(zip(("c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "fused", "logits", "probability"),
                (4, 8, 16, 32, 4, 8, 16, 32, 4, 1, 1), strict=True))


def torch_with(spec, arrays, precision="float32"):
    """torch's half with weights under canonical names."""
    torch = pytest.importorskip("torch")
    import torch_reference
    torch.set_num_threads(2)
    net = torch_reference.build(spec).to(getattr(torch, precision))
    net.load_state_dict({p.name_in("torch"): torch.tensor(arrays[p.name]) for p in parameters(spec)}, strict=True)
    return net


def paths(table: tuple[Parameter, ...]) -> list[str]:
    return list(dict.fromkeys(p.path for p in table))


@pytest.mark.parametrize("spec", [*SPECS.values(), *CHANGED], ids=lambda spec: spec.name)
def test_torch_has_the_parameters_of_the_table(spec):
    pytest.importorskip("torch")
    import torch_reference
    state = {name: tuple(tensor.shape) for name, tensor in torch_reference.build(spec).state_dict().items()
             if not name.endswith(".num_batches_tracked")}
    assert state == {p.name_in("torch"): p.shape for p in parameters(spec)}
    # Within a batch norm torch lists the statistics last; the modules come in the table's order.
    assert list(dict.fromkeys(name.rpartition(".")[0] for name in state)) == paths(parameters(spec))


@pytest.mark.parametrize("spec", [*SPECS.values(), *CHANGED], ids=lambda spec: spec.name)
def test_mindspore_has_the_parameters_of_the_table(spec):
    pytest.importorskip("mindspore")
    import ms_models
    found = [(p.name, tuple(p.shape)) for p in ms_models.build(spec).get_parameters()]
    assert found == [(p.name, p.shape) for p in parameters(spec)]


@pytest.mark.parametrize("spec", [SPECS["dbnet_mobilenetv3"], SPECS["dbnetpp_resnet50"], *CHANGED],
                         ids=lambda spec: spec.name)
def test_stages_and_outputs_in_torch(spec):
    torch = pytest.importorskip("torch")
    net = torch_with(spec, seeded_weights(spec, 2))
    x = torch.tensor(seeded_images(2, 64, 96))
    with torch.inference_mode():
        stages = net.stages(x)
        assert isinstance(stages, tuple)
        maps = dict(zip(STAGES, stages, strict=True))
        assert {name: (64 // m.shape[2], 96 // m.shape[3]) for name, m in maps.items()} == \
            {name: (stride, stride) for name, stride in MAPS.items()}
        assert torch.equal(net(x), maps["probability"])
        assert torch.equal(maps["probability"], torch.sigmoid(maps["logits"]))
        probability, threshold, binary = net.training_outputs(x)
        assert torch.equal(probability, maps["probability"])
        assert torch.equal(binary, torch.sigmoid(50 * (probability - threshold)))
        net.head.paper = False
        assert torch.equal(net.training_outputs(x)[2], torch.sigmoid(50 * probability - threshold))


@pytest.mark.parametrize("half", ["torch_reference", "ms_models"])
def test_built_for_evaluation(half):
    pytest.importorskip({"torch_reference": "torch", "ms_models": "mindspore"}[half])
    net = importlib.import_module(half).build("dbnet_resnet18")
    assert not net.training
    assert not net.backbone.layer1[0].bn1.training
    with pytest.raises(DbnetError, match="unknown spec 'dbnet_resnet19'"):
        importlib.import_module(half).build("dbnet_resnet19")


def test_the_float64_referee():
    torch = pytest.importorskip("torch")
    spec = SPECS["dbnet_resnet18"]
    weights, x = seeded_weights(spec, 5, "float64"), torch.tensor(seeded_images(1, 64, 96))
    with torch.inference_mode():
        exact = torch_with(spec, weights, "float64").stages(x.double())
        rounded = torch_with(spec, weights).stages(x)
    for stage, a, b in zip(STAGES, exact, rounded, strict=True):
        assert a.dtype == torch.float64
        assert 0 < (a - b).abs().max() <= 1e-5 * a.abs().max(), stage


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_paddings_in_torch(padding):
    """`same` as TensorFlow and MindSpore define it, written out: nothing before the first row on even sides."""
    torch = pytest.importorskip("torch")
    from dbnet.parameters import MOBILENET_BLOCKS
    from torch_reference.mobilenet import InvertedResidual
    from torch_reference.resnet import stem_pool
    functional = torch.nn.functional
    x = torch.randn(1, 8, 16, 24)
    before, after = (0, 1) if padding == "same" else (1, 1)
    padded = functional.pad(x, (before, after, before, after), value=-torch.inf)
    assert torch.equal(stem_pool(padding)(x), functional.max_pool2d(padded, 3, 2))
    for block in (b for b in MOBILENET_BLOCKS if b.stride == 2):
        layers = InvertedResidual(8, block, replace(SPECS["dbnet_mobilenetv3"], depthwise_padding=padding)).layers
        y = torch.rand(1, block.expanded, 16, 24)  # not below 0, so that the ReLU before the padding keeps it
        total = block.kernel - 2 if padding == "same" else block.kernel - 1
        before, after = total // 2, total - total // 2
        padded = functional.pad(layers[2][0](y), (before, after, before, after))
        expected = functional.conv2d(padded, layers[3].weight, stride=2, groups=block.expanded)
        assert torch.allclose(layers[3](layers[2](y))[:, :, :8, :12], expected[:, :, :8, :12], atol=1e-6)
        assert layers[3](layers[2](y)).shape[2:] == (8, 12)


def test_weights_must_be_exactly_the_specs():
    spec = SPECS["dbnet_mobilenetv3"]
    weights = seeded_weights(spec)
    assert list(runnable(spec, weights)) == [p.name for p in parameters(spec)]
    name = "head.segm.0.weight"
    subset = {name: array for name, array in weights.items() if "head.thresh." not in name}
    filled = runnable(spec, subset)
    assert not filled["head.thresh.0.weight"].any()
    assert np.array_equal(filled[name], weights[name])
    for wrong, message in (
        ({n: a for n, a in weights.items() if n != name}, r"1 missing \(head.segm.0.weight\)"),
        ({n: a for n, a in weights.items() if n != "head.thresh.4.beta"}, r"1 missing \(head.thresh.4.beta\)"),
        ({**weights, "extra": weights[name]}, r"1 unexpected \(extra\)"),
        ({**weights, name: weights[name][0]}, r"1 misshapen \(head.segm.0.weight\)"),
    ):
        with pytest.raises(DbnetError, match=message):
            runnable(spec, wrong)


def test_stage_names_are_ours():
    assert tuple(MAPS) == STAGES
    assert TRAINING_STAGES == ("threshold", "binary")
