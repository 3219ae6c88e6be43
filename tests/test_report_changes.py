"""--compare: no alarm for two runs of the same thing, one for what is really slower or worse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dbnet.errors import DbnetError
from evaluation.bench_report.changes import (
    BETTER,
    FAILS,
    FASTER,
    NOT_JUDGED,
    NOT_SHOWN,
    SLOWER,
    WORSE,
    Compared,
    compare,
)
from evaluation.bench_report.merge import merge
from evaluation.bench_report.pairing import paired
from evaluation.bench_report.report import summary
from tests.report_bundles import Run, bundle, data


def compared(new, old, **settings) -> Compared:
    return compare(merge([("new", new)], mixed=True), merge([("old", old)], mixed=True), **settings)


def verdicts(found: Compared) -> dict[str, set[str]]:
    told: dict[str, set[str]] = {}
    for change in found.changes:
        told.setdefault(change.what, set()).add(change.verdict)
    return told


@pytest.mark.parametrize("seed", range(8))
def test_the_same_thing_twice_is_no_regression(seed):
    found = compared(bundle(Run(100 + seed, noise=0.15)), bundle(Run(seed, noise=0.15)))
    assert found.regressions == [] and set().union(*verdicts(found).values()) <= {NOT_SHOWN, FASTER}


@pytest.mark.parametrize("load", [1.2, 1.5, 2.5])
@pytest.mark.parametrize("seed", range(4))
def test_a_machine_that_is_busier_is_no_regression(seed, load):
    found = compared(bundle(Run(100 + seed, load, busy=3.0)), bundle(Run(seed)))
    assert found.regressions == []
    assert any("the machine was busier: load 5.0, then 2.3" in change.why for change in found.changes)


@pytest.mark.parametrize("load", [1.2, 1.5, 2.5])
@pytest.mark.parametrize("seed", range(4))
def test_a_machine_as_loaded_that_was_slower_for_all_of_the_run_is_no_regression(seed, load):
    """Reading the same images took longer too."""
    found = compared(bundle(Run(100 + seed, load, busy=5.0)), bundle(Run(seed, busy=5.0)))
    assert found.regressions == []
    assert any("the machine was loaded (7.0)" in change.why for change in found.changes)


def test_a_machine_of_its_own_that_is_slower_in_everything_is_told():
    """Nothing else ran: a driver, a clock, a container's limit; whoever upgraded it wants to know."""
    assert compared(bundle(Run(2, 1.2)), bundle(Run(1))).regressions


@pytest.mark.parametrize("seed", range(8))
def test_a_network_that_is_a_fifth_slower_is_found(seed):
    found = compared(bundle(Run(100 + seed, slower=1.2)), bundle(Run(seed)))
    assert verdicts(found)["network"] == {SLOWER} and verdicts(found)["from file to boxes"] == {SLOWER}
    for change in found.regressions:
        assert change.factor.low < 1.2 * 1.03 and change.factor.low > 1.05


@pytest.mark.parametrize("seed", range(4))
def test_a_fifth_slower_under_the_same_load_is_found(seed):
    found = compared(bundle(Run(100 + seed, 1.3, slower=1.25, busy=5.0)), bundle(Run(seed, busy=5.0)))
    assert verdicts(found)["network"] == {SLOWER}
    assert all(change.held.low > 1.05 for change in found.regressions)


def test_a_fifth_faster_is_said_and_no_regression():
    found = compared(bundle(Run(2)), bundle(Run(1, slower=1.25)))
    assert found.regressions == [] and verdicts(found)["network"] == {FASTER}


def test_a_machine_that_was_busier_then_makes_nothing_faster():
    found = compared(bundle(Run(2)), bundle(Run(1, 1.5, busy=4.0)))
    assert verdicts(found)["network"] == {NOT_SHOWN}
    assert any("faster, but the machine was busier then: load 6.0, now 2.3" in change.why for change in found.changes)


def test_the_margin_can_be_chosen():
    new, old = bundle(Run(2, slower=1.2, noise=0.01)), bundle(Run(1, noise=0.01))
    assert compared(new, old, margin=0.1).regressions and not compared(new, old, margin=0.3).regressions


def test_a_lower_score_is_a_regression_and_a_single_box_is_none():
    told = data(20)
    old = bundle(Run(1), told, missing=1)
    found = compared(bundle(Run(2), told, missing=3), old)
    assert verdicts(found)["f-score (rrc)"] == {WORSE}
    assert all(change.interval[1] < 0 for change in found.regressions)
    assert verdicts(compared(old, bundle(Run(2), told, missing=3)))["f-score (rrc)"] == {BETTER}
    assert verdicts(compared(bundle(Run(2), told), old))["f-score (rrc)"] == {NOT_SHOWN}


def test_a_score_on_other_labels_is_not_judged():
    old = bundle(Run(1))
    new = bundle(Run(2), {**data(), "labels_sha256": "f" * 64}, missing=3)
    assert verdicts(compared(new, old, mixed=True))["f-score (rrc)"] == {NOT_JUDGED}
    with pytest.raises(DbnetError, match="different data: the labels"):
        compared(new, old)


def test_a_row_that_fails_now_is_a_regression_and_a_missing_one_is_told():
    old, new = bundle(Run(1)), bundle(Run(2))
    broken = replace(new, rows=[new.rows[0], replace(new.rows[1], error="cannot load")])
    found = compared(broken, old)
    assert [(change.verdict, change.why) for change in found.regressions] == [(FAILS, "cannot load")]
    found = compared(replace(new, rows=new.rows[:1]), old)
    assert found.regressions == [] and len(found.gone) == 1 and "torch" in found.gone[0]
    assert len(compared(old, replace(new, rows=new.rows[:1])).added) == 1
    again = compared(broken, replace(broken, made=old.made))
    assert not again.regressions  # it failed then too


