"""Spoilt files over every reader: a few thousand here, more by `make fuzz`; and proof that the harness finds things.

What was found once stays as a row below.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbnet.errors import DbnetError
from tests import fuzz_readers
from tests.fuzz_guard import wrong_message
from tests.fuzz_planted import PLANTED
from tests.fuzz_reader import MIB
from tests.fuzz_worker import case, warm_up
from tests.fuzzing import main

ROOT = Path(__file__).resolve().parents[1]
READERS = {name: reader for name, reader in fuzz_readers.READERS.items() if not reader.slow}
#: About 10 s. Another seed: `make fuzz`, which takes the time for one.
FILES, SEED = 1600, 7


@cache
def fuzzed(*options: str) -> tuple[int, str]:
    """Exit code and output of the command."""
    done = subprocess.run([sys.executable, "-m", "tests.fuzzing", *options], cwd=ROOT, capture_output=True, text=True,
                          check=False, timeout=500)
    return done.returncode, done.stdout + done.stderr


def test_spoilt_files():
    code, told = fuzzed("--files", str(FILES), "--seed", str(SEED), "--quick")
    assert code == 0, told
    rows = {name: line for line in told.splitlines() for name in READERS if line.startswith(f"{name}  ")}
    assert rows.keys() == READERS.keys()
    assert int(re.search(r"all +([\d,]+)", told)[1].replace(",", "")) >= FILES


def refusal(name, path, chance):
    """What the reader says of the file, None if it reads it. Any other exception fails the test."""
    try:
        READERS[name].call(path, chance)
    except DbnetError as error:
        return str(error)
    return None


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
                                                  HealthCheck.data_too_large])
@given(chance=st.randoms(use_true_random=False))
def test_what_hypothesis_makes(tmp_path, name, chance):
    """The same, made smaller by hypothesis where it fails, and with a traceback."""
    file, data = READERS[name].case(chance)
    path = tmp_path / file
    path.write_bytes(data)
    said = refusal(name, path, chance)
    assert said is None or wrong_message(said, file) is None


# The harness ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
def test_the_sound_files_are_read(tmp_path, name):
    """Each by one of the ways that a reader has: nothing would be found in files that are refused at once."""
    reader = READERS[name]
    for i, data in enumerate(reader.seeds()):
        said = []
        for number in range(60):
            path = tmp_path / reader.names[0]
            path.write_bytes(data)
            said.append(refusal(name, path, Random(number)))
            if said[-1] is None:
                break
        assert said[-1] is None, f"{i}: {said[0]}"


@pytest.mark.parametrize("name", READERS)
def test_every_mutator_works_on_sound_files(name):
    reader = READERS[name]
    seeds = reader.seeds()
    for mutator in set(reader.mutators):
        for data in seeds[:len(seeds) - reader.whole][:4]:
            for number in range(2 if len(data) > MIB else 25):
                mutator(Random(number), data, seeds)


def test_a_case_is_the_same_again():
    for name, reader in READERS.items():
        assert case(reader, name, 1, 5)[:2] == case(reader, name, 1, 5)[:2]
        assert len({case(reader, name, seed, 5)[1] for seed in range(9)}) > 1


def test_what_another_process_makes_is_the_same():
    """Whatever was made before it: the case of a finding comes again."""
    script = ("import hashlib, json; from tests.test_fuzz import READERS; from tests.fuzz_worker import case\n"
              "print(json.dumps({n: hashlib.sha256(case(r, n, 3, 77)[1]).hexdigest() for n, r in READERS.items()}))")
    told = json.loads(subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True,
                                     check=True).stdout)
    for name, reader in READERS.items():
        for number in range(9):
            case(reader, name, 3, number)
        assert hashlib.sha256(case(reader, name, 3, 77)[1]).hexdigest() == told[name], name


def test_warming_up_leaves_nothing(tmp_path):
    warm_up({"store": READERS["store"]}, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name):
    code, told = fuzzed("--table", "tests.fuzz_planted", "--files", "1", "--seed", "1")
    assert code == 1
    blocks = {block.partition(": ")[0]: block for block in told.split("\n\n")[1:]}
    says = PLANTED[name][1]
    if not says:
        assert name not in blocks
        return
    what, file, again = blocks[name].splitlines()[:3]
    assert says in what
    assert Path(file.removeprefix("  file: ")).read_bytes() == b"x"
    assert again.endswith(f"-m tests.fuzzing --reader {name!r} --seed 1 --case 0 --table tests.fuzz_planted")


def test_a_case_alone():
    done = CliRunner().invoke(main, ["--table", "tests.fuzz_planted", "--reader", "key", "--seed", "1", "--case", "0"])
    assert done.exit_code == 1
    assert "a finding\nraised KeyError" in done.output
    done = CliRunner().invoke(main, ["--reader", "record", "--seed", "1", "--case", "0"])
    assert done.exit_code == 0
    assert re.search(r"record-1-0/x\.json: 0\.\d\d s, \d+\.\d MiB, (refused|read)\n", done.output)


@pytest.mark.parametrize(("options", "told"), [
    (["--reader", "nothing"], "choose from ckpt"), (["--case", "1"], "--case is one of a --reader")])
def test_wrong_options(options, told):
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 2
    assert told in done.output
