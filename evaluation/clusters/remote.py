"""What a worker does: it opens the model and scores images, by the same code as one process."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.extras import require
from dbnet.pixel_formats import AnySpec
from dbnet.sample import Sample
from evaluation import pipeline
from evaluation.clusters.files import ImageFile, content_of, is_there
from evaluation.clusters.pieces import ABSENT, Failed
from evaluation.runners import open_runner
from evaluation.scoring import Scoring


@dataclass(frozen=True, eq=False)
class Opening:
    """How a worker opens a model. digests: of the model's files, SHA-256 by path. contents: their bytes, by name, for
    nodes that have them not. opener: what opens the path, and what is told of that. place: what it is given beside.
    """

    model: Path
    digests: Mapping[Path, str]
    opener: Callable[[Path, Mapping[str, Any]], tuple[Any, dict[str, Any]]]
    settings: Mapping[str, Any]
    contents: Any = None
    ship: Callable[[], Any] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, model: Path, digests: Mapping[Path, str],
           opener: Callable[[Path, Mapping[str, Any]], tuple[Any, dict[str, Any]]],
           settings: Mapping[str, Any], put: Callable[[Any], Any]) -> Opening:
        """digests: by `files.digests_of`. put: into the cluster's store, once."""
        kept: list[Any] = []

        def ship() -> Any:
            if not kept:
                kept.append(put({path.name: content_of(path) for path in digests}))
            return kept[0]

        return cls(model.absolute(), digests, opener, settings, ship=ship)

    def for_node(self, blind: bool) -> Opening:
        """As it is sent to a node. blind: it lacks the files."""
        return replace(self, contents=[self.ship()] if blind and self.ship is not None else None, ship=None)

    def open(self) -> tuple[Any, dict[str, Any]]:
        """In the worker: the runner, and what is told of it: `absent` if the files are not there as they are here, or
        `error`."""
        folder: str | None = None
        try:
            if self.contents is None:
                if not all(is_there(path, digest) for path, digest in self.digests.items()):
                    return None, {ABSENT: True}
                return self.opener(self.model, self.settings)
            folder = tempfile.mkdtemp(prefix="dbnet-")
            for name, content in require("ray").get(self.contents[0]).items():
                Path(folder, name).write_bytes(content)
            return self.opener(Path(folder, self.model.name), self.settings)
        except DbnetError as error:
            return None, {"error": str(error) if folder is None else str(error).replace(folder, str(self.model.parent))}
        except OSError as error:
            return None, {"error": f"{error.filename or self.model}: {error.strerror or error}"}
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def open_for_scores(model: Path, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """settings: of `open_runner`. Raises DbnetError."""
    opened = open_runner(model, stages=("probability",), concurrent=True, **settings)
    return opened, told_of(opened)


def told_of(runner: Any) -> dict[str, Any]:
    """What others have to know of it."""
    names = ("name", "device", "title", "digest", "weights_digest", "note", "recorded", "shape")
    told = {name: getattr(runner, name, None) for name in names}
    return {**told, "spec": runner.spec, "notes": list(getattr(runner, "notes", ())),
            "environment": runner.environment()}


@dataclass
class RemoteRunner:
    """What the driver knows of the runners of a cluster; see `evaluation.runners.Runner`. It runs nothing itself."""

    name: str
    device: str
    spec: AnySpec
    notes: list[str]
    told: dict[str, Any]
    title: str | None = None
    digest: str | None = None
    weights_digest: str | None = None
    note: Any = None
    recorded: Any = None
    shape: Any = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> RemoteRunner:
        """told: by `told_of`."""
        own = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in told.items() if name in own}, told=dict(told["environment"]))

    def environment(self) -> dict[str, Any]:
        """The workers'."""
        return dict(self.told)

    def run(self, _images: np.ndarray) -> dict[str, np.ndarray]:
        """Raises DbnetError: arrays do not travel, images do."""
        raise DbnetError("a cluster's runner takes image files, no arrays; open the model here for them")


# Pieces ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ScorePiece:
    """Some samples to detect in and to score. threads: of the worker."""

    files: Sequence[ImageFile]
    samples: Sequence[Sample]
    scoring: Scoring
    threads: int

    def run(self, runner: Any) -> Any:
        """For each sample what `Scoring.finish` gives, at the first failure a `Failed` instead; or ABSENT."""
        contents = {sample.image: data for sample, file in zip(self.samples, self.files, strict=True)
                    if (data := file.read()) is not None}
        if len(contents) < len(self.files):
            return ABSENT
        workers = None if pipeline.calls_at_once(runner) > 1 else self.threads
        results: list[Any] = []
        try:
            with closing(pipeline.run(runner, self.samples, self.scoring.pixels, self.scoring.rules,
                                      self.scoring.finish, workers, read=contents.__getitem__)) as each:
                results.extend(each)
        except DbnetError as error:
            results.append(Failed(str(error)))
        return results
