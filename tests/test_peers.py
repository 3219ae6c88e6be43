"""What processes of one training tell each other, here threads; and who has started them, from the environment."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dbnet.errors import DbnetError
from dbnet.launch import BrokenOffError, Launch, find_launch, own_device
from dbnet.sample import Sample
from evaluation import training_peers
from evaluation.training_peers import PeerError, Peers, connect
from evaluation.training_team import Team

SIZE = 3


def together(work, size=SIZE):
    """What `work(peers)` returns or raises in each of several processes."""
    barrier, values = threading.Barrier(size), {}

    def one(rank):
        def total(given):
            values[rank] = given
            barrier.wait()
            return sum(values.values())
        peers = connect(rank, size, "127.0.0.1", total)
        try:
            return work(peers)
        except DbnetError as error:
            return error
        finally:
            peers.close()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


def test_all_hear_all():
    def work(peers):
        return [peers.exchange([peers.rank, "é" * i]) for i in range(50)]
    found = together(work)
    assert found[0] == found[1] == found[2] == [[[rank, "é" * i] for rank in range(SIZE)] for i in range(50)]


def test_alone():
    arrays = {"a": np.zeros(3)}
    assert Peers().exchange("x") == ["x"]
    assert Peers().given(arrays) == arrays
    assert Peers().fail(DbnetError("x")) is None


def test_arrays_of_the_first():
    arrays = {"a.b": np.arange(6, dtype=np.float32).reshape(2, 3).T, "n": np.array(7, np.int64),
              "none": np.zeros((0, 4))}

    def work(peers):
        return peers.given({} if peers.rank else arrays), peers.exchange(peers.rank)
    for found, after in together(work):
        assert after == [0, 1, 2]
        assert list(found) == list(arrays)
        assert all(found[name].dtype == array.dtype and np.array_equal(found[name], array)
                   for name, array in arrays.items())
        assert found["a.b"].flags.writeable


@pytest.mark.parametrize("rank", range(SIZE))
def test_one_that_fails_ends_all(rank):
    """The first process tells why, and nobody else."""
    def work(peers):
        if peers.rank != rank:
            return peers.exchange()
        told = peers.fail(DbnetError("x.png: cannot be read"))
        return told or DbnetError("x.png: cannot be read")
    found = together(work)
    assert all(isinstance(error, DbnetError) for error in found)
    assert str(found[0]) == ("" if rank == 0 else f"process {rank} of 3: ") + "x.png: cannot be read"
    assert [getattr(error, "is_told", False) for error in found] == [False, True, True]


def test_what_all_find_is_told_once():
    def work(peers):
        own = DbnetError("a batch of 9 is more than the 8 images")
        return peers.fail(own) or own
    first, *others = together(work)
    assert str(first) == "a batch of 9 is more than the 8 images"
    assert all(error.is_told for error in others)


@pytest.mark.parametrize("rank", range(SIZE))
def test_one_that_is_gone_ends_all(rank):
    def work(peers):
        if peers.rank == rank:
            return peers.close()
        return peers.exchange()
    found = together(work)
    told = [error for error in found if error is not None and not error.is_told]
    assert all(f"process {rank} of 3 has ended without a word" in str(error) for error in told)
    assert len(told) == (2 if rank == 0 else 1)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_is_gone_while_arrays_are_given(rank):
    """Many, so that they do not fit into the system's buffers."""
    arrays = {str(i): np.zeros(1_000_000) for i in range(5)}

    def work(peers):
        if peers.rank == rank:
            peers.exchange([["0", "float64", [1_000_000]]])
            return peers.close()
        return peers.given(arrays)
    found = together(work, size=2)
    assert f"process {rank} of 2 has ended without a word" in str(found[1 - rank])
    assert isinstance(found[1 - rank], PeerError)


