"""Whether reports are the parts of one run: the same model, data, settings and versions, every image once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import numpy as np

from dbnet.errors import DbnetError, short
from dbnet.sample import Detection, Sample
from dbnet.shards import ShardError, parse_shard, whole_of
from evaluation.part import KEY, VARIANTS, VERSION, Part
from evaluation.protocols import COLUMNS, Protocol, Result
from evaluation.shard_files import PartReport
from evaluation.store import leaves

_ABSENT = object()
#: What differs from machine to machine and moves no number.
_PLACES = ("results", "gt", "recipe", "notes", "images", "cluster")
#: How the first part that differs is called, by what its path begins with.
_KINDS = (("settings.model", "different models"), ("settings.spec", "different models"),
          ("settings.semantics", "different models"), ("data", "different data"),
          ("settings.dataset", "different data"),
          ("settings.pixels", "runs with different pixels"), ("settings.boxes", "runs with different box rules"),
          ("protocols", "runs with different protocols"), ("sweep", "runs with different sweeps"),
          ("versions", "runs in different environments"))
_SHA256 = re.compile(r"[0-9a-f]{64}")

Reports = Sequence[tuple[PartReport, "Head"]]


@dataclass(frozen=True, eq=False)
class Head:
    """What a part says of itself. sweep: the settings that vary, and for each protocol the exact sums over the part's
    images in the place of counts, (2, V, 4).
    """

    part: Part
    protocols: dict[str, Protocol]
    sweep: list[tuple[dict[str, Any], dict[str, Result]]]
    settings: dict[str, Any]
    versions: dict[str, Any]
    scores: dict[str, Any]

    def check_score(self, where: str, name: str, result: Result) -> None:
        """Raises DbnetError unless a part's counts lead to its own scores."""
        if asdict(result.score) != self.scores.get(name):
            raise DbnetError(f"{where}: its scores by {name} are not those of its counts; it was edited or damaged: "
                             f"make the part again")


