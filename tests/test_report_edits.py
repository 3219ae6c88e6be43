"""What somebody edits in a bundle or a report afterwards is found, and no command replaces what was measured."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from evaluation.bench_report.check import check_bundle
from evaluation.bench_report.joined import UNCOMPARED, verdict_of
from evaluation.bench_report.merge import merge
from evaluation.benching.bundle import to_text, write_bundle
from evaluation.benching.collecting import _Difference
from evaluation.compare_maps import Boxes
from tests.report_bundles import Run, bundle, data


@pytest.fixture
def files(dbnet, tmp_path, monkeypatch):
    """a.json and b.json, bundles; merged.json, a report of both."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate("ab", start=1):
        write_bundle(bundle(Run(i), label=name), tmp_path / f"{name}.json")
    dbnet("report", "merge", "a.json", "b.json", "-o", "merged.json")
    return tmp_path


def edited(path, change):
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


@pytest.mark.parametrize(("edit", "message"), [
    ({"verdict": "same"}, "parity: same in the bundle, within tolerance from"),
    ({"max_abs": 0.9}, "parity: within tolerance in the bundle, different from"),
    ({"tolerance": 1e-6}, "parity: within tolerance in the bundle, different from"),
    ({"max_abs": None}, "parity: within tolerance in the bundle, different from"),
    ({"max_abs": 0.0}, "parity: within tolerance in the bundle, same from"),
    ({"max_abs": -1.0}, "none below 0"),
    ({"images": 0}, "images compared: 0 in the bundle, 1 to 6"),
    ({"reference": 1}, "row that it was compared with: row 2 in the bundle, an earlier one"),
    ({"reference": 2}, "row that it was compared with: row 3 in the bundle, an earlier one"),
    (None, "parity: none in the bundle, a comparison, as row 1 is of the same model"),
])
def test_an_edited_parity_is_named(dbnet, tmp_path, edit, message):
    path = tmp_path / "a.json"
    made = bundle(Run(1), runners=("onnxruntime", "torch", "openvino"))
    told = json.loads(to_text(made))
    told["rows"][1]["parity"] = None if edit is None else {**told["rows"][1]["parity"], **edit}
    path.write_text(json.dumps(told))
    assert message in dbnet("report", "check", path, code=1).out


@pytest.mark.parametrize("max_abs", [None, 0.0, 1e-5, 1e-3])
@pytest.mark.parametrize("same", [True, False])
def test_the_verdict_is_that_of_the_benchmark(max_abs, same):
    measured = _Difference(max_abs, 1, Boxes(2, 2, 2 if same else 1))
    assert verdict_of(max_abs, 1e-4, same) == measured.verdict(1e-4)


def test_parts_that_had_other_references_are_no_finding():
    one, two = (bundle(Run(i), data(shard=(i, 2)), label=str(i)) for i in (1, 2))
    two = replace(two, rows=[replace(two.rows[1], parity=None), replace(two.rows[0], parity=two.rows[1].parity)])
    for source in merge([("1", one), ("2", two)]).sources:
        assert check_bundle(source.bundle, None).findings == []
        assert all(row.parity is None and UNCOMPARED in row.notes for row in source.bundle.rows)


def test_a_report_gives_the_lines_of_its_bundles(dbnet, files):
    count = len(json.loads((files / "merged.json").read_text())["lines"])
    told = dbnet("report", "check", "merged.json").out
    assert f"merged.json: {count} lines: all are those of the bundles within it" in told
    dbnet("report", "merge", "merged.json", "-o", "again.json", "--sort", "img/s", "--no-seed-rows", "--protocol",
          "rrc")
    assert "4 lines: all are those" in dbnet("report", "check", "again.json").out


def ours(told):
    return next(line for line in told["lines"] if line["source"] == "measured")


@pytest.mark.parametrize(("change", "message"), [
    (lambda told: ours(told).update(fscore=0.99), "fscore: 0.99 in the bundle, 0.93"),
    (lambda told: ours(told).update(img_s=1e6), "img_s: 1000000.0 in the bundle"),
    (lambda told: ours(told).update(parity="same"), "parity: same in the bundle, reference"),
    (lambda told: ours(told).update(award="best"), "award: best in the bundle, nothing from"),
    (lambda told: ours(told).pop("ms_step"), "ms_step: nothing in the bundle"),
    (lambda told: told["lines"].remove(ours(told)), "no line in the bundle, a line"),
    (lambda told: told["lines"].append(ours(told)), "line: there in the bundle, no such line"),
    (lambda told: told["lines"].insert(0, 7), "line: there in the bundle, no such line"),
    (lambda told: told["lines"][0].update(fscore=0.5), "fscore: 0.5 in the bundle"),
    (lambda told: told.update(lines=None), "no line in the bundle, a line"),
])
def test_an_edited_line_is_named(dbnet, files, change, message):
    edited(files / "merged.json", change)
    told = dbnet("report", "check", "merged.json", "--json", "found.json", code=1)
    assert message in told.out and "are not those of the bundles within it" in told.out, told.out
    assert json.loads((files / "found.json").read_text())["bundles"][0]["findings"]


def test_a_part_that_was_joined_already_counts_once(dbnet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in (1, 2):
        write_bundle(bundle(Run(i), data(shard=(i, 2)), label=str(i)), tmp_path / f"{i}.json")
    dbnet("report", "merge", "1.json", "2.json", "-o", "joined.json")
    for words in (["joined.json", "1.json", "2.json"], ["1.json", "2.json", "joined.json"]):
        assert "are the same run; name it once" in dbnet("report", "merge", *words, code=3).err
    dbnet("report", "merge", "joined.json")


@pytest.mark.parametrize(("words", "message"), [
    (["report", "check", "a.json", "--json", "a.json"], "a.json: "),
    (["report", "check", "a.json", "--json", "b.json"], "b.json: exists and holds what dbnet bench -o or report merge"),
    (["report", "check", "a.json", "--json", "merged.json"], "merged.json: exists and holds what"),
    (["report", "check", "own.json", "--json", "own.json"], "own.json: is read by this command"),
    (["bench", "m.onnx", "--json", "a.json"], "a.json: exists and holds what"),
    (["report", "merge", "p1.json", "p2.json", "-o", "merged.json"], "merged.json: exists and holds what"),
])
def test_what_was_measured_is_not_replaced(dbnet, files, words, message):
    (files / "m.onnx").write_bytes(b"x")
    told = json.loads((files / "a.json").read_text())
    (files / "own.json").write_text(json.dumps({"version": told.pop("version"), **told}))  # written again by a tool
    for name in ("p1.json", "p2.json"):
        (files / name).write_text('{"scores": {}, "images": {}}')
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    assert message in dbnet(*words, code=3).err
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before


def test_labels_that_nobody_named_cannot_be_checked(dbnet, files):
    """Neither --root nor --gt would help."""
    edited(files / "a.json", lambda told: told["data"].update(labels_sha256=None))
    told = dbnet("report", "check", "a.json", code=3).err
    assert "it has scores, and does not say of which labels" in told and "--root" not in told
    dbnet("report", "check", "a.json", "--no-labels")