def test_a_failure_that_follows_from_another_is_not_told():
    """An exchange of gradients breaks off in the first process when another one has left it."""
    def work(peers):
        if peers.rank == 1:
            own = DbnetError("too little memory")
            return peers.fail(own) or own
        time.sleep(0.3)
        own = DbnetError("the exchange with the other processes broke off")
        return peers.fail(own) or own
    first, *others = together(work)
    assert str(first) == "process 1 of 3: too little memory"
    assert all(error.is_told for error in others)


def test_one_that_nobody_listens_to_tells_by_itself(monkeypatch):
    monkeypatch.setattr(training_peers, "HEARD_SECONDS", 0.1)
    done = threading.Event()

    def work(peers):
        if peers.rank == 1:
            found = peers.fail(DbnetError("x"))
            done.set()
            return found
        return done.wait(20)
    assert together(work)[1] is None


def test_strangers_are_sent_away():
    real, met = training_peers._accepted, []

    def accepted(server, secret, size):
        for said in (b"", b"x" * 40, secret + b"\0\0\0\7", b"\0" * 20):
            link = socket.create_connection(server.getsockname())
            link.sendall(said)
            met.append(link)
        return real(server, secret, size)
    training_peers._accepted = accepted
    try:
        assert together(lambda peers: peers.exchange(peers.rank)) == [[0, 1, 2]] * 3
    finally:
        training_peers._accepted = real
    assert len(met) == 4


@pytest.mark.parametrize(("count", "says"), [(1, b"\0"), (3, b""), (200, b"x")])
def test_silent_strangers_keep_nobody_waiting(monkeypatch, count, says):
    real, met = training_peers._accepted, []

    def come(place):
        with contextlib.suppress(OSError):  # all have met, and nobody is let in any more
            for _ in range(count):
                link = socket.create_connection(place)
                met.append(link)
                link.sendall(says)

    def accepted(server, secret, size):
        strangers = threading.Thread(target=come, args=(server.getsockname(),), daemon=True)
        strangers.start()
        strangers.join(0.2)  # more than the system lets wait come while others are let in
        return real(server, secret, size)
    monkeypatch.setattr(training_peers, "_accepted", accepted)
    began = time.monotonic()
    assert together(lambda peers: peers.exchange(peers.rank)) == [[0, 1, 2]] * 3
    assert time.monotonic() - began < 5


def test_nobody_comes(monkeypatch):
    monkeypatch.setattr(training_peers, "CONNECT_SECONDS", 0.2)
    with pytest.raises(DbnetError, match=r"process 0 of 2 does not reach the others at 127.0.0.1 .nobody came"):
        connect(0, 2, "127.0.0.1", lambda given: given)


@pytest.mark.parametrize("rank", range(SIZE))
def test_who_is_gone_is_named_and_not_who_noticed(rank):
    """The exchange of gradients breaks off in all others, before it shows who has been killed."""
    def work(peers):
        if peers.rank == rank:
            time.sleep(0.4)
            return peers.close()
        own = BrokenOffError("the exchange with the other processes broke off")
        return peers.fail(own) or own
    found = together(work)
    told = [str(error) for error in found if error is not None and not getattr(error, "is_told", False)]
    assert told == [f"process {rank} of 3 has ended without a word; look at what it has printed"] * (
        2 if rank == 0 else 1)


@pytest.mark.parametrize("late", [(0, 0, 0), (0.5, 0.3, 0), (0.5, 0, 0.3), (1.5, 0, 0), (0, 1.5, 0)])
def test_an_exchange_that_breaks_off_by_itself(late):
    """Nobody is gone: neither one that notices late, nor one that ends because it has been told."""
    def work(peers):
        time.sleep(late[peers.rank])
        own = BrokenOffError("broke off")
        return peers.fail(own) or own
    first, *others = together(work)
    assert str(first) in ("broke off", "process 1 of 3: broke off", "process 2 of 3: broke off")
    assert all(error.is_told for error in others)


