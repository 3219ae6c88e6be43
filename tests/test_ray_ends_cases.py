"""How a run on Ray ends that nobody wanted to end: what it says, and that nothing of it stays behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import pytest

from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from evaluation.clusters.connecting import OnRay
from evaluation.clusters.evaluating import opened_on_ray
from parity.data import ROOT
from tests.ray_clusters import MARK, Deadly, processes, ray_cluster

pytestmark = [pytest.mark.long,
              pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray: pip install ray")]

MODEL = ROOT / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
#: In a process of its own, whose Ray waits on.
JOIN = """
import sys
from dbnet.cli.ending import exit_code_of
from evaluation.clusters.connecting import connected
sys.exit(exit_code_of(lambda: connected(sys.argv[1]).__enter__()))
"""


@pytest.fixture
def images(tmp_path) -> list[Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        cv2.imwrite(str(folder / f"{i}.png"), draw(i, 64, 96, words=1)[0])
    return [folder / f"{i}.png" for i in range(40)]


def gone(mark: str, seconds: float = 20) -> list[int]:
    """The processes that are left after that time."""
    end = time.monotonic() + seconds
    while (found := processes(mark)) and time.monotonic() < end:
        time.sleep(0.2)
    return found


@pytest.mark.parametrize(("number", "when"), [
    (signal.SIGINT, "gcs_server"), (signal.SIGINT, "raylet/raylet"), (signal.SIGTERM, "raylet/raylet"),
    (signal.SIGINT, "ray::Process.work"), (signal.SIGTERM, "ray::Process.work"), (signal.SIGHUP, "ray::Process.work")])
@pytest.mark.parametrize("send", [os.killpg, os.kill])
def test_a_local_cluster_ends_with_the_run(number, when, send, tmp_path):
    """when: a process is there. A terminal and `timeout` signal the whole group, others this process alone."""
    (tmp_path / "images").mkdir()
    (tmp_path / "gt").mkdir()
    for i in range(1, 13):
        cv2.imwrite(str(tmp_path / f"images/img_{i}.png"), draw(i, 192, 320, words=3)[0])
        (tmp_path / f"gt/gt_img_{i}.txt").write_text("1,1,9,1,9,9,1,9,text\n")
    mark, folder = secrets.token_hex(8), Path(tempfile.mkdtemp(prefix="d-", dir="/tmp"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "dbnet", "evaluate", str(MODEL), "--root", str(tmp_path), "--runner", "onnxruntime",
         "--ray", "local", "--json", "-"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=environment | {MARK: mark, "TMPDIR": str(folder), "HOME": str(tmp_path)})
    try:
        end = time.monotonic() + 120
        while not any(when.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes(mark)):
            assert time.monotonic() < end and process.poll() is None, process.communicate()
            time.sleep(0.02)
        send(process.pid, number)
        assert (*process.communicate(timeout=60), process.returncode) == ("", "dbnet: interrupted\n", 3)
        assert gone(mark) == []
        assert [path for path in folder.iterdir() if path.name != ".ses"] == []  # ONNX Runtime's own
        assert not (tmp_path / ".ray").exists()
    finally:
        for pid in processes(mark):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_node_that_leaves_costs_what_its_workers_were_doing(images):
    with ray_cluster("--num-cpus=1") as cluster:
        node = cluster.add(f"--address={cluster.address}", "--num-cpus=1")
        while len(_nodes(cluster)) < 2:
            time.sleep(0.2)
        with opened_on_ray(OnRay(cluster.address), MODEL, len(images), runner="onnxruntime") as found:
            assert len({member.about["node"] for member in found.team._members}) == 2
            results = []
            for result in found.team.map(images, lambda first, last, files: Deadly(files, "none", 0.2)):
                results.append(result)
                if len(results) == 5:
                    node.kill()
            assert [name for name, _, _ in results] == [path.name for path in images]
            [note] = found.team.notes
            assert "was lost" in note and "done again by another" in note


def _nodes(cluster) -> list[dict]:
    from evaluation.clusters.connecting import connected
    with connected(cluster.address) as ray:
        return [node for node in ray.nodes() if node["Alive"]]


def test_a_head_that_is_gone_ends_the_run_in_a_line(images, tmp_path):
    """In a process of its own: Ray itself would end it after a minute."""
    script = f"""
import sys
from pathlib import Path
from evaluation.clusters.connecting import OnRay
from evaluation.clusters.evaluating import opened_on_ray
from dbnet.cli.ending import exit_code_of
from tests.ray_clusters import Deadly
def run():
    with opened_on_ray(OnRay(sys.argv[1]), Path({str(MODEL)!r}), 40, runner="onnxruntime") as found:
        images = [Path(path) for path in sys.argv[2:]]
        for result in found.team.map(images, lambda first, last, files: Deadly(files, "none", 2)):
            print("one", flush=True)
sys.exit(exit_code_of(run))
"""
    with ray_cluster("--num-cpus=1") as cluster:
        process = subprocess.Popen([sys.executable, "-c", script, cluster.address, *map(str, images)], cwd=ROOT,
                                   text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "one\n"
        cluster.nodes[0].kill()
        begin = time.monotonic()
        _, told = process.communicate(timeout=120)
        assert process.returncode == 3, told
        assert time.monotonic() - begin < 60
        assert told.splitlines()[-1].startswith("dbnet: the head of the Ray cluster") and told.count("\n") == 1, told


def test_workers_that_end_while_they_open_are_told(images, tmp_path):
    """A node whose ONNX Runtime is the end of whoever imports it."""
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime/__init__.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    with ray_cluster("--num-cpus=0") as cluster:
        cluster.add(f"--address={cluster.address}", "--num-cpus=1", folder=tmp_path)
        while len(_nodes(cluster)) < 2:
            time.sleep(0.2)
        with pytest.raises(DbnetError, match=r"3 workers were lost one after the other before they were ready: w"), \
                opened_on_ray(OnRay(cluster.address), MODEL, len(images), runner="onnxruntime"):
            pass


def test_a_server_that_only_begins_like_a_cluster_is_told_in_time():
    """An HTTP/2 SETTINGS frame, and then nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        def serve():
            with contextlib.suppress(OSError):
                while True:
                    there.append(server.accept()[0])
                    there[-1].sendall(bytes(3) + b"\x04\x00" + bytes(4))

        there: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        address, begin = f"127.0.0.1:{server.getsockname()[1]}", time.monotonic()
        done = subprocess.run([sys.executable, "-c", JOIN, address], cwd=ROOT, text=True, capture_output=True,
                              timeout=60)
        for each in there:
            each.close()
    assert time.monotonic() - begin < 20  # docs/scale.md
    assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr
    assert f"dbnet: --ray {address}: answers, and does not let this machine in (" in done.stderr
    assert "), or is no cluster; write HOST:PORT" in done.stderr


def test_another_token_is_told_in_time():
    with ray_cluster("--num-cpus=1") as cluster:
        begin = time.monotonic()
        done = subprocess.run([sys.executable, "-c", JOIN, cluster.address], cwd=ROOT, text=True, capture_output=True,
                              timeout=60, env=os.environ | {"RAY_AUTH_TOKEN": "0" * 64})
        assert time.monotonic() - begin < 20
    assert done.returncode == 3 and done.stderr.count("\n") == 1 and "the same" in done.stderr, done.stderr
    assert "TOKEN" in done.stderr
