"""The originals: outputs of MindOCR's own code (MindSpore 2.10, CPU) and of MhLiao/DB's own PyTorch code.

Not our halves against each other, but each of them against the project whose weights it claims to run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pytest

import converters
from converters.check import weight_map
from converters.convert import convert, load_model
from converters.formats import codec
from converters.load import SourceOptions
from converters.weights import same_bits
from dbnet.extras import installed
from dbnet.parameters import Role, parameters
from dbnet.spec import SPECS
from evaluation.runners import open_runner
from parity import known
from parity.cases import RUNNERS, SUFFIX, distances, marked
from parity.compare import compare
from parity.data import ROOT, need, oracle_module
from parity.tolerances import tolerances

MINDOCR = ("dbnet_mobilenetv3", "dbnet_resnet18", "dbnet_resnet50", "dbnetpp_resnet50")
MHLIAO = {"resnet18": "dbnet_resnet18", "resnet50": "dbnet_resnet50", "resnet50_asf": "dbnetpp_resnet50"}
STAGES = ("c2", "c3", "c4", "c5", "fused", "probability")
#: In torch and MindSpore only: an .onnx file has no training outputs.
TRAINING = {"threshold": "threshold", "thresh_binary_mindocr": "binary"}
MHLIAO_TOLERANCE = 1e-4


def mindocr_weights(spec_name, seed=0):
    seeded = oracle_module().seeded_array
    return {p.name: seeded(p.name, p.shape, seed) for p in parameters(SPECS[spec_name])}


def oracle_image():
    return oracle_module().seeded_image(96, 160, 0)


def require_close(stage, reference, candidate, tolerance, report, constant_is_known=False, **row):
    found = compare(stage, reference, candidate, tolerance, constant_is_known)
    report(**row, **asdict(found))
    assert found.passed, found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of the oracles' weights, made once: (spec, suffix) -> path."""
    folder, made = tmp_path_factory.mktemp("oracles"), {}

    def make(spec_name, suffix):
        if (spec_name, suffix) not in made:
            path = folder / f"{spec_name}{suffix}"
            converters.save_weights(mindocr_weights(spec_name), path, spec=spec_name)
            made[spec_name, suffix] = path
        return made[spec_name, suffix]

    return make


@pytest.fixture(scope="module")
def outputs(files, lab):
    """Made once: (spec, runner) -> the stages of the oracle's image, where there is a training branch its maps too."""

    @cache
    def make(spec_name, runner):
        options = SourceOptions(semantics={} if runner == "onnxruntime" else {"step_function": "mindocr"})
        stages = STAGES if runner == "onnxruntime" else (*STAGES, *TRAINING.values())
        return open_runner(files(spec_name, SUFFIX[runner]), runner=runner, device=lab.device_of(runner),
                           stages=stages, options=options).run(oracle_image())

    return make


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("spec", MINDOCR)
def test_mindocr(spec, runner, outputs, lab, available, report):
    available(runner)
    oracle = np.load(need(f"oracle/mindocr_seed0_96x160/{spec}.npz"))
    device, ours, exact = lab.device_of(runner), outputs(spec, runner), referee(spec)
    for stage in STAGES:
        require_close(stage, oracle[stage], ours[stage], tolerances(device).of(stage), report, spec=spec, runner=runner,
                      to_float64=exact and distances(exact, ours)[stage],
                      original_to_float64=exact and distances(exact, oracle)[stage])


@cache
def referee(spec_name):
    """The oracle's stages in float64, the paper's binary map with them; None without torch."""
    if not installed("torch"):
        return None
    from torch_reference.runner import TorchRunner
    return TorchRunner(SPECS[spec_name], mindocr_weights(spec_name), device="cpu", stages=(*STAGES, "binary"),
                       precision="float64").run(oracle_image())


