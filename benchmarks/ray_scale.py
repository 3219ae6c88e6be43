"""Images a second of an evaluation on Ray: two workers of one thread on two cores, against one such worker.

`python benchmarks/ray_scale.py [--model FILE --root FOLDER]`; without them the embedded model and drawn images. A
cluster of this machine is started; all contenders stand ready on it and take turns, so that a noisy machine favours
nobody, and what is quoted is the median of the rounds' ratios. `one process` is dbnet evaluate --threads 1 with all of
its threads on one core. The scores of all are compared. Starting is told apart: it costs the same for any number of
images. Needs at least two cores, and ray.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.throughput import drawn_samples
from dbnet.datasets import icdar2015
from dbnet.sample import Sample
from evaluation.clusters import connecting
from evaluation.clusters.connecting import OnRay, connected
from evaluation.clusters.evaluating import Cluster, opened_on_ray
from evaluation.evaluate import Evaluation, evaluate
from evaluation.runners import Runner, cores, open_runner

MODEL = Path(__file__).resolve().parents[1] / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
DRAWN = 48


def on_one_core(runner: Runner, samples: list[Sample]) -> Callable[[], Evaluation]:
    """Threads inherit the core from the one that starts them."""
    def run() -> Evaluation:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        try:
            return evaluate(runner, samples, runner.spec.pixels, runner.spec.boxes)
        finally:
            os.sched_setaffinity(0, before)
    return run


def on_cluster(cluster: Cluster, samples: list[Sample]) -> Callable[[], Evaluation]:
    runner = cluster.runner
    return lambda: evaluate(runner, samples, runner.spec.pixels, runner.spec.boxes, detecting=cluster.detecting)


@contextlib.contextmanager
def contenders(model: Path, samples: list[Sample], runner: str) -> Iterator[dict[str, Callable[[], Evaluation]]]:
    """All open at once: a cluster that counts three cores has room for one worker and for two, which take turns."""
    with mock.patch.object(connecting, "cores", return_value=3), connected("local"), contextlib.ExitStack() as stack:
        found: dict[str, Callable[[], Evaluation]] = {}
        for workers in (1, 2):
            start = time.perf_counter()
            cluster = stack.enter_context(opened_on_ray(OnRay("local", workers), model, len(samples), runner=runner,
                                                        device="cpu", threads=1))
            print(f"{workers} worker{'s' * (workers > 1)} ready after {time.perf_counter() - start:.1f} s")
            found[f"ray, {workers} worker{'s' * (workers > 1)}"] = on_cluster(cluster, samples)
        found["one process"] = on_one_core(open_runner(model, runner, "cpu", ("probability",), 1, concurrent=True),
                                           samples)
        yield found


def measure(runs: dict[str, Callable[[], Evaluation]], images: int, rounds: int) -> dict[str, list[float]]:
    """Images a second of every counted round; the first, which warms up and compares the scores, is not counted.
    The order turns with each round.
    """
    names, rates = list(runs), {name: list[float]() for name in runs}
    first: dict[str, object] = {}
    for number in range(rounds + 1):
        for name in names[number % len(names):] + names[:number % len(names)]:
            start = time.perf_counter()
            found = runs[name]()
            seconds = time.perf_counter() - start
            if number:
                rates[name].append(images / seconds)
            else:
                first[name] = {key: value for key, value in found.to_dict().items() if key != "settings"}
    if any(report != first[names[0]] for report in first.values()):
        sys.exit("the scores or detections differ")
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="a weight file of any supported format")
    parser.add_argument("--root", type=Path, help="a folder in ICDAR 2015's layout")
    parser.add_argument("--limit", type=int, default=48, help="images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runner", default="onnxruntime", help="onnxruntime, torch, openvino or opencv")
    args = parser.parse_args()
    if cores() < 2:
        sys.exit("needs two cores")
    with tempfile.TemporaryDirectory() as name:
        samples = (icdar2015.load(args.root) if args.root else drawn_samples(Path(name), DRAWN))[:args.limit]
        with contenders(args.model, samples, args.runner) as runs:
            rates = measure(runs, len(samples), args.rounds)
    print(f"{len(samples)} images, {args.model.name} in {args.runner}, {cores()} cores, {args.rounds} rounds in turns, "
          f"load {os.getloadavg()[0]:.1f} at the end; same scores, same detections")
    two = rates["ray, 2 workers"]
    for who, found in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(two, found, strict=True)]
        print(f"{who:16}{statistics.median(found):6.2f} images/s   2 workers are {statistics.median(ratios):.2f} times "
              f"as fast (rounds: {' '.join(f'{ratio:.2f}' for ratio in ratios)})")


if __name__ == "__main__":
    main()
