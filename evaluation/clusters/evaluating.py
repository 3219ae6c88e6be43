"""A model on a data set by the workers of a Ray cluster: the digits of one process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from converters.load import SourceOptions, load_model
from dbnet.runner_names import RunnerName, parse_runner
from dbnet.sample import Sample
from dbnet.spec import BoxRule, PixelFormat
from evaluation.clusters.connecting import OnRay, connected
from evaluation.clusters.files import ImageFile, digests_of
from evaluation.clusters.pieces import MOST
from evaluation.clusters.places import check_room, place_for
from evaluation.clusters.remote import Opening, RemoteRunner, ScorePiece, open_for_scores
from evaluation.clusters.team import Team
from evaluation.evaluate import Evaluation, evaluate, image_names
from evaluation.half import half_runner
from evaluation.scoring import Scoring

#: Who runs a file unless told otherwise, whatever is installed here. Others: torch.
_OWN = {".onnx": "onnxruntime", ".ckpt": "mindspore", ".mindir": "mindspore", ".xml": "openvino",
        ".ms": "mindspore_lite"}


@dataclass(eq=False)
class Cluster:
    """Workers that have opened a model. runner: what it is. threads: of each worker. team: who hands out the work."""

    runner: RemoteRunner
    team: Team
    threads: int
    ray: str

    def detecting(self, samples: Sequence[Sample], scoring: Scoring) -> Generator[tuple[bytes, list[np.ndarray]],
                                                                                  None, None]:
        """For `evaluation.evaluate`. Raises DbnetError as one process does, and if an image is every worker's end."""
        def make(first: int, last: int, files: Sequence[ImageFile]) -> ScorePiece:
            chosen = samples[first:last]
            return ScorePiece(files, chosen, scoring.of(chosen), self.threads)

        return self.team.map([sample.image for sample in samples], make)

    def __str__(self) -> str:
        return (f"on Ray: {self.team.ready} worker{'s' * (self.team.ready > 1)} with {self.team.place}, "
                f"{self.team.pieces} pieces")

    def told(self) -> dict[str, Any]:
        """For reports: what differs from a run in one process."""
        nodes = self.team.nodes
        return {"engine": "ray", "version": self.ray, "workers": self.team.ready, "threads": self.threads,
                "nodes": len(nodes), "processors": sorted(set(nodes.values())), "pieces": self.team.pieces,
                "lost": list(self.team.notes)}


@contextlib.contextmanager
def opened_on_ray(on: OnRay, model: Path, images: int, *, runner: str | None = None, device: str | None = None,
                  threads: int | None = None, options: SourceOptions | None = None, precision: str = "float32",
                  opener: Callable[[Path, Mapping[str, Any]], tuple[Any, dict[str, Any]]] = open_for_scores,
                  most: int = MOST, **settings: Any) -> Iterator[Cluster]:
    """A model, open in the workers of a cluster, for so many images; they end with this.

    The settings are those of `evaluation.runners.open_runner`. threads: of each worker; default 1. MindSpore's workers
    keep to so many cores each, since it has no such setting. opener: see `remote.Opening`.

    Raises DbnetError without Ray or a cluster that answers, for versions that differ between this machine and a node,
    and if the model cannot be read or does not open.
    """
    options, digests = options or SourceOptions(), digests_of(model)
    who = _who(model, runner, options, precision)
    with connected(on.address) as ray:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        place = place_for(who, device, threads, nodes)
        count = min(check_room(place, nodes), on.workers or images, max(1, images))
        own = who.framework == "mindspore"
        opening = Opening.of(model, digests, opener, {
            **settings, "runner": str(who), "device": place.device, "threads": None if own else place.threads,
            "options": options, "precision": precision}, ray.put)
        team = Team(ray, place, who, opening, count, own and place.card is None, most,
                    on.address if on.address.startswith("ray://") else None)
        try:
            team.start()
            yield Cluster(RemoteRunner.of(team.told), team, place.threads, ray.__version__)
        finally:
            team.close()


def _who(model: Path, runner: str | None, options: SourceOptions, precision: str) -> RunnerName:
    """Named, so that no node chooses another."""
    if runner is not None:
        return parse_runner(runner)
    if precision != "float32" and model.suffix.lower() not in (".xml", ".ms"):
        return parse_runner(half_runner(load_model(model, options)))
    return parse_runner(_OWN.get(model.suffix.lower(), "torch"))


def evaluate_on_ray(on: OnRay, model: Path, samples: Sequence[Sample], protocols: Iterable[str] = ("rrc",), *,
                    pixels: PixelFormat | None = None, boxes: BoxRule | None = None, sweep: Sequence[BoxRule] = (),
                    save: Path | None = None, progress: Callable[[int, int], object] | None = None,
                    **settings: Any) -> Evaluation:
    """`evaluation.evaluate` of a model file by a cluster's workers, with the same digits, order and `save`.

    pixels, boxes: default the model's own. settings: of `opened_on_ray`. What differs in the report stands in its
    settings under `cluster`. Raises DbnetError as both do.
    """
    image_names(samples)  # for its errors, before a cluster starts
    with opened_on_ray(on, model, len(samples), **settings) as cluster:
        spec = cluster.runner.spec
        found = evaluate(cluster.runner, samples, pixels or spec.pixels, boxes or spec.boxes, protocols, sweep=sweep,
                         save=save, progress=progress, detecting=cluster.detecting)
        return with_cluster(found, cluster)


def with_cluster(found: Evaluation, cluster: Cluster) -> Evaluation:
    """With what is to be told of the cluster."""
    notes = [*found.settings.get("notes", ()), *cluster.team.notes]
    return replace(found, settings=found.settings | {"cluster": cluster.told()} | ({"notes": notes} if notes else {}))