def test_what_else_changed_is_told():
    old, new = bundle(Run(1)), bundle(Run(2))
    new = replace(new, machine={**new.machine, "system": "Linux 6.6"}, rows=[
        replace(row, environment={**row.environment, "onnxruntime": "1.33.0"}) for row in new.rows])
    assert compared(new, old).software == ("lab: system Linux 6.1 is Linux 6.6 now",
                                           "lab: onnxruntime 1.32.0 is 1.33.0 now")


@pytest.mark.parametrize(("change", "message"), [
    ({"label": "other"}, "the machines are others"),
    ({"runners": ("openvino",)}, "measure the same models in the same runners"),
])
def test_nothing_in_common_is_an_error(change, message):
    with pytest.raises(DbnetError, match=message):
        compared(bundle(Run(2), **change), bundle(Run(1)))


@pytest.mark.parametrize("rounds", [1, 2])
def test_too_few_rounds_are_not_judged(rounds):
    few = bundle(Run(2, rounds=rounds), told={**data(), "protocol": None})
    few = replace(few, rows=[replace(row, scores={}) for row in few.rows])
    with pytest.raises(DbnetError, match="at least 3 of each are needed"):
        compared(few, bundle(Run(1)))


def test_other_weights_compare_times_and_say_so():
    old, new = bundle(Run(1)), bundle(Run(2))
    found = compared(replace(new, models=[replace(new.models[0], weights_sha256="b" * 64)]), old)
    assert {change.why for change in found.changes if "f-score" in change.what} == {"other weights"}


GOOD, BAD = ("b" * 64, "good.onnx"), ("c" * 64, "worse.onnx")


def of_models(seed, *models, label="lab"):
    """A bundle of each model in ONNX Runtime; the second one finds less."""
    made = []
    for weights, file in models:
        one = bundle(Run(seed), data(20), label, runners=("onnxruntime",), missing=1 if file == GOOD[1] else 3)
        made.append(replace(one, models=[replace(one.models[0], id=file, weights_sha256=weights, file=file)],
                            rows=[replace(one.rows[0], model=file)]))
    return replace(made[0], models=[model for each in made for model in each.models],
                   rows=[row for each in made for row in each.rows],
                   detections={key: value for each in made for key, value in each.detections.items()})


@pytest.mark.parametrize("now", [(BAD,), (BAD, GOOD), (GOOD, BAD)])
def test_rows_go_with_those_of_their_weights(now):
    found = compared(of_models(2, *now), of_models(1, GOOD, BAD))
    assert found.regressions == [] and len(found.gone) == 2 - len(now) and found.added == ()
    assert verdicts(found)["f-score (rrc)"] == {NOT_SHOWN}


def test_weights_under_another_file_name_are_the_same_row():
    renamed = of_models(2, (BAD[0], "x.onnx"), (GOOD[0], GOOD[1]))
    assert compared(renamed, of_models(1, GOOD, BAD)).regressions == []


def test_a_file_trained_again_goes_with_itself_and_nothing_is_guessed():
    found = compared(of_models(2, ("d" * 64, BAD[1]), GOOD), of_models(1, GOOD, BAD))
    assert found.gone == found.added == () and found.regressions == []
    with pytest.raises(DbnetError, match="nothing was measured both"):
        compared(of_models(2, ("d" * 64, "other.onnx")), of_models(1, GOOD, BAD))


def test_an_interpreter_of_its_own_is_another_row():
    def made(seed, *runners):
        one = bundle(Run(seed), runners=("opencv", "torch")[:len(runners)])
        return replace(one, rows=[replace(row, runner=runner) for row, runner in zip(one.rows, runners, strict=True)])
    found = compared(made(2, "opencv@/env/python", "opencv"), made(1, "opencv", "opencv@/env/python"))
    assert {change.runner for change in found.changes if change.place == (0, 0)} == {"opencv@/env/python"}
    old = merge([("o", made(1, "opencv", "opencv@/env/python"))])
    pairs = paired(merge([("n", made(2, "opencv@/env/python"))]), old)
    assert [(then.row.runner, now.row.runner) for then, now in pairs.both] == [("opencv@/env/python",) * 2]
    assert [row.row.runner for row in pairs.gone] == ["opencv"]
    upgraded = compared(made(2, "opencv@/new/python"), made(1, "opencv@/env/python"))
    assert upgraded.gone == () and upgraded.changes  # another environment is what one wants to see


@pytest.mark.parametrize("seed", range(4))
def test_a_slow_network_is_found_although_the_machine_was_busier(seed):
    """Reading the images took as long as then."""
    found = compared(bundle(Run(100 + seed, slower=2.8, busy=2.0)), bundle(Run(seed, busy=0.1)))
    assert verdicts(found)["network"] == {SLOWER} and all(change.held.low > 1.05 for change in found.regressions)


def test_what_was_put_down_to_load_is_counted():
    found = compared(bundle(Run(100, 1.5, busy=3.0)), bundle(Run(1)))
    assert found.regressions == [] and len(found.excused) == 4
    assert "; 4 slow-downs put down to a loaded machine, measure again" in summary(found)
    assert "put down" not in summary(compared(bundle(Run(2)), bundle(Run(1))))
