"""Are the numbers what they were: `pytest parity/ --baseline FILE [--update-baseline]`; without it nothing here is run.

What changed fails its test; what cannot be compared is an error of its fixture, no alarm.
"""

from __future__ import annotations

import pytest

from dbnet.errors import DbnetError
from parity.baseline import UNCHANGED
from parity.baseline_told import ACCEPT, headline, told
from parity.plugin import BASELINE
from parity.plugin_baseline import PROPERTY


def pytest_generate_tests(metafunc):
    if "run" in metafunc.fixturenames:
        held = metafunc.config.stash[BASELINE]
        metafunc.parametrize("run", held.names() if held else [None], ids=str)


@pytest.fixture
def change(run, baseline):
    """What became of the run since."""
    if (why := baseline.missing(run)) is not None:
        pytest.skip(why)
    try:
        return baseline.change(run)
    except DbnetError as error:
        reason = str(error)
    pytest.fail(f"could not be compared: {reason}", pytrace=False)  # out here, else the reason is told twice


def test_run(run, change, baseline, report, record_property):
    if change is None:
        pytest.fail(f"is not in {baseline.wanted.path}, nothing to compare with; to add it: {ACCEPT}", pytrace=False)
    report(run=run, **change.to_dict())
    if change.verdict != UNCHANGED:
        record_property(PROPERTY, f"{run}: {headline(change)}")
        pytest.fail(told(change, baseline.wanted), pytrace=False)


def test_update(baseline, record_property):
    try:
        lines = baseline.update()
    except DbnetError as error:
        reason = str(error)
    else:
        record_property(PROPERTY, "\n".join(lines))
        return
    pytest.fail(reason, pytrace=False)
