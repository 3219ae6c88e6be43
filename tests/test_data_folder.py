"""A missing data folder or file: skipped, but not where it was named, or where the folder is there under CI=true."""

from __future__ import annotations

import pytest
from _pytest.outcomes import Failed, Skipped

from parity.data import ROOT, need, shared_root


@pytest.mark.parametrize(("ci", "folder", "outcome", "told"), [
    ("false", "absent", Failed, "which is no folder"),
    ("true", "absent", Failed, "which is no folder"),
    ("false", ".", Skipped, "has no weights/x"),
    ("true", ".", Failed, "has no weights/x"),
])
def test_a_missing_file(monkeypatch, tmp_path, ci, folder, outcome, told):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("DBNET_SHARED", str(tmp_path / folder))
    with pytest.raises(outcome, match=told):
        need("weights/x")


@pytest.mark.parametrize("ci", ["true", "false"])
def test_a_file_that_is_there(monkeypatch, tmp_path, ci):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("DBNET_SHARED", str(tmp_path))
    (tmp_path / "x").touch()
    assert need("x") == tmp_path / "x"


@pytest.mark.parametrize("value", [None, ""])
def test_the_default_lies_beside_the_checkout(monkeypatch, value):
    monkeypatch.delenv("DBNET_SHARED", raising=False)
    if value is not None:
        monkeypatch.setenv("DBNET_SHARED", value)
    assert shared_root() == (ROOT.parent / "shared").resolve()


def test_without_a_data_folder_the_reason_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("DBNET_SHARED", raising=False)
    monkeypatch.setattr("parity.data.ROOT", tmp_path / "checkout")
    with pytest.raises(Skipped, match="no data folder"):
        need("weights/x")
