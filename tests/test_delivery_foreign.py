"""A .mindir of a network that is not known here: it runs by its own graph, as such an .onnx does."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from converters.load import SourceOptions
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.seeded import seeded_images
from evaluation.runners import open_runner
from tests.running import command


@pytest.fixture(scope="module", name="foreign")
def _foreign(tmp_path_factory) -> dict[bool, Path]:
    """Of a network that is not known here, at 64x96; by whether it gives logits."""
    ms = pytest.importorskip("mindspore")
    from tests.mindir_cells import Foreign
    folder, found = tmp_path_factory.mktemp("foreign"), {}
    for logits in (False, True):
        found[logits] = folder / f"logits_{logits}.mindir"
        net = Foreign(logits).set_train(False)
        net.conv.weight.set_data(ms.Tensor(np.full((1, 3, 3, 3), 4, np.float32)))
        ms.export(net, ms.Tensor(np.zeros((1, 3, 64, 96), np.float32)), file_name=str(found[logits]),
                  file_format="MINDIR")
    return found


def test_a_network_that_is_not_known_runs_with_pixels(foreign, tmp_path):
    image = tmp_path / "x.png"
    cv2.imwrite(str(image), draw(1, 64, 96)[0])
    asked = ("detect", "-m", foreign[False], image, "--out", tmp_path / "o", "--only", "json")
    done = command(*asked, "--runner", "mindspore:mindir", "--pixels", "mindocr,resize=stretch")
    assert done.returncode == 0 and "stretched to 64 x 96" in done.stderr, done.stderr
    without = command(*asked, "--runner", "mindspore:mindir")
    assert without.returncode == 3 and "--pixels NAME" in without.stderr
    other = command(*asked, "--pixels", "mindocr")
    assert other.returncode == 3 and "runs with --runner mindspore:mindir only, not in onnxruntime" in other.stderr
    images = seeded_images(2, 64, 96)
    maps = {}
    for logits, path in foreign.items():
        runner = open_runner(path, pixels="mindocr")  # of its own accord
        assert runner.spec.sigmoid is logits and runner.stages == ("probability",)
        assert any("is not known here, it runs as it is" in note for note in runner.notes)
        assert any("a sigmoid is applied" in note for note in runner.notes) is logits
        maps[logits] = runner.run(images)["probability"]
    assert np.abs(maps[True] - maps[False]).max() < 1e-6 and maps[True].std() > 0
    for options, told in (({"output": "x"}, "leave out --map-output"), ({"spec": "dbnet_resnet18"}, "is no dbnet|fits"),
                          ({"semantics": {"gate_slope": 0.2}}, "fits no known network")):
        with pytest.raises(DbnetError, match=told):
            open_runner(foreign[False], options=SourceOptions(pixels="mindocr", **options))
    with pytest.raises(DbnetError, match="no stage c2"):
        open_runner(foreign[False], stages=("c2",), pixels="mindocr")