@pytest.mark.parametrize("runner", ["torch", "mindspore"])
@pytest.mark.parametrize("spec", MINDOCR)
def test_mindocr_training_outputs(spec, runner, outputs, lab, available, report):
    available(runner)
    oracle = np.load(need(f"oracle/mindocr_seed0_96x160/{spec}.npz"))
    device, ours = lab.device_of(runner), outputs(spec, runner)
    for theirs, stage in TRAINING.items():
        listed = known.find("constant_reference", "mindocr_oracle", spec, theirs) is not None
        require_close(theirs, oracle[theirs], ours[stage], tolerances(device).of(theirs), report, listed, spec=spec,
                      runner=runner)


@pytest.mark.parametrize(("spec", "runner"), [
    # The head is one for all backbones: MindSpore's long compilations for it alone are left to the long run.
    pytest.param(spec, runner, marks=[pytest.mark.long] if runner == "mindspore" and "resnet50" in spec else [])
    for spec in MINDOCR for runner in ("torch", "mindspore")])
def test_paper_binary_map(spec, runner, files, lab, available, report):
    available(runner, "float64")
    device = lab.device_of(runner)
    ours = open_runner(files(spec, SUFFIX[runner]), runner=runner, device=device, stages=("binary",),
                       options=SourceOptions(semantics={"step_function": "paper"})).run(oracle_image())
    require_close("binary", referee(spec)["binary"], ours["binary"], tolerances(device).of("binary"), report, spec=spec,
                  runner=runner)


