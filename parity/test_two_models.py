"""Any two models: `pytest parity/ --reference A --candidate B [--images DIR]`; without them nothing here is run."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from dbnet.errors import DbnetError
from dbnet.spec import STAGES, TRAINING_STAGES
from parity.compare import LEAST_SPREAD
from parity.models import PIXELS
from parity.plugin import WANTED
from parity.told import box_lines, image_table, stage_table, told


def pytest_generate_tests(metafunc):
    if "given" in metafunc.fixturenames:
        wanted = metafunc.config.stash[WANTED]
        metafunc.parametrize("given", wanted.images if wanted and wanted.images else [None], ids=str)


def compared(work, *arguments):
    """What came of a comparison; one line where it could not be made."""
    try:
        return work(*arguments)
    except DbnetError as error:
        reason = str(error)
    pytest.fail(f"could not be compared: {reason}", pytrace=False)  # out here, else the reason is told twice


@pytest.mark.parametrize("stage", [PIXELS, *STAGES, *TRAINING_STAGES])
def test_stage(stage, two_models, report):
    """Chained from the image. The first stage that differs tells all, the others what they are."""
    result = compared(two_models.stages)
    row = next((row for row in result.rows if row.stage == stage), None)
    if row is None:
        missing(stage, *two_models.sides())
        return
    plain = result.to_dict()
    report(**next(each for each in plain["stages"] if each["stage"] == stage),
           **{name: plain[name] for name in ("first_divergence", "cause")})
    if stage == result.first:
        pytest.fail(told(result), pytrace=False)
    if not row.passed:
        own = " by an error of its own" if stage in result.own else ""
        pytest.fail(f"{stage} differs{own}; the first that does is {result.first}, cause: {result.cause}\n"
                    f"{stage_table([row])}", pytrace=False)
    if row.comparison.reference_spread < LEAST_SPREAD:
        pytest.skip(f"{stage}: the reference is constant here, which proves nothing")


def missing(stage, reference, candidate):
    """A stage without a row: pixels that are the same by their settings, or maps that cannot be had."""
    if stage == PIXELS:
        assert reference.pixels == candidate.pixels
        return
    who = [name for name, side in (("reference", reference), ("candidate", candidate)) if stage in side.stages]
    pytest.skip(f"{stage}: only the {who[0]} gives it" if who else f"{stage}: neither of the two gives it")


def on_images(given, two_models):
    """The comparison on one of --images; fails where an image could not be looked at."""
    if given is None and not two_models.is_traced:
        pytest.skip("probabilities and boxes of whole images are not compared: give --images FOLDER")
    result = compared(two_models.on_images, given)
    if result.failed:
        pytest.fail("\n".join([f"{len(result.failed)} images could not be compared", *result.failed]), pytrace=False)
    return result


def test_probability_on_images(given, two_models, report):
    result = on_images(given, two_models)
    report(images=given, count=len(result.images), max_abs=result.max_abs, mean_abs=result.mean_abs,
           tolerance=result.tolerance, other_sizes=result.other_sizes)
    if result.not_finite:
        pytest.fail(f"{result.not_finite} of {len(result.images)} images have NaN or Inf in a map\n"
                    f"{image_table(result)}", pytrace=False)
    if result.other_sizes:
        pytest.fail(f"{result.other_sizes} of {len(result.images)} images have maps of two sizes, for the models' "
                    f"pixels differ; --pixels gives both the same\n{image_table(result)}", pytrace=False)
    if not result.max_abs <= result.tolerance:
        pytest.fail(f"probabilities are up to {result.max_abs:.1e} apart, {result.tolerance:g} at most\n"
                    f"{image_table(result)}", pytrace=False)


def test_boxes_on_images(given, two_models, report):
    result = on_images(given, two_models)
    boxes = result.boxes
    report(images=given, count=len(result.images), **asdict(boxes))
    if not boxes.same:
        first = (f"{boxes.identical} of {boxes.a} boxes are the same, {boxes.moved} moved, {boxes.lost} lost, "
                 f"{boxes.invented} invented")
        pytest.fail("\n".join([first, *box_lines(result), image_table(result)]), pytrace=False)
    if not boxes.a:
        pytest.skip(f"{given}: neither of the two finds a box, which proves nothing")
