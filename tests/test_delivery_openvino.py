"""Target openvino: its two files belong together."""

from __future__ import annotations

import shutil

import pytest

from converters.delivery_note import BIN_KEY, texts_of
from converters.export import read_source
from converters.load import SourceOptions
from converters.onnx_file import write
from dbnet.errors import DbnetError
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from evaluation.delivery import openvino
from evaluation.delivery.settings import ExportSettings
from evaluation.runners import open_runner
from tests.running import command

SPEC = SPECS["db_mv3_paddle"]


def test_the_bin_of_another_model(tmp_path):
    """Of the same network, so of the same length: it would run under the record of the first."""
    pytest.importorskip("openvino")
    for name, seed in (("a", 1), ("b", 2)):
        with (tmp_path / f"{name}.onnx").open("wb") as stream:
            write(stream, seeded_weights(SPEC, seed), SPEC, None)
        model, _ = read_source(tmp_path / f"{name}.onnx", None)
        openvino.write(model, tmp_path / f"{name}.xml", ExportSettings("openvino"))
    path = tmp_path / "a.xml"
    assert open_runner(path).notes == [] and len(texts_of(path)[BIN_KEY]) == 64
    assert (tmp_path / "a.bin").stat().st_size == (tmp_path / "b.bin").stat().st_size
    shutil.copy(tmp_path / "b.bin", tmp_path / "a.bin")
    with pytest.raises(DbnetError, match=r"a\.bin is not the one that a\.xml was written with.*--allow-edited"):
        open_runner(path)
    assert "accepted (--allow-edited)" in open_runner(path, options=SourceOptions(allow_edited=True)).notes[-1]
    done = command("compare", tmp_path / "a.onnx", path)
    assert done.returncode == 3 and "a.bin is not the one" in done.stderr