EXACT = """
import sys
import numpy as np
import mindspore as ms
sys.path.insert(0, {root!r})
from dataclasses import replace
from parity.test_oracles import mindocr_weights, oracle_image
from dbnet.spec import SPECS, STAGES
from ms_models import build
from ms_models.runner import Stages

ms.set_context(mode=ms.GRAPH_MODE)
ms.set_device("CPU") if hasattr(ms, "set_device") else ms.set_context(device_target="CPU")
wanted = ("c2", "c3", "c4", "c5", "fused", "probability", "threshold", "binary")
for name in sys.argv[2:]:
    net = build(replace(SPECS[name], step_function="mindocr"))
    weights = mindocr_weights(name)
    for parameter in net.get_parameters():
        parameter.set_data(ms.Tensor(weights[parameter.name]))
    graph = Stages(net, wanted)
    graph.set_train(False)
    maps = graph(ms.Tensor(oracle_image()))
    np.savez(f"{{sys.argv[1]}}/{{name}}.npz", **{{k: v.asnumpy() for k, v in zip(wanted, maps)}})
"""
#: Its backbone is that of DBNet++, its neck and head that of ResNet-18: for the long run.
EXACT_LONG = ("dbnet_resnet50",)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """A spec's stages from a process of its own, which does the others of its kind at once: importing takes long."""

    @cache
    def folder_of(specs):
        folder = tmp_path_factory.mktemp("exact")
        environment = {k: v for k, v in os.environ.items() if k not in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")}
        script = folder / "exact.py"
        script.write_text(EXACT.format(root=str(ROOT)))
        done = subprocess.run([sys.executable, str(script), str(folder), *specs], env=environment, text=True,
                              capture_output=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return folder

    def outputs(spec):
        alike = tuple(each for each in MINDOCR if (each in EXACT_LONG) == (spec in EXACT_LONG))
        return np.load(folder_of(alike) / f"{spec}.npz")

    return outputs


@pytest.mark.parametrize("spec", marked(MINDOCR, EXACT_LONG))
def test_mindspore_half_is_mindocr_bit_for_bit(spec, available, exact):
    """Without ONEDNN_MAX_CPU_ISA, as the oracle was made. 2.9 and 2.10 agree bit for bit."""
    available("mindspore")
    from importlib import metadata

    from ms_models.compat import has_avx512
    if not has_avx512():
        pytest.skip("the oracle was made on a processor with AVX-512; oneDNN computes other bits on this one")
    if metadata.version("mindspore").rsplit(".", 1)[0] not in ("2.9", "2.10"):
        pytest.skip("the oracle was made with MindSpore 2.10; 2.8 and older differ from it in the last bits")
    oracle = np.load(need(f"oracle/mindocr_seed0_96x160/{spec}.npz"))
    ours = exact(spec)
    pairs = {**{stage: stage for stage in STAGES}, **TRAINING}
    different = {theirs: int((ours[mine] != oracle[theirs]).sum()) for theirs, mine in pairs.items()
                 if not np.array_equal(ours[mine], oracle[theirs])}
    assert not different


def mhliao_file(folder, variant):
    """A checkpoint as MhLiao/DB saves it; the file's own names, with MindSpore's batch-norm leaves, are the seeds."""
    seeded, spec = oracle_module().seeded_array, SPECS[MHLIAO[variant]]
    norms = {role.leaf("torch"): role.leaf("mindspore") for role in Role if role.is_norm}
    tensors = {}
    for entry in weight_map("mhliao", spec).entries:
        path, _, leaf = entry.foreign.rpartition(".")
        name = f"{path}.{norms[leaf] if entry.parameter.role.is_norm else leaf}"
        tensors[f"model.module.{entry.foreign}"] = seeded(name, entry.parameter.shape, 0)
    path = folder / f"{variant}.pth"
    with path.open("w+b") as stream:
        codec("pth").write(stream, tensors, None)
    return path


@pytest.fixture(scope="module")
def mhliao_files(tmp_path_factory):
    """Made once: (variant, hops) -> the checkpoint, or the one after pth -> ckpt -> onnx -> pth."""
    folder = tmp_path_factory.mktemp("mhliao")

    @cache
    def make(variant, hops):
        if not hops:
            return mhliao_file(folder, variant)
        path = make(variant, False)
        for suffix in (".ckpt", ".onnx", ".pth"):
            path = convert(path, folder / f"{variant}.hopped{suffix}").target
        return path

    return make


@pytest.mark.parametrize("variant", list(MHLIAO))
def test_hops_change_nothing(variant, mhliao_files):
    """Neither a bit of the weights nor what they mean, so that one file stands for both below."""
    before, after = (load_model(mhliao_files(variant, hops)) for hops in (False, True))
    assert before.record.spec == after.record.spec and list(before.weights) == list(after.weights)
    assert [name for name in before.weights if not same_bits(before.weights[name], after.weights[name])] == []


@pytest.mark.parametrize("hops", [pytest.param(False, marks=pytest.mark.long), True],
                         ids=["direct", "pth-ckpt-onnx-pth"])
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("variant", list(MHLIAO))
def test_mhliao(variant, runner, hops, mhliao_files, lab, available, report):
    available(runner)
    oracle = np.load(need(f"oracle/mhliao_seed0_96x160/{variant}.npz"))
    path = mhliao_files(variant, hops)
    device = lab.device_of(runner)
    ours = open_runner(path, runner=runner, device=device, stages=tuple(oracle.files)).run(oracle_image())
    for stage in oracle.files:
        tolerance = max(MHLIAO_TOLERANCE, tolerances(device).of(stage))
        require_close(stage, oracle[stage], ours[stage], tolerance, report, spec=variant, runner=runner)


def test_mhliao_weights_in_mindocrs_network_are_another_detector(available, tmp_path):
    """The trap: 134 of 134 names map, and the probabilities differ widely, because one max-pool pads otherwise."""
    available("torch")
    model = load_model(mhliao_file(tmp_path, "resnet18"))
    assert len(model.weights) == 134
    from torch_reference.runner import TorchRunner
    stages = ("c2", "probability")
    right, wrong = (TorchRunner(replace(model.record.spec, stem_pool=pool), model.weights, device="cpu", stages=stages
                                ).run(oracle_image()) for pool in ("symmetric", "same"))
    assert np.abs(right["probability"] - wrong["probability"]).max() > 0.3
    assert distances(right, wrong)["c2"] > 0.1
