"""Every chain of conversions from every origin ends with the same bytes.

A conversion is a function of its source's bytes. So if, for one origin, converting any of its files to any other
format or dialect gives the one file of that kind, byte for byte, then every chain of any length does: these tests try
every such step, which covers all chains of up to four hops and all longer ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.check import weight_map
from converters.convert import convert, load_model
from converters.dialects import DIALECTS
from converters.formats import codec
from converters.load import default_record
from converters.weights import digest
from dbnet.record import Record
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS

ORIGINS = [(dialect.name, spec) for dialect in DIALECTS.values() for spec in dialect.specs]
SMALL = [row for row in ORIGINS if SPECS[row[1]].backbone == "mobilenetv3"]
#: The default run's; the others take minutes.
QUICK = [("mindocr", "dbnet_mobilenetv3"), ("paddle", "dbnet_mobilenetv3"), ("mindocr_enhance", "db_mv3_ppocrv3")]
SUFFIX = {"mindocr": ".ckpt", "mindocr_enhance": ".ckpt", "paddle": ".pdparams"}


@dataclass(frozen=True)
class Kind:
    """A format and whose names are in it."""

    suffix: str
    dialect: str

    def path(self, folder: Path) -> Path:
        return folder / f"{self.dialect}{self.suffix}"


OWN = (Kind(".ckpt", "mindocr"), Kind(".pth", "torch"), Kind(".onnx", "mindocr"), Kind(".safetensors", "mindocr"))


def origin_file(folder: Path, dialect: str, spec: str, dtype: str = "float16") -> Path:
    """As the project itself saves it: no record."""
    path = folder / f"origin{SUFFIX.get(dialect, '.pth')}"
    with path.open("w+b") as stream:
        codec(path.suffix[1:]).write(stream, weight_map(dialect, SPECS[spec]).inverse(
            seeded_weights(SPECS[spec], 5, dtype)), None)
    return path


def kinds(record: Record) -> list[Kind]:
    """What a record can be written as."""
    others = [Kind(SUFFIX.get(d.name, ".pth"), d.name) for d in DIALECTS.values() if d.foreign
              and record.spec.name in d.specs and not d.cannot_express(record.spec)]
    return [*OWN, *others]


def require_every_step(folder: Path, dialect: str, spec: str) -> int:
    """Tries all steps from one origin; how many there were."""
    start = origin_file(folder, dialect, spec)
    model = load_model(start)
    assert model.record == Record(**{**vars(default_record(dialect, SPECS[spec])), "sha256": model.record.sha256})
    assert model.record.sha256 == digest(seeded_weights(SPECS[spec], 5, "float16"))
    files, steps = {}, 0
    for kind in kinds(model.record):
        files[kind] = convert(start, kind.path(folder), to=kind.dialect).target.read_bytes()
        again = load_model(kind.path(folder))
        assert (again.record, again.dialect) == (model.record, kind.dialect), kind
        assert again.record.to_json() == model.record.to_json()
        steps += 1
    for source in files:
        for target in files:
            found = convert(source.path(folder), folder / f"step{target.suffix}", to=target.dialect, force=True)
            assert found.target.read_bytes() == files[target], (source, target)
            steps += 1
    return steps


@pytest.mark.parametrize(("dialect", "spec"), QUICK)
def test_every_step_from_an_origin(dialect, spec, tmp_path):
    assert require_every_step(tmp_path, dialect, spec) >= 4 + 16


@pytest.mark.long
@pytest.mark.parametrize(("dialect", "spec"), [row for row in ORIGINS if row not in QUICK])
def test_every_step_from_any_other_origin(dialect, spec, tmp_path):
    assert require_every_step(tmp_path, dialect, spec) >= 4 + 16


def test_every_project_can_be_an_origin_and_most_a_target():
    targets = {kind.dialect for dialect, spec in ORIGINS for kind in kinds(default_record(dialect, SPECS[spec]))}
    assert {dialect for dialect, _ in ORIGINS} == targets == set(DIALECTS)


@settings(max_examples=12)
@given(row=st.sampled_from(SMALL), picks=st.lists(st.integers(0, 99), min_size=1, max_size=4),
       dtype=st.sampled_from(["float16", "float32", "bfloat16"]))
def test_chains_themselves(tmp_path_factory, row, picks, dtype):
    """A few whole chains, in other precisions."""
    folder = tmp_path_factory.mktemp("chain")
    path = origin_file(folder, *row, dtype)
    first = load_model(path)
    for i, pick in enumerate(picks):
        possible = kinds(first.record)
        kind = possible[pick % len(possible)]
        path = convert(path, folder / f"hop{i}{kind.suffix}", to=kind.dialect).target
    last = load_model(path)
    assert last.record == first.record
    assert list(last.weights) == list(first.weights)
    assert all(np.array_equal(last.weights[n].view(np.uint8), a.view(np.uint8)) for n, a in first.weights.items())
