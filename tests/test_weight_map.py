"""The weight map: complete and injective both ways, exact names of the other projects, nothing silently ignored."""

import numpy as np
import pytest

from converters.check import fit, identify, weight_map
from converters.dialects import DIALECTS, get_dialect
from converters.weight_map import Dialect, Rule, Transform, WeightMap
from dbnet.errors import DbnetError
from dbnet.parameters import parameters
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS

PAIRS = [(d.name, s) for d in DIALECTS.values() for s in d.specs]


def distinct(spec: str) -> dict[str, np.ndarray]:
    """A tensor of one value for every parameter, each another, in next to no memory."""
    return {p.name: np.broadcast_to(np.float32(i), p.shape) for i, p in enumerate(parameters(SPECS[spec]))}


@pytest.mark.parametrize(("dialect", "spec"), PAIRS)
def test_there_and_back_is_the_same(dialect, spec):
    weights = seeded_weights(SPECS[spec], 3) if "resnet50" not in spec else distinct(spec)
    mapping = weight_map(dialect, SPECS[spec])
    foreign = mapping.inverse(weights)
    prefix = mapping.dialect.prefixes[0]
    back = mapping.apply({name[len(prefix):]: array for name, array in foreign.items()})
    assert list(back) == [p.name for p in parameters(SPECS[spec])]
    assert all(np.array_equal(back[name], weights[name]) for name in weights)


@pytest.mark.parametrize(("dialect", "spec"), PAIRS)
def test_written_names_are_identified(dialect, spec):
    foreign = weight_map(dialect, SPECS[spec]).inverse(distinct(spec))
    report = identify(foreign)
    assert (report.dialect.name, report.spec.name, report.problems) == (dialect, spec, 0)


@pytest.mark.parametrize("spec", list(SPECS))
def test_torch_counters_follow_their_batch_norm(spec):
    names = list(weight_map("torch", SPECS[spec]).inverse(distinct(spec)))
    counters = [i for i, name in enumerate(names) if name.endswith("num_batches_tracked")]
    assert len(counters) == sum(p.role.name == "NORM_MEAN" for p in parameters(SPECS[spec]))
    leaves = ["weight", "bias", "running_mean", "running_var"]
    for i in counters:
        assert [name.rsplit(".", 1)[1] for name in names[i - 4:i]] == leaves


def _names_file(path):
    rows = [line.split("\t") for line in path.read_text().splitlines() if line.strip()]
    return {name: tuple(int(n) for n in shape.split(",") if n) for name, shape in rows}


@pytest.mark.parametrize(("file", "spec"), [("resnet18", "dbnet_resnet18"), ("resnet50", "dbnet_resnet50"),
                                            ("resnet50_asf", "dbnetpp_resnet50"),
                                            ("deformable_resnet18", "dbnet_resnet18_deformable"),
                                            ("deformable_resnet50", "dbnet_resnet50_deformable"),
                                            ("deformable_resnet50_asf", "dbnetpp_resnet50_deformable")])
def test_mhliao_names_are_the_originals(need, file, spec):
    theirs = _names_file(need(f"oracle/mhliao_seed0_96x160/{file}.names.tsv"))
    report = fit({n: np.broadcast_to(np.float32(1), s) for n, s in theirs.items()}, weight_map("mhliao", SPECS[spec]),
                 "model.module.")
    assert report.problems == 0
    ours = weight_map("mhliao", SPECS[spec]).inverse(distinct(spec))
    assert {n: a.shape for n, a in ours.items()} == theirs  # so that its own code loads them strictly


def test_paddle_names_are_the_originals(need):
    theirs = _names_file(need("oracle/paddle_det_mv3_db.names.tsv"))
    ours = weight_map("paddle", SPECS["db_mv3_paddle"]).inverse(seeded_weights(SPECS["db_mv3_paddle"]))
    assert {n: a.shape for n, a in ours.items()} == theirs


@pytest.mark.parametrize("spec", ["dbnet_mobilenetv3", "dbnet_resnet18", "dbnet_resnet50", "dbnetpp_resnet50"])
def test_canonical_names_and_order_are_mindocrs(need, spec):
    lines = need(f"oracle/mindocr_seed0_96x160/{spec}.names.txt").read_text().splitlines()
    theirs = [tuple(line.split("\t")) for line in lines if line.strip()]
    assert [(p.name, ",".join(map(str, p.shape))) for p in parameters(SPECS[spec])] == theirs


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "int"])
def test_every_fault_is_reported(change):
    foreign = weight_map("mhliao", SPECS["dbnet_resnet18"]).inverse(seeded_weights(SPECS["dbnet_resnet18"]))
    name = "model.module.decoder.in4.weight"
    if change == "missing":
        del foreign[name]
    elif change == "extra":
        foreign["model.module.decoder.in9.weight"] = foreign[name]
    elif change == "shape":
        foreign[name] = foreign[name][:, :-1]
    else:
        foreign[name] = foreign[name].astype(np.int32)
    report = identify(foreign)
    assert (report.spec.name, report.problems) == ("dbnet_resnet18", 1)
    assert ("in9" if change == "extra" else "in4") in report.describe()


def test_half_a_training_branch_is_not_a_subset():
    weights = seeded_weights(SPECS["dbnet_resnet18"])
    without = {n: a for n, a in weights.items() if not n.startswith("head.thresh.")}
    assert identify(without).subset == "inference"
    assert identify(without).problems == 0
    half = {n: a for n, a in weights.items() if not n.startswith("head.thresh.0")}
    assert identify(half).missing == ["head.thresh.0.weight"]


def test_a_transform_is_undone():
    swap = Transform(lambda a: a[:, ::-1], lambda a: a[:, ::-1])
    dialect = Dialect("swapped", "nobody", "torch", ("dbnet_resnet18",), (".pth",),
                      rules=(Rule("neck.unify_channels.{i}", "lateral.{i}", swap),))
    mapping, weights = WeightMap(dialect, SPECS["dbnet_resnet18"]), seeded_weights(SPECS["dbnet_resnet18"])
    foreign = mapping.inverse(weights)
    assert not np.array_equal(foreign["lateral.0.weight"], weights["neck.unify_channels.0.weight"])
    assert np.array_equal(mapping.apply(foreign)["neck.unify_channels.0.weight"],
                          weights["neck.unify_channels.0.weight"])


def test_unknown_names_are_refused():
    with pytest.raises(DbnetError, match="choose one of"):
        get_dialect("mmocr9")
    with pytest.raises(DbnetError, match="do not exist"):
        identify({}, "paddle", SPECS["dbnetpp_resnet50"])
