"""Our own .onnx: its graph is read too, and must be the one that its record and the names of its tensors call for."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import pytest

import converters
from converters import onnx_file
from converters.load import load_model
from dbnet.errors import DbnetError
from dbnet.record import Record
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from evaluation.runners import open_runner
from parity.cases import CASES
from parity.test_causes import attribute
from tests import detecting

MV3 = SPECS["dbnet_mobilenetv3"]
NETWORKS = {
    **CASES, "rounded": replace(SPECS["db_mv3_paddle"], upsampling="rounded"),
    "narrow": replace(SPECS["db_mv3_ppocrv3"], neck_channels=16),
    "aligned": replace(SPECS["db_mv3_ppocrv3"], upsampling="align_corners"), "epsilon": replace(MV3, norm_eps=1e-3),
    "step": replace(MV3, step_function="mindocr", k=30.0),
}
FORMS = ({"form": "archive"}, {"form": "archive", "stages": True}, {"form": "archive", "opset": 22},
         {"form": "delivery"}, {"form": "delivery", "opset": 11}, {"form": "delivery", "data_shape": (96, 160)})
QUICK = ("dbnet_mobilenetv3", "dbnet_resnet18_deformable", "narrow")


def write(path, spec, weights, **options):
    record = Record(spec, "mindocr")
    with path.open("wb") as stream:
        onnx_file.write(stream, weights, spec, record.to_json(), **options)
    return path


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long)
                                  for name in NETWORKS])
def test_every_graph_that_is_written_is_believed(name, tmp_path):
    spec = NETWORKS[name]
    weights = seeded_weights(spec, 3)
    inference = {n: array for n, array in weights.items() if not n.startswith("head.thresh.")}
    kinds = [{n: array.astype(kind) for n, array in weights.items()} for kind in (np.float16, ml_dtypes.bfloat16)]
    native = [{"form": "archive", "deformable": "native"}] * (spec.deformable != "none")
    for options in (*FORMS, *native):
        assert load_model(write(tmp_path / "a.onnx", spec, weights, **options)).unread is None, options
    for other in (inference, *kinds):
        assert load_model(write(tmp_path / "a.onnx", spec, other, form="archive")).unread is None


# Edited ---------------------------------------------------------------------------------------------------------------


def other_operator(old, new, **attributes):
    def edit(model):
        for i, node in enumerate(model.graph.node):
            if node.op_type == old:
                model.graph.node[i].CopyFrom(onnx.helper.make_node(new, node.input, node.output, node.name,
                                                                   **attributes))
    return edit


def crossed(model):
    """Two batch norms use each other's means."""
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    a, b = next((a, b) for a in norms for b in norms if a is not b and shape(model, a) == shape(model, b))
    a.input[3], b.input[3] = b.input[3], a.input[3]


def shape(model, node):
    return next(tuple(tensor.dims) for tensor in model.graph.initializer if tensor.name == node.input[3])


def reversed_maps(model):
    for node in model.graph.node:
        if node.op_type == "Concat" and len(node.input) == 4:
            node.input[:] = list(node.input)[::-1]


EDITS = {
    "epsilon": (attribute("BatchNormalization", "epsilon", 0.05), "says norm_eps=1e-05, its graph computes 0.05"),
    "gate": (other_operator("Sigmoid", "HardSigmoid", alpha=0.2, beta=0.5), "its graph"),
    "leaky": (other_operator("Relu", "LeakyRelu", alpha=0.3), "its graph is not that of its record"),
    "crossed": (crossed, "uses its tensors for others"), "order": (reversed_maps, "uses its tensors for others"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_graph_is_believed_by_nobody(name, tmp_path, monkeypatch, capsys):
    edit, told = EDITS[name]
    sound, edited = tmp_path / "sound.onnx", tmp_path / "edited.onnx"
    converters.save_weights(seeded_weights(MV3, 3), sound, spec=MV3)
    model = onnx.load(sound)
    edit(model)
    onnx.save(model, edited)
    assert told in str(load_model(edited).unread)
    for command in (("convert", edited, tmp_path / "x.pth"), ("export", edited, tmp_path / "x.onnx")):
        detecting.dbnet(monkeypatch, *command, code=3)
        assert "convert the original file again" in capsys.readouterr().err
    assert not list(tmp_path.glob("x.*"))
    with pytest.raises(DbnetError, match="convert the original file again"):
        converters.load_weights(edited)
    detecting.dbnet(monkeypatch, "compare", sound, edited, "--weights", code=1)
    assert "bit for bit, and the same semantics" not in capsys.readouterr().out
    detecting.dbnet(monkeypatch, "inspect", edited)
    assert told in " ".join(capsys.readouterr().out.split())
    pytest.importorskip("onnxruntime")
    with pytest.raises(DbnetError, match="by its own graph"):
        open_runner(edited, "torch")
    image = np.zeros((1, 3, 64, 64), np.float32)
    maps = [open_runner(path, "onnxruntime", stages=("probability",)).run(image)["probability"]
            for path in (sound, edited)]
    assert not np.array_equal(*maps)
