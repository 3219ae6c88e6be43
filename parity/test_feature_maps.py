"""Feature maps stage by stage: every network, every pair of runners, and each runner against float64."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from dbnet.spec import STAGES
from parity.cases import CASES, LONG, PAIRS, RUNNERS, SIZES, marked
from parity.compare import compare_stages
from parity.told import rows_of, stage_table
from parity.tolerances import tolerances

#: ResNet-50 is in DBNet++, its neck in ResNet-18, and `test_oracles.py` runs it in every runtime.
LONGER = (*LONG, "dbnet_resnet50")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("pair", PAIRS, ids="~".join)
@pytest.mark.parametrize("case", marked(CASES, LONGER))
def test_stage(case, pair, stage, lab, available, report):
    available(*pair, "float64")
    for size in SIZES:
        comparisons = lab.compare(case, pair, size)
        mine = next(c for c in comparisons if c.stage == stage)
        report(case=case, pair=pair, input=size, **asdict(mine))
        if not mine.passed:
            rows = rows_of(comparisons, [lab.to_float64(case, name, size) for name in pair])
            pytest.fail(f"{case} at {size}, {' against '.join(pair)}\n{stage_table(rows, pair)}", pytrace=False)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", marked(CASES, LONGER))
def test_distance_to_float64(case, runner, lab, available, report):
    available(runner, "float64")
    for size in SIZES:
        comparisons = compare_stages(lab.outputs(case, "float64", size), lab.outputs(case, runner, size),
                                     tolerances(lab.device_of(runner)))
        for comparison in comparisons:
            report(case=case, pair=("float64", runner), input=size, **asdict(comparison))
        if not all(c.passed for c in comparisons):
            rows = rows_of(comparisons)
            pytest.fail(f"{case} at {size}, {runner} against float64\n{stage_table(rows)}", pytrace=False)