def head_of(report: PartReport) -> Head:
    """Raises DbnetError for a part of a newer version, or one that is damaged."""
    told = report.head[KEY]
    if type(told.get("version")) is not int or told["version"] < 1:
        _damaged(report, "its version is no number")
    if told["version"] > VERSION:
        raise DbnetError(f"{report.where}: is a part of version {told['version']}, and this dbnet-parity reads up to "
                         f"{VERSION}; install a newer one: pip install -U dbnet-parity")
    try:
        part = _part(told)
        protocols = {name: _protocol(name, row, told[VARIANTS]) for name, row in report.head["protocols"].items()}
        sweep = _sweep(report, told, protocols)
        if not all(isinstance(note, str) for note in report.head["settings"].get("notes", [])):
            raise ValueError("its notes are none")
    except ShardError as error:
        raise DbnetError(f"{report.where}: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        _damaged(report, str(error) or "something is missing")
    places = part.shard.places(part.images) if part.shard.count <= part.images else range(0)
    if (part.first, len(report.names)) != (places.start, len(places)) or not protocols:
        _damaged(report, f"its {len(report.names)} images from {part.first} on are not {part.shard} of {part.images}")
    head = Head(part, protocols, sweep, report.head["settings"], report.head["versions"], report.head["scores"])
    for i, (_, results) in enumerate(sweep):
        for name, result in results.items():
            if asdict(result.score) != report.head["sweep"]["settings"][i]["scores"].get(name):
                _damaged(report, f"its sweep's scores by {name} are not those of its counts")
    return head


def _damaged(report: PartReport, what: str) -> NoReturn:
    raise DbnetError(f"{report.where}: is damaged or was edited: {short(what, 120)}; make the part again")


def _part(told: Mapping[str, Any]) -> Part:
    digests = [told["names_sha256"], told["labels_sha256"], told.get("results_sha256")]
    if not all(_SHA256.fullmatch(digest) for digest in digests if digest is not None):
        raise ValueError("a digest is none")
    if type(told["first"]) is not int or type(told["images"]) is not int:
        raise ValueError("numbers of images that are no numbers")
    return Part(parse_shard(told["part"]), told["first"], told["images"], *digests)


def _protocol(name: str, told: Mapping[str, Any], variants: Mapping[str, Any]) -> Protocol:
    names = variants.get(name, [""])
    if not isinstance(names, list) or not names or not all(isinstance(each, str) for each in names):
        raise ValueError(f"the variants of {name} are none")
    if not isinstance(told["title"], str) or not isinstance(told["thresholds"], dict):
        raise ValueError(f"what {name} is, is not said")
    return Protocol(name, told["title"], told["thresholds"], _counted_already, tuple(names))


def _counted_already(samples: Sequence[Sample], detections: Sequence[Sequence[Detection]]) -> np.ndarray:
    raise ValueError("a part's report counts no further images")


def _sweep(report: PartReport, told: Mapping[str, Any],
           protocols: Mapping[str, Protocol]) -> list[tuple[dict[str, Any], dict[str, Result]]]:
    settings = report.head.get("sweep", {"settings": []})["settings"]
    return [(dict(row["values"]), {name: Result(protocol, _sums(sums[name], len(protocol.variants)))
                                   for name, protocol in protocols.items()})
            for row, sums in zip(settings, told.get("sweep", []), strict=True)]


def _sums(told: Any, variants: int) -> np.ndarray:
    sums = np.array(told, np.float64)
    if sums.shape != (2, variants, len(COLUMNS)) or not np.isfinite(sums).all():
        raise ValueError("a sweep's sums are none")
    return sums


# Together -------------------------------------------------------------------------------------------------------------


def check_together(parts: Reports) -> Reports:
    """The parts in the order of the run. Raises DbnetError unless they are all of one, and every image is in one."""
    first, head = parts[0]
    wanted = _common(head)
    for report, other in parts[1:]:
        found = _common(other)
        differing = [key for key in {**wanted, **found} if wanted.get(key, _ABSENT) != found.get(key, _ABSENT)]
        if differing:
            raise DbnetError(_told(first.where, report.where, wanted, found, differing))
    order = whole_of([(report.where, other.part.shard) for report, other in parts], head.part.images)
    return [parts[i] for i in order]


def _common(head: Head) -> dict[str, Any]:
    """What the parts of a run have in common, by dotted path, as JSON gives it back."""
    part = head.part
    versions = dict(head.versions)
    if isinstance(runner := versions.get("runner"), dict) and isinstance(runner.get("device"), str):
        versions["runner"] = runner | {"device": re.sub(r":\d+$", "", runner["device"])}
    told = {"settings": {name: value for name, value in head.settings.items() if name not in _PLACES},
            "data": {"images": part.images, "names": part.names, "labels": part.labels, "results": part.results},
            "protocols": {name: [protocol.title, protocol.thresholds, protocol.variants]
                          for name, protocol in head.protocols.items()},
            "protocols in order": list(head.protocols), "sweep": [values for values, _ in head.sweep],
            "versions": versions}
    return leaves(json.loads(json.dumps(told)))


def _told(first: str, second: str, wanted: Mapping[str, Any], found: Mapping[str, Any], differing: list[str]) -> str:
    kinds = [(key, kind) for begin, kind in _KINDS for key in differing if key.startswith(begin)]
    key, kind = (kinds or [(differing[0], "runs that were made otherwise")])[0]
    more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
    hint = "; give every part the same --threads" if key == "versions.runner.threads" else ""
    return (f"{first} and {second} are parts of {kind}: {key} is {_value(wanted, key)} and {_value(found, key)}{more}"
            f"{hint}; put parts of one run together")


def _value(values: Mapping[str, Any], key: str) -> str:
    return short(json.dumps(values[key]), 60) if key in values else "nothing"
