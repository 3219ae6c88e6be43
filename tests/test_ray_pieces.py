"""What a cluster is told to do, without one: pieces and their order, what workers need, versions, addresses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbnet.errors import DbnetError
from dbnet.runner_names import RunnerName
from dbnet.signals import ended_as_by_interrupt
from evaluation.clusters import connecting, process
from evaluation.clusters.connecting import AddressError, check_address, connected
from evaluation.clusters.pieces import ALONE, MOST, WHOLE, Failed, Pieces
from evaluation.clusters.places import Place, check_room, place_for, room
from evaluation.clusters.restraint import put_off, told_by_nobody
from evaluation.clusters.versions import check_same, distributions_of
from parity.data import ROOT
from tests.running import command

# Pieces ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.data(), st.integers(1, 60), st.integers(1, 5), st.integers(1, 9))
def test_whatever_happens_to_workers_every_image_comes_once_and_in_order(data, count, workers, most):
    pieces, given_out, found = Pieces(count, workers, most=most), [], []
    losses = 0
    while pieces.left:
        if (piece := pieces.next()) is not None:
            assert 1 <= len(piece) <= most
            given_out.append(piece)
        elif not given_out:
            raise AssertionError("nothing is left to do, and images are missing")
        chosen = given_out.pop(data.draw(st.integers(0, len(given_out) - 1)))
        fate = data.draw(st.sampled_from(["done", "done", "lost", "back", "later"]))
        if fate == "lost" and chosen.lost + 1 < (ALONE if len(chosen) == 1 else WHOLE + 1):
            pieces.lost(chosen, "gone")
            losses += 1
        elif fate == "back":
            pieces.back(chosen)
        elif fate == "later":
            given_out.append(chosen)
        else:
            pieces.done(chosen, range(chosen.first, chosen.last))
        found += pieces.ready()
    assert found == list(range(count))
    assert pieces.next() is None or losses or given_out


def test_pieces_become_small_towards_the_end():
    pieces, sizes = Pieces(100, 2), []
    while (piece := pieces.next()) is not None:
        sizes.append(len(piece))
        pieces.done(piece, range(len(piece)))
        list(pieces.ready())
    assert sum(sizes) == 100 and sizes[0] == MOST and sizes[-4:] == [1] * 4
    assert sizes == sorted(sizes, reverse=True)


def test_one_piece_that_hangs_lets_no_results_pile_up():
    pieces, given_out = Pieces(10**6, 1), 0
    pieces.next()
    while (piece := pieces.next()) is not None:
        pieces.done(piece, [0] * len(piece))
        given_out += len(piece)
    assert given_out < 100 and not list(pieces.ready())


def test_an_image_that_is_every_workers_end_is_named_and_costs_a_bounded_number_of_them():
    pieces, lost, done = Pieces(40, 1, lambda i: f"img_{i}.png", most=4), 0, []
    message = ""
    while not message and (piece := pieces.next()) is not None:
        if not piece.first <= 5 < piece.last:
            pieces.done(piece, range(piece.first, piece.last))
        else:
            lost += 1
            try:
                pieces.lost(piece, "crashed")
            except DbnetError as error:
                message = str(error)
        done += pieces.ready()
    assert message.startswith("img_5.png: 2 workers were lost over it, one after the other (crashed);")
    assert lost == WHOLE + ALONE
    assert done == [0, 1, 2, 3, 4]


def test_a_piece_over_which_a_worker_was_lost_is_given_to_nobody_who_is_at_work():
    pieces = Pieces(8, 1, most=1)
    first, second = pieces.next(), pieces.next()
    pieces.lost(first, "crashed")
    pieces.back(second)
    assert pieces.next(idle=False) == second and pieces.next(idle=False).first == 2
    assert pieces.next().first == 0 and pieces.next().first == 3


def test_the_results_before_a_failure_come_first_and_nothing_after_it_is_begun():
    pieces = Pieces(100, 1, most=4)
    first, second, third = (pieces.next() for _ in range(3))
    pieces.done(second, [4, Failed("img_5: is no image")])
    assert list(pieces.ready()) == [] and pieces.next() is None
    pieces.back(third)
    assert pieces.next() is None  # what comes after it is not wanted
    pieces.done(first, range(4))
    ready = pieces.ready()
    assert [next(ready) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(DbnetError, match="img_5: is no image"):
        next(ready)


def test_the_earlier_of_two_failures_is_told():
    pieces = Pieces(12, 1, most=4)
    first, second = pieces.next(), pieces.next()
    pieces.done(second, [Failed("later")])
    pieces.done(first, [0, Failed("earlier")])
    with pytest.raises(DbnetError, match="earlier"):
        list(pieces.ready())


# Places ---------------------------------------------------------------------------------------------------------------

CPUS, CARDS, ASCEND = {"CPU": 8.0}, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 24.0, "NPU": 8.0, "node:1": 1.0}


@pytest.mark.parametrize(("runner", "device", "nodes", "expected"), [
    ("mindspore", None, [CPUS, CARDS, ASCEND], Place(1, "NPU", "ascend")),
    ("mindspore", None, [CPUS], Place(1, None, "cpu")),
    ("mindspore", "cpu", [ASCEND], Place(1, None, "cpu")),
    ("mindspore", "Ascend", [ASCEND], Place(1, "NPU", "ascend")),
    ("mindspore:O2", None, [CPUS, ASCEND], Place(1, "NPU", "ascend")),
    ("torch", None, [CPUS, CARDS, ASCEND], Place(1, "GPU", "cuda")),
    ("torch", None, [CPUS, ASCEND], Place(1, None, "cpu")),
    ("torch", "npu", [ASCEND], Place(1, "NPU", "npu")),
    ("torch", "cuda", [CARDS], Place(1, "GPU", "cuda")),
    ("torch", "cpu", [CARDS], Place(1, None, "cpu")),
    ("onnxruntime", None, [CARDS, ASCEND], Place(1, None, "cpu")),
    ("onnxruntime", "cuda", [CARDS], Place(1, "GPU", "cuda")),
    ("onnxruntime:cuda", None, [CARDS], Place(1, "GPU", None)),
    ("onnxruntime:cann", None, [ASCEND], Place(1, "NPU", None)),
    ("onnxruntime:openvino", None, [CARDS], Place(1, None, None)),
    ("openvino", None, [CARDS], Place(1, None, "cpu")),
    ("opencv", None, [CARDS], Place(1, None, "cpu")),
    ("mindspore_lite:ascend", None, [ASCEND], Place(1, "NPU", None)),
    ("mindspore_lite", None, [ASCEND], Place(1, None, "cpu")),
])
def test_each_framework_goes_where_its_cards_are(runner, device, nodes, expected):
    framework, _, variant = runner.partition(":")
    place = place_for(RunnerName(framework, None, variant or None), device, None, nodes)
    assert place == expected
    assert place.options() == {"num_cpus": 1, "num_gpus": int(expected.card == "GPU"),
                               "resources": {"NPU": 1} if expected.card == "NPU" else {}}


@pytest.mark.parametrize(("runner", "device", "nodes", "why"), [
    ("torch", "cuda", [CPUS, ASCEND], r"no node of the cluster has Ray's resource GPU; .*--num-gpus=N"),
    ("mindspore", "ascend", [CARDS], r"Ray's resource NPU; .*--resources='\{\"NPU\": N\}'"),
    ("onnxruntime:cuda", None, [CPUS], "resource GPU"),
    ("torch", "cuda:1", [CARDS], "gives each worker a card of its own, .* write cuda$"),
    ("torch", "cudo", [CARDS], "unknown device"),
])
def test_a_card_that_is_nowhere_is_one_line(runner, device, nodes, why):
    framework, _, variant = runner.partition(":")
    with pytest.raises(DbnetError, match=why):
        place_for(RunnerName(framework, None, variant or None), device, None, nodes)


def test_room_is_counted_node_by_node():
    assert room(Place(3), [{"CPU": 8.0}, {"CPU": 2.0}, {}, {"CPU": 3.0}]) == 3
    assert room(Place(2, "NPU"), [CPUS, ASCEND, {"CPU": 3.0, "NPU": 8.0}]) == 9
    with pytest.raises(DbnetError, match=r"room for a worker with 9 threads \(nodes: 8 CPU; 0 CPU\); give fewer"):
        check_room(Place(9), [CPUS, {"memory": 1.0}])


# Versions -------------------------------------------------------------------------------------------------------------


def about(host="b", **versions):
    return {"host": host, "versions": {"python": "3.11.7", "numpy": "1.26.4", "framework": "2.13.0+cpu"} | versions}


@pytest.mark.parametrize(("there", "first", "why"), [
    (about(numpy="2.1.0"), None, "^node b: numpy is 2.1.0 there and 1.26.4 here; install the same on all"),
    (about(numpy=None), None, "^node b: has no numpy, where it runs Ray"),
    (about(python="3.11.9"), None, "python is 3.11.9 there and 3.11.7 here"),
    (about(framework="2.12.0"), None, "^node b: torch is 2.12.0 there and 2.13.0 here"),
    (about(framework=None), None, "^node b: has no torch"),
    (about(framework="2.13.0+cu130"), about("a"), "^node b: torch is 2.13.0.cu130 there and 2.13.0.cpu on node a;"),
])
def test_another_version_is_told_with_node_package_and_both(there, first, why):
    with pytest.raises(DbnetError, match=why):
        check_same(about()["versions"], there, RunnerName("torch"), first)


def test_the_driver_needs_no_framework_nor_the_build_for_cards():
    check_same(about()["versions"] | {"framework": None}, about(), RunnerName("torch"), about("a"))
    check_same(about()["versions"], about(framework="2.13.0+cu130"), RunnerName("torch"))


def test_what_is_compared_is_what_is_here():
    from evaluation.evaluate import versions
    found = process.versions(distributions_of(RunnerName("onnxruntime")))
    assert {name: found[name] for name in versions() if name in found} == {
        name: version for name, version in versions().items() if name != "geos"}
    assert found["framework"] and None not in found.values() and len(found["dbnet-parity's source"]) == 12
    assert "framework" not in process.versions(distributions_of(RunnerName("torch", Path("/python"))))


def test_the_source_is_that_of_all_our_packages(tmp_path, monkeypatch):
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {name.partition(".")[0] for name in packages} - {"configs"} == set(process.PACKAGES)
    before = process._digest()
    (tmp_path / "dbnet").mkdir()
    (tmp_path / "dbnet/__init__.py").write_text("")
    monkeypatch.setattr(process.importlib.util, "find_spec", lambda name: None)
    assert process._digest() != before


def test_what_runs_on_a_bare_node_imports_nothing_that_it_may_lack():
    text = Path(process.__file__).read_text()
    imported = {line.split()[1].partition(".")[0] for line in text.splitlines() if line.startswith(("import", "from"))}
    assert imported <= {"__future__", "collections", "hashlib", "importlib", "os", "pathlib", "platform", "socket",
                        "typing"}


# Addresses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["auto", "local", "10.0.0.1:6379", "head.example.org:6379", "ray://head:10001",
                                  "[fe80::1]:6379"])
def test_an_address(text):
    assert check_address(text) == text


@pytest.mark.parametrize("text", ["", "head", "head:", ":6379", "head:0", "head:99999", "http://head:8265", "AUTO",
                                  "ray:/head:1", "a b:1", "head:6379/x", "head:6379\n", "::1:6379"])
def test_no_address(text):
    with pytest.raises(AddressError, match="is no address of a Ray cluster; write HOST:PORT"):
        check_address(text)


@pytest.mark.parametrize(("arguments", "why"), [
    (("--ray", "http://head:8265"), "no address of a Ray cluster"), (("--ray-workers", "2"), "nothing without --ray"),
    (("--ray", "auto", "--ray-workers", "0"), "0 is not in the range"),
])
def test_a_slip_is_a_matter_of_usage(arguments, why, tmp_path):
    done = command("evaluate", tmp_path / "m.onnx", "--root", tmp_path, *arguments)
    assert done.returncode == 2 and why in done.stderr


def test_a_model_that_is_not_there_is_told_before_a_cluster_is_looked_for(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "gt").mkdir()
    cv2.imwrite(str(tmp_path / "images/img_1.png"), np.zeros((32, 32, 3), np.uint8))
    (tmp_path / "gt/gt_img_1.txt").write_text("1,1,9,1,9,9,1,9,text\n")
    done = command("evaluate", tmp_path / "m.pth", "--root", tmp_path, "--ray", "127.0.0.1:1")
    assert done.returncode == 3 and "m.pth: cannot be read (No such file or directory); give a model" in done.stderr


@pytest.mark.parametrize("option", [("--ray", "auto"), ("--ray", "local", "--ray-workers", "2")])
def test_result_files_are_scored_here(option, tmp_path):
    done = command("evaluate", "--results", tmp_path, "--gt", tmp_path, *option)
    assert done.returncode == 2 and "--ray means nothing with --results" in done.stderr


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("dbnet.extras.installed", lambda module: False)
    with pytest.raises(DbnetError, match=r"ray is not installed, .*: pip install 'dbnet-parity\[ray\]'$"), \
            connected("auto"):
        pass


@pytest.fixture
def server():
    """`server(answer)` -> the address of one that says that to whoever comes; None says nothing."""
    sockets = []

    def start(answer):
        listening = socket.create_server(("127.0.0.1", 0))
        sockets.append(listening)

        def serve():
            there, _ = listening.accept()
            sockets.append(there)
            there.recv(100)
            if answer is not None:
                there.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return f"127.0.0.1:{listening.getsockname()[1]}"

    yield start
    for each in sockets:
        each.close()


@pytest.mark.parametrize(("answer", "why"), [
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "answers, and is no head of a Ray cluster"), (b"", None),
    (None, r"cannot be reached \(no answer\)"),
])
def test_what_answers_and_is_no_cluster_is_one_line(server, monkeypatch, answer, why):
    monkeypatch.setattr(connecting, "ANSWER_SECONDS", 0.3)
    address = server(answer)
    with pytest.raises(DbnetError, match=f"^--ray {address}: {why or 'cannot be reached|is no head'}"):
        connecting._check_answer(address, f"--ray {address}")


@pytest.mark.parametrize(("address", "why"), [
    ("127.0.0.1:1", "cannot be reached .Connection refused.; is the cluster up"),
    ("no-such-machine.invalid:6379", "there is no machine no-such-machine.invalid"),
    ("ray://127.0.0.1:1", "cannot be reached"), ("[::1]:1", "cannot be reached"),
])
def test_an_address_without_a_cluster_is_one_line(address, why):
    with pytest.raises(DbnetError, match=why):
        connecting._check_answer(address, f"--ray {address}")


@pytest.mark.parametrize(("text", "why"), [
    ("Version mismatch: The cluster was started with: Ray: 2.9.0 Python: 3.10.1", "of another version there: .*2.9.0"),
    ("Could not find any running Ray instance.", "no cluster runs on this machine; start one"),
    ("This node has an IP address of 10.1.1.1, and Ray expects this IP address to be", "is no node of the cluster"),
    ("Ray Client requires pip package `ray[client]`.", "pip install 'ray.client.'"),
    ("Failed to connect to Ray cluster at 10.0.0.1:6379", r"does not let this machine in \(.*\), or is no"),
    ("Unauthenticated: InvalidAuthToken", "have both the same token"), ("\n what\n else", "what else"),
])
def test_what_ray_says_is_told_in_a_line(text, why):
    with pytest.raises(DbnetError, match=why) as told:
        raise connecting._refused("10.0.0.1:6379", RuntimeError(text))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("whole", [False, True])
def test_signals_wait_for_the_end_whatever_handlers_are_put_in_their_place(number, whole):
    """whole: the process is meant, and any thread of it may take the signal."""
    before, reached = signal.getsignal(number), []

    def run():
        with ended_as_by_interrupt(), put_off():
            signal.signal(number, lambda *_: sys.exit(15))
            if whole and number == signal.SIGTERM:  # as Ray does; nobody replaces the others
                os.kill(os.getpid(), number)
            else:
                signal.pthread_kill(threading.main_thread().ident, number)
                reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert (reached or whole) and signal.getsignal(number) is before
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_stream_keeps_what_rays_threads_say_to_itself(capsys):
    with told_by_nobody():
        thread = threading.Thread(target=print, args=["news"], name="ray_listen_error_messages")
        thread.start()
        thread.join()
        print("ours")
    assert capsys.readouterr().out == "ours\n"


def test_ray_is_imported_when_a_cluster_is_asked_for_and_not_before():
    """Whatever is imported: neither the command nor what knows of clusters."""
    script = ("import sys, dbnet.__main__, dbnet.cli.evaluate, dbnet.cli.evaluate_model, dbnet.cli.trace\n"
              "print([name for name in sys.modules if name.startswith(('ray', 'evaluation.clusters'))])\n"
              "import evaluation.clusters.evaluating\nprint('ray' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.splitlines() == ["[]", "False"]
