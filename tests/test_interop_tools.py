"""msprobe and Polygraphy themselves, on files that `dbnet interop` wrote.

They run in the interpreter that DBNET_INTEROP_PYTHON names (one that also has this package's frameworks), or in this
one where they are installed; without them these tests are skipped.
"""

import csv
import importlib.util
import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
import yaml

import converters
from converters.dialects import MHLIAO
from converters.load import load_model
from converters.weight_map import WeightMap
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from parity.data import ROOT
from tests.detecting import write_model, write_photos
from tests.interop_dumps import the_project_of_mhliao
from tests.running import dbnet

PYTHON = os.environ.get("DBNET_INTEROP_PYTHON")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def tool(name):
    """The interpreter that has it."""
    if PYTHON is None and importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install mindstudio-probe polygraphy, or name an interpreter that "
                    f"has them in DBNET_INTEROP_PYTHON")
    return PYTHON or sys.executable


def run(*arguments, cwd):
    return subprocess.run([*map(str, arguments)], cwd=cwd, env=ENVIRONMENT, text=True, capture_output=True, check=False,
                          timeout=300)


# Polygraphy -----------------------------------------------------------------------------------------------------------


def polygraphy(command, cwd):
    """Runs a line that begins with `polygraphy`; its exit code and what it prints."""
    start = "import sys; from polygraphy.tools import main; sys.exit(main())"
    done = run(tool("polygraphy"), "-c", start, *shlex.split(command)[1:], cwd=cwd)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_polygraphy_passes_the_model_and_fails_one_that_was_tampered_with(tmp_path):
    """The command that `dbnet interop polygraphy` prints, with the tolerances that it works out."""
    tool("polygraphy")
    model = write_model(tmp_path / "m.ckpt")
    write_photos(tmp_path / "photos", 2)
    files = "--inputs", tmp_path / "in.json", "--outputs", tmp_path / "out.json"
    told = dbnet("interop", "polygraphy", model, "--images", tmp_path / "photos", "--runner", "torch", "--stages",
                 "all", *files).stdout.splitlines()[-1]
    dbnet("convert", model, tmp_path / "MODEL.onnx", "--stages")
    code, printed = polygraphy(told, tmp_path)
    assert code == 0 and "Passed: 2/2 iterations" in printed, printed
    for stage in ("c2", "fused", "logits", "probability"):
        assert f"PASSED | Output: '{stage}'" in printed
    weights = dict(load_model(model).weights)
    name = "neck.out.1.weight"
    weights[name] = weights[name][:, :, ::-1]
    converters.save_weights(weights, tmp_path / "bad.ckpt", spec=load_model(model).record.spec)
    dbnet("convert", tmp_path / "bad.ckpt", tmp_path / "MODEL.onnx", "--stages", "--force")
    code, printed = polygraphy(told, tmp_path)
    assert code != 0 and "Passed: 0/2 iterations" in printed
    for stage, verdict in (("p2", "PASSED"), ("p3", "FAILED"), ("probability", "FAILED")):
        assert f"{verdict} | Output: '{stage}'" in printed


# msprobe --------------------------------------------------------------------------------------------------------------

#: msprobe's own step from a layer mapping to pairs of modules, for a target, a golden dump, a mapping and a result.
PAIR = """
import json, sys
from msprobe.core.compare.layer_mapping import generate_api_mapping_by_layer_mapping
with open(sys.argv[4], "w") as stream:
    json.dump(generate_api_mapping_by_layer_mapping(*sys.argv[1:4]), stream)
"""


def dump_of_names(folder, net, kind, framework):
    """A dump as msprobe writes it at level L0, without values, of all modules of a network in torch."""
    names = [f"{kind}.{path}.{type(module).__name__}.forward.0" for path, module in net.named_modules() if path]
    folder.mkdir()
    for file, content in (
            ("dump", {"task": "statistics", "level": "L0", "framework": framework, "dump_data_dir": None,
                      "data": {name: {"input_args": [], "input_kwargs": {}, "output": []} for name in names}}),
            ("construct", dict.fromkeys(names)), ("stack", {"0": [names[:1], ["File a.py, line 1, in b, \n c"]]})):
        (folder / f"{file}.json").write_text(json.dumps(content))
    return folder / "dump.json"


