"""How several processes end when one of them is gone, or cannot begin."""

from __future__ import annotations

import pytest

from dbnet.errors import DbnetError
from dbnet.launch import Launch
from dbnet.running import Device
from tests.test_distributed import TOGETHER, begin, data, end, environment, in_epoch_two, recipe, started
from tests.test_train_loop import NO_CHECK, one_thread

pytest.importorskip("torch")
__all__ = ["data", "one_thread", "recipe"]


@pytest.mark.long
def test_kill_9_of_one_of_three_names_it(recipe):
    processes = in_epoch_two(recipe, size=3)
    processes[2].kill()
    assert [process.wait(90) for process in processes[:2]] == [3, 3]
    first, second = [(recipe.parent / f"log{rank}").read_text() for rank in range(2)]
    assert first.splitlines()[-1] == "dbnet: process 2 of 3 has ended without a word; look at what it has printed"
    assert "dbnet: " not in second and "GLHF" not in first


def test_one_without_its_device_meets_the_others_first(monkeypatch):
    """For msrun's scheduler ends with its workers only when all have met."""
    pytest.importorskip("mindspore")
    from ms_models import compat
    from ms_models.world import World
    done = []
    monkeypatch.setattr(compat, "come_together", lambda launch, device: done.append(device))
    monkeypatch.setattr(compat, "part", lambda: done.append("parted"))
    with pytest.raises(DbnetError, match="--device gpu:0 names one device, and msrun started 2 processes"):
        World(Launch("msrun", "mindspore", 1, 2, 1, 2), "gpu:0")
    assert done == [Device("cpu"), "parted"]
    with pytest.raises(DbnetError, match="names one device"):
        World(Launch("mpirun", "mindspore", 1, 2, 1, 2), "gpu:0")
    assert len(done) == 2


@pytest.mark.long
def test_a_device_that_is_not_there_ends_msrun(recipe):
    pytest.importorskip("mindspore")
    process = begin([*started("msrun", recipe.parent), "python", "-m", "dbnet", "train", "-c", recipe, "--workers", "0",
                     "--device", "gpu:0", "-o", NO_CHECK, TOGETHER], recipe.parent / "log0", environment())
    [told] = end([process], recipe, 1, seconds=120)
    assert "--device gpu:0 names one device, and msrun started 2 processes here" in told
