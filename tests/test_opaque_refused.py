"""Foreign files that cannot run, requests that need a known network, weights in other files: one line each."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

from converters.load import SourceOptions
from converters.onnx_outline import read_outline
from dbnet.errors import DbnetError
from dbnet.seeded import seeded_images
from evaluation.opaque import check_locations
from evaluation.runners import FRAMEWORKS, open_runner
from tests import detecting
from tests.opaque_models import detector, opened, probability_of

pytest.importorskip("onnxruntime")


# What cannot run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "message"), [
    ({"inputs": ["scale_factor"]}, "takes image .*scale_factor.*; only a file that takes one image"),
    ({"element": "UINT8"}, r"takes image tensor\(uint8\).*only images of floats"),
    ({"shape": ("n", 1, "h", "w")}, "not one colour image"), ({"shape": (4, 3, "h", "w")}, "exactly 4 images at once"),
    ({"shape": (1, 3, 100, 96)}, "multiples of 32"),
    ({"stride": 4}, r"no probability map: out has the shape \(1, 1, 32, 64\) for an image of 128 x 256: a map at 1/4"),
])
def test_files_that_do_not_run(settings, message, tmp_path):
    if settings.get("shape") == ("n", 1, "h", "w"):
        path = detector(tmp_path / "m.onnx")
        model = onnx.load(path)
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "k"))
        onnx.save(model, path)
    else:
        path = detector(tmp_path / "m.onnx", **settings)
    with pytest.raises(DbnetError, match=message) as error:
        opened(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_network_with_several_channels_is_no_detector(tmp_path):
    path = detector(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.node.append(onnx.helper.make_node("Concat", ["out", "out"], ["both"], axis=1))
    model.graph.output[0].name = "both"
    onnx.save(model, path)
    with pytest.raises(DbnetError, match=r"no probability map: both has the shape \(1, 2, 128, 256\).*not one value"):
        opened(path)


def test_what_onnxruntime_says_is_one_line(tmp_path):
    path = detector(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.node[0].op_type = "Unheard"
    onnx.save(model, path)
    with pytest.raises(DbnetError, match=r"ONNX Runtime .* refuses it") as error:
        opened(path)
    assert "\n" not in str(error.value)
    model.graph.node[0].op_type = "Conv"
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones((1, 4, 1, 1), np.float32), "k"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "c"  # so that it is noticed only when it runs
    onnx.save(model, path)
    with pytest.raises(DbnetError, match="ONNX Runtime failed") as error:
        opened(path)
    assert "\n" not in str(error.value)


def test_a_graph_made_for_one_size_is_tried_with_the_size_of_the_pixels(tmp_path):
    """Sides are said to be open, and a Reshape within is not."""
    path = detector(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 64, 96]), "shape"))
    model.graph.node.append(onnx.helper.make_node("Reshape", ["out", "shape"], ["fixed"]))
    model.graph.output[0].name = "fixed"
    onnx.save(model, path)
    assert opened(path, "mindocr,size=64x96").spec.output == "fixed"
    with pytest.raises(DbnetError, match="ONNX Runtime failed"):
        opened(path, "mindocr,size=64x64")


@pytest.mark.parametrize(("arguments", "message"), [
    ({"runner": "torch"}, "runs in ONNX Runtime only, not in torch"),
    ({"runner": "mindspore"}, "not in mindspore"),
    ({"stages": ("c2", "probability")}, "no stage c2"), ({"stages": ("threshold",)}, "no stage threshold"),
    ({"options": SourceOptions(spec="dbnet_resnet18")}, "fits no known network"),
    ({"options": SourceOptions(semantics={"stem_pool": "same"})}, "fits no known network"),
])
def test_requests_that_need_a_known_network(arguments, message, tmp_path):
    with pytest.raises(DbnetError, match=message) as error:
        open_runner(detector(tmp_path / "m.onnx"), **{"pixels": "mhliao", **arguments})
    assert "\n" not in str(error.value)


def test_only_an_onnx_runs_as_it_is(tmp_path):
    from safetensors.numpy import save_file
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "m.safetensors")
    with pytest.raises(DbnetError, match="fits no known network"):
        open_runner(tmp_path / "m.safetensors", pixels="paddle")
    path = detecting.write_model(tmp_path / "own.safetensors")
    for runner in FRAMEWORKS:
        pytest.importorskip(runner)
        with pytest.raises(DbnetError, match="leave out --map-output"):
            open_runner(path, runner, options=SourceOptions(output="probability"))


@pytest.mark.parametrize(("operators", "end"), [(("Log",), "scaled"), (("Sub", "Div"), "sigmoid")])
def test_values_that_are_no_numbers(operators, end, tmp_path):
    """The logarithm of what is negative; one by nothing."""
    path = detector(tmp_path / "m.onnx", end=end)
    model = onnx.load(path)
    for i, operator in enumerate(operators):
        source = model.graph.node[-1].output[0]
        model.graph.node.append(onnx.helper.make_node(operator, [source] * (1 if operator == "Log" else 2) if i == 0
                                                      else ["out", source], [f"broken{i}"]))
    model.graph.output[0].name = model.graph.node[-1].output[0]
    onnx.save(model, path)
    with pytest.raises(DbnetError, match=rf"broken{len(operators) - 1} holds NaN or Inf for an ordinary image"):
        opened(path)


# External data --------------------------------------------------------------------------------------------------------


def test_weights_in_another_file(tmp_path):
    path, images = detector(tmp_path / "m.onnx", external=True), seeded_images(1, 64, 64)
    assert read_outline(path).locations == {"m.onnx.data"}
    runner = opened(path)
    assert np.allclose(runner.run(images)["probability"], probability_of(images), atol=2e-6)
    data = tmp_path / "m.onnx.data"
    changed = bytearray(data.read_bytes())
    changed[1] ^= 1
    data.write_bytes(changed)
    assert opened(path).digest != runner.digest
    data.unlink()
    with pytest.raises(DbnetError, match=r"keeps its weights in 'm\.onnx\.data', which is not beside it"):
        opened(path)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "..\\secret", "C:secret"])
@pytest.mark.parametrize("where", ["initialiser", "attribute", "subgraph"])
def test_weights_from_outside_are_not_opened(location, where, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(np.ones(3, np.float32).tobytes())
    path = detector(folder / "m.onnx")
    model = onnx.load(path)
    tensor = onnx.TensorProto(name="k" if where == "initialiser" else "t", data_type=1, dims=[1, 3, 1, 1],
                              data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    constant = onnx.helper.make_node("Constant", [], ["t"], value=tensor)
    if where == "initialiser":
        model.graph.initializer[0].CopyFrom(tensor)
    elif where == "attribute":
        model.graph.node.insert(0, constant)
    else:
        inner = onnx.helper.make_graph([constant], "then", [], [onnx.helper.make_tensor_value_info("t", 1, None)])
        model.graph.node.insert(0, onnx.helper.make_node("If", ["image"], ["c"], then_branch=inner, else_branch=inner))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DbnetError, match=f"wants weights from '.*{re.escape(location[-5:])}', which is not in its fol"):
        opened(path)


@pytest.mark.parametrize("link", ["m.onnx.data", "inner"])
def test_a_link_that_leads_out_is_not_followed(link, tmp_path):
    """Also where a folder on the way is one; a link within the folder is followed."""
    folder = tmp_path / "model"
    folder.mkdir()
    path, data = detector(folder / "m.onnx", external=True), folder / "m.onnx.data"
    data.rename(folder / "real")
    data.symlink_to("real")
    check_locations(path, read_outline(path))
    data.unlink()
    (tmp_path / "outside").mkdir()
    (folder / "real").rename(tmp_path / "outside/real")
    if link == "inner":
        (folder / link).symlink_to(tmp_path / "outside")
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = "inner/real" if entry.key == "location" else entry.value
        path.write_bytes(model.SerializeToString())
    else:
        data.symlink_to(tmp_path / "outside/real")
    with pytest.raises(DbnetError, match="a link to elsewhere"):
        opened(path)


def test_a_name_too_long_is_one_line(tmp_path):
    path = detector(tmp_path / "m.onnx", external=True)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "x" * 5000
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DbnetError, match="wants weights from") as error:
        opened(path)
    assert len(str(error.value)) < 700 and "\n" not in str(error.value)


def test_a_damaged_file_is_damaged(tmp_path):
    path = detector(tmp_path / "m.onnx")
    content = path.read_bytes()
    for size in (1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DbnetError, match=r"m\.onnx") as error:
            opened(path)
        assert "\n" not in str(error.value)
