"""What mindspore.export writes as .onnx, damaged transposed convolutions and all."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from converters.load import load_model
from converters.onnx_proof import prove
from converters.weights import same_bits
from dbnet.extras import installed
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS

SCRIPT = """
import sys
from dataclasses import replace
import mindspore as ms
import numpy as np
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from ms_models.dbnet import DBNet
spec = replace(SPECS[sys.argv[1]], neck_channels=int(sys.argv[2]))
net = DBNet(spec).set_train(False)
ms.load_param_into_net(net, {n: ms.Parameter(ms.Tensor(a), name=n) for n, a in seeded_weights(spec).items()})
ms.export(net, ms.Tensor(np.zeros((1, 3, 64, 96), np.float32)), file_name=sys.argv[3], file_format="ONNX")
"""


@pytest.mark.long
@pytest.mark.skipif(not (installed("mindspore") and installed("onnxruntime")), reason="needs both")
@pytest.mark.parametrize(("name", "width"), [("dbnet_resnet18", 32), ("dbnetpp_resnet50", 256)])
def test_mindspores_export_is_repaired_read_and_proved(name, width, tmp_path):
    path = tmp_path / "x.onnx"
    subprocess.run([sys.executable, "-c", SCRIPT, name, str(width), str(path.with_suffix(""))], check=True, timeout=300,
                   env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}, capture_output=True)
    found, spec = load_model(path), replace(SPECS[name], neck_channels=width)
    weights = seeded_weights(spec)
    assert found.record.origin == "mindocr" and found.record.spec.relevant_semantics() == spec.relevant_semantics()
    assert all(same_bits(array, weights[name]) for name, array in found.weights.items())
    assert any("repaired" in note for note in found.notes)
    proof = prove(found)
    assert proof is not None and max(proof.random, proof.picture) < 1e-5