def labelled(name: str = "img_7.png", moved: float = 0.0, ignored: bool = False) -> list[Sample]:
    """Many images, of which one in the middle may differ."""
    square = np.array([[0, 0], [9, 0], [9, 9], [0, 9]], np.float64)
    samples = [Sample(Path(f"img_{i}.png"), [square], np.array([False]), ["a"]) for i in range(3000)]
    samples[7] = Sample(Path(name), [square + moved], np.array([ignored]), ["a"])
    return samples


@pytest.mark.parametrize(("second", "repeatable", "told"), [
    ({}, False, None), ({"name": "img_x.png"}, False, "has other images"), ({"moved": 0.5}, False, "with other labels"),
    ({"ignored": True}, False, "with other labels"), ({}, True, "--deterministic is False, and True")])
def test_all_must_have_the_same(second, repeatable, told):
    def work(peers):
        team = Team("torch", peers=peers, repeatable=repeatable and peers.rank > 0)
        team.check_alike({"scheduler.lr": "0.1"}, labelled(**second if peers.rank else {}))
    found = together(work, size=2)
    assert all((told is None and error is None) or told in str(error) for error in found)


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node0"}
MSRUN = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2", "MS_NODE_ID": "1", "DEVICE_ID": "1",
         "MS_SCHED_HOST": "127.0.0.1"}
MPIRUN = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


@pytest.mark.parametrize(("environment", "launch"), [
    ({}, None), ({"WORLD_SIZE": "1"}, None), ({"RANK_SIZE": "1", "RANK_TABLE_FILE": "x"}, None),
    ({"RANK_SIZE": "8"}, None),
    (TORCHRUN, Launch("torchrun", "torch", 1, 4, 1, 2, "node0")),
    (MSRUN, Launch("msrun", "mindspore", 1, 2, 1, 2, "127.0.0.1")),
    (MSRUN | {"MS_NODE_ID": "None"}, Launch("msrun", "mindspore", None, 2, 1, 2, "127.0.0.1")),
    (MPIRUN, Launch("mpirun", "mindspore", 1, 2, 1, 2)),
    ({"RANK_TABLE_FILE": "t.json", "RANK_SIZE": "8", "RANK_ID": "3", "DEVICE_ID": "3"},
     Launch("a rank table", "mindspore", 3, 8, 3, 8)),
])
def test_who_has_started_it(environment, launch):
    assert find_launch(environment) == launch


@pytest.mark.parametrize(("environment", "told"), [
    ({"WORLD_SIZE": "2"}, "RANK is ''"), (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
    (TORCHRUN | {"RANK": "4"}, "process 4 of 4 cannot be"),
    (MPIRUN | {"OMPI_COMM_WORLD_SIZE": "0"}, "1 of 0 cannot be"),
    (MSRUN | {"MS_WORKER_NUM": "-2"}, "MS_WORKER_NUM is '-2'"),
])
def test_an_environment_that_makes_no_sense(environment, told):
    with pytest.raises(DbnetError, match=told) as caught:
        find_launch(environment)
    assert "torchrun --nproc_per_node=N" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("asked", "best", "device"), [
    (None, "cpu", "cpu"), (None, "gpu", "gpu:1"), ("cuda", "cpu", "gpu:1"), ("cpu", "gpu", "cpu"),
    ("cpu:0", "gpu", "cpu"), ("ascend", "cpu", "ascend:1")])
def test_each_has_its_own_device(asked, best, device):
    assert own_device(asked, best, Launch("torchrun", "torch", 1, 2, 1, 2)) == device


def test_one_device_for_all_is_refused():
    with pytest.raises(DbnetError, match="give --device cuda, and each takes its own"):
        own_device("cuda:0", "gpu", Launch("torchrun", "torch", 1, 2, 1, 2))
    assert own_device("cuda:3", "gpu", Launch("msrun", "mindspore", 0, 1, 0, 1)) == "cuda:3"


def test_an_error_of_another_is_one_of_ours():
    assert issubclass(PeerError, DbnetError)