def test_msprobe_pairs_the_modules_as_the_mapping_means(tmp_path):
    """On names alone: of the halves, which are the same in both, and of MhLiao/DB's modules."""
    python, torch = tool("msprobe"), pytest.importorskip("torch")
    from torch_reference.dbnet import DBNet
    spec = SPECS["dbnet_resnet18"]
    converters.save_weights(seeded_weights(spec), tmp_path / "r18.ckpt", spec=spec)
    dbnet("interop", "msprobe", tmp_path / "r18.ckpt", "-o", tmp_path / "map.yaml", "--target", "ms_models", "--golden",
          "mhliao")
    with torch.device("meta"):
        target = dump_of_names(tmp_path / "a", DBNet(spec), "Cell", "mindspore")
        golden = dump_of_names(tmp_path / "b", the_project_of_mhliao(torch.nn), "Module", "pytorch")
    done = run(python, "-c", PAIR, target, golden, tmp_path / "map.yaml", tmp_path / "pairs.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    pairs = {a.split(".", 1)[1].rsplit(".", 3)[0]: b if b == "N/A" else b.split(".", 1)[1].rsplit(".", 3)[0]
             for a, b in json.loads((tmp_path / "pairs.json").read_text()).items()}
    for entry in WeightMap(MHLIAO, spec).entries:
        assert pairs[entry.parameter.path] == "model.module." + entry.foreign.rpartition(".")[0]
    assert pairs["head.sigmoid"] == "model.module.decoder.binarize.7"
    assert pairs["backbone.layer3.1.relu"] == "model.module.backbone.layer3.1.relu"
    assert pairs["neck"] == pairs["head"] == pairs["head.segm"] == "N/A"


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    """Two dumps that msprobe itself made of the same weights: of ms_models in MindSpore, and of MhLiao/DB's modules in
    torch, as DataParallel; and a mapping.
    """
    for name in ("msprobe", "mindspore", "torch"):
        tool(name)
    folder = tmp_path_factory.mktemp("msprobe")
    spec = SPECS["dbnet_resnet18"]
    weights = seeded_weights(spec)
    converters.save_weights(weights, folder / "r18.ckpt", spec=spec)
    np.savez(folder / "mindspore.npz", **weights)
    np.savez(folder / "mhliao.npz", **WeightMap(MHLIAO, spec).inverse(weights))
    script = ROOT / "tests" / "interop_dumps.py"
    running = {name: subprocess.Popen([tool("msprobe"), str(script), str(folder / name), name,
                                       str(folder / f"{name}.npz")], cwd=folder, env=ENVIRONMENT, text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
               for name in ("mindspore", "mhliao")}
    printed = {name: process.communicate(timeout=300)[0] for name, process in running.items()}
    found = {name: list((folder / name).glob("step0/*/dump.json")) for name in running}
    assert all(len(files) == 1 for files in found.values()), printed
    dbnet("interop", "msprobe", folder / "r18.ckpt", "-o", folder / "map.yaml", "--target", "ms_models", "--golden",
          "mhliao")
    return folder, found["mindspore"][0], found["mhliao"][0]


def compared(dumps, mapping, out):
    """msprobe's table: (name in the target, name in the golden dump or N/A, its row)."""
    folder, target, golden = dumps
    done = run(tool("msprobe"), "-m", "msprobe.msprobe", "compare", "-tp", target, "-gp", golden, "-lm", mapping, "-o",
               out, cwd=folder)
    assert "msprobe compare ends successfully" in done.stdout + done.stderr, done.stdout + done.stderr
    [table] = out.glob("compare_result_*.csv")
    with table.open(newline="") as stream:
        return [(row["NPU Name"], row["Bench Name"], row) for row in csv.DictReader(stream)]


def relative(row):
    """How far apart the two are in what msprobe compares, of the largest value."""
    ours, theirs = ([float(row[f"{side} {what}"]) for what in ("max", "min", "mean", "l2norm")]
                    for side in ("NPU", "Bench"))
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / max(map(abs, theirs))


@pytest.mark.long
def test_msprobe_finds_every_counterpart_and_the_same_values(dumps, tmp_path):
    rows = [row for row in compared(dumps, dumps[0] / "map.yaml", tmp_path) if ".output." in row[0]]
    without = {name for name, golden, _ in rows if golden == "N/A"}
    # What MhLiao/DB has no module for: shortcuts that do nothing, and those that give what no module there gives.
    expected = {f"backbone.layer{i}.{j}.down_sample.Identity" for i, j in ((1, 0), (1, 1), (2, 1), (3, 1), (4, 1))}
    expected |= {"backbone.max_pool.0.Pad", "backbone.max_pool.1.MaxPool2d", "neck.DBFPN", "head.DBHead",
                 "head.segm.SequentialCell"}
    assert {name.split(".", 1)[1].split(".forward.")[0] for name in without} == expected
    paired = [(name, golden, row) for name, golden, row in rows if golden != "N/A"]
    assert len(paired) == 93
    assert all(row["NPU Tensor Shape"] == row["Bench Tensor Shape"] for _, _, row in paired)
    assert max(relative(row) for _, _, row in paired) < 5e-6
    [last] = [golden for name, golden, _ in rows if name.startswith("Cell.head.sigmoid.")]
    assert last == "Module.model.module.decoder.binarize.7.Sigmoid.forward.0.output.0"


@pytest.mark.long
def test_msprobe_tells_a_wrong_row_apart(dumps, tmp_path):
    mapping = yaml.safe_load((dumps[0] / "map.yaml").read_text())
    rows = mapping["TopLayer"]
    rows["neck.out.1"], rows["neck.out.2"] = rows["neck.out.2"], rows["neck.out.1"]
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(mapping))
    found = {name: row for name, _, row in compared(dumps, tmp_path / "wrong.yaml", tmp_path)}
    assert relative(found["Cell.neck.out.1.Conv2d.forward.0.output.0"]) > 1e-3
    assert relative(found["Cell.neck.out.3.Conv2d.forward.0.output.0"]) < 5e-6
