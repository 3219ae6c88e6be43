"""The scripts that stand beside what Ascend's converters take, run with programs of a few lines in their place."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace

import pytest

from converters.delivery_note import DeliveryNote
from dbnet.record import Record
from dbnet.spec import SPECS
from evaluation.delivery import converting, lite, om
from evaluation.lite_sidecar import Sidecar, read_sidecar
from tests.test_delivery_lite import LITE_PROGRAM, program

SPEC = SPECS["db_mv3_paddle"]


@pytest.mark.parametrize("name", ["x.mindir", "it's \n $(touch gone) -x.mindir"])
def test_the_script_says_in_the_sidecar_whose_it_is(name, tmp_path, monkeypatch):
    (path := tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
    record = Record(SPEC, "paddle")
    about = Sidecar(record, DeliveryNote("lite", SPEC.pixels, SPEC.boxes), ((64, 96),), 1, "ascend", "float32")
    target = tmp_path / name
    graph, sidecar, script = (converting.beside(target, end) for end in ("graph.mindir", "lite.json", "lite.sh"))
    graph.write_bytes(b"graph")
    sidecar.write_text(about.to_json())
    conversion = converting.Conversion(lite.CONVERTER, lite.arguments_of(graph, None), "--outputFile=", script,
                                       (graph, sidecar), sidecar)
    converting.write_script(conversion, target)
    target.write_bytes(b"earlier")
    run = ["sh", "-c", converting.run_by_hand(script)]  # as it is told
    assert subprocess.run(run, cwd=tmp_path, capture_output=True).returncode == 3 and target.exists()  # no converter
    program(path, "converter_lite", "print('CONVERT RESULT SUCCESS:0')")
    assert subprocess.run(run, cwd=tmp_path, capture_output=True).returncode == 1 and not target.exists()  # and no file
    assert read_sidecar(target) == about
    program(path, "converter_lite", LITE_PROGRAM.replace("assert", "#"))
    subprocess.run(run, cwd=tmp_path, check=True, capture_output=True)
    assert read_sidecar(target) == replace(about, file=hashlib.sha256(b"converted").hexdigest())
    assert {one.name for one in tmp_path.iterdir()} == {path.name, name, graph.name, sidecar.name, script.name}


@pytest.mark.parametrize("name", ["x y.atc.sh", "$(touch gone).atc.sh"])
def test_what_is_told_can_be_pasted(name, tmp_path):
    conversion = converting.Conversion(om.ATC, (), "--output=", tmp_path / name, (tmp_path / "x.onnx",))
    assert converting.by_hand(conversion, "no chip", "CHIP").endswith(f"run there: sh '{name}' CHIP")
