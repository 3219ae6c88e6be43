"""Recording a trace by the workers of a Ray cluster: the bytes of one process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbnet.errors import DbnetError, short
from dbnet.shards import Shard
from dbnet.spec import BoxRule
from evaluation.clusters.connecting import OnRay
from evaluation.clusters.evaluating import Cluster, opened_on_ray
from evaluation.clusters.files import ImageFile
from evaluation.clusters.pieces import ABSENT, MOST, Failed
from evaluation.clusters.remote import told_of
from parity.staged import StagedModel, open_staged
from parity.trace import Recorder, Trace
from parity.trace_part import SHARD, told_part
from parity.trace_record import record, recorded_stages


@dataclass(eq=False)
class TracingCluster:
    """Workers that have opened a model for traces. side: what it is, for those who ask; it runs nothing."""

    side: StagedModel
    cluster: Cluster

    def record(self, rule: BoxRule, images: Sequence[tuple[str, str]], level: str, stages: Sequence[str] | None = None,
               spill: Path | None = None, keep: Sequence[str] = (),
               progress: Callable[[int, int], object] = lambda done, count: None, shard: Shard | None = None) -> Trace:
        """`trace_record.record`. Raises DbnetError as it does, and if the nodes are not of one kind."""
        wanted = recorded_stages(self.side, stages)
        part = {} if shard is None else {SHARD: told_part(shard, [name for name, _ in images])}
        chosen = images if shard is None else shard.of(images)

        def make(first: int, last: int, files: Sequence[ImageFile]) -> TracePiece:
            return TracePiece(files, chosen[first:last], rule, level, wanted, keep)

        recorder: _Gathered | None = None
        for number, run in enumerate(self.cluster.team.map([Path(path) for _, path in chosen], make), 1):
            if recorder is None:
                recorder = _Gathered(run.about, wanted, level, spill, keep)
            recorder.take(run)
            progress(number, len(chosen))
        assert recorder is not None, "no images"
        recorder.about = recorder.about | part
        return recorder.trace()


@contextlib.contextmanager
def opened_traces(on: OnRay, model: Path, images: int, level: str, **settings: Any) -> Iterator[TracingCluster]:
    """settings: of `staged.open_staged`. Raises DbnetError as `opened_on_ray` does."""
    with opened_on_ray(on, model, images, opener=open_for_traces, most=1 if level == "full" else MOST,
                       **settings) as cluster:
        told = cluster.team.told
        yield TracingCluster(StagedModel(model, None, cluster.runner, None, told["stages"], told["notes"]), cluster)


def open_for_traces(model: Path, settings: Mapping[str, Any]) -> tuple[StagedModel, dict[str, Any]]:
    """In the worker. Raises DbnetError."""
    side = open_staged(model, **settings)
    return side, told_of(side.runner) | {"stages": side.stages}


@dataclass(frozen=True, eq=False)
class TracePiece:
    """Some images, (name, path), to record. files: theirs."""

    files: Sequence[ImageFile]
    images: Sequence[tuple[str, str]]
    rule: BoxRule
    level: str
    stages: Sequence[str]
    keep: Sequence[str]

    def run(self, side: StagedModel) -> Any:
        """Of each image a trace of its own, at the first failure a `Failed` instead; or ABSENT."""
        contents = {path: data for (_, path), file in zip(self.images, self.files, strict=True)
                    if (data := file.read()) is not None}
        if len(contents) < len({path for _, path in self.images}):
            return ABSENT
        results: list[Any] = []
        try:
            for image in self.images:
                results.append(record(side, self.rule, [image], self.level, self.stages, None, self.keep,
                                      read=contents.__getitem__))
        except DbnetError as error:
            results.append(Failed(str(error)))
        return results


class _Gathered(Recorder):
    """Collects a run of traces of one image each."""

    def take(self, run: Trace) -> None:
        """Raises DbnetError for one that was recorded by something else than the first."""
        differing = [key for key in {**self.about, **run.about} if self.about.get(key) != run.about.get(key)]
        if differing:
            one, other = (short(about.get(differing[0]), 80) for about in (self.about, run.about))
            raise DbnetError(f"the nodes of the cluster are not of one kind: {differing[0]} is {one} and {other}; a "
                             f"trace is of one kind of machine")
        place = len(self._images)
        for name, array in run.arrays.items():
            if name.startswith("full/"):
                self._full[f"full/{place}/{name.split('/')[2]}"] = self._stored(array)
            elif not name.startswith("boxes/"):
                self._rows.setdefault(name, []).append(array[0])
        self._boxes.append(run.boxes(0))
        self._images += run.images
