"""Bundles of several machines as one: of the same models on the same data, or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dbnet.errors import DbnetError, short, shown
from evaluation.bench_report.joined import Named, join_shards
from evaluation.benching.bundle import Bundle, Model, digest_of

#: What `data` has to have in common, with words for it; the most telling first. None in one of both says nothing.
_DATA = {"kind": "data set", "seed": "seed", "images": "number of images", "names_sha256": "names of the images",
         "images_sha256": "images", "labels_sha256": "labels", "protocol": "protocol"}
_MODEL = {"weights_sha256": "weights", "semantics": "semantics", "pixels": "pixel format", "boxes": "box rule"}
_HINT = "take them apart, or add --mixed, whose lines each say their own"


@dataclass(frozen=True)
class Source:
    """One bundle. name: of its file, or of those whose parts were joined. machine: what it is called in the table, one
    name for no two machines.
    """

    name: str
    bundle: Bundle
    machine: str


@dataclass(frozen=True)
class Merged:
    """Bundles that belong together. notes: what a reader of the table should know."""

    sources: tuple[Source, ...]
    notes: tuple[str, ...] = ()


def merge(read: Sequence[Named], mixed: bool = False) -> Merged:
    """read: bundles by the names of their files. mixed: they may be of different models and data.

    Raises DbnetError for a bundle that is there twice, for parts of which some are missing, and for different models or
    data, saying which bundles and what differs.
    """
    _refuse_twins(read)
    joined, notes = join_shards(read)
    if not mixed:
        check_data(joined)
        _check_models(joined)
    return Merged(tuple(Source(name, bundle, machine) for (name, bundle), machine
                        in zip(joined, _machines(joined), strict=True)), tuple(notes))


def with_scores(merged: Merged, protocol: str | None) -> Merged:
    """With a note of the bundles whose scores are by other protocols only. Raises DbnetError if none is by this one."""
    if protocol is None:
        return merged
    scored = [(source.name, {name for row in source.bundle.rows for name in row.scores}) for source in merged.sources]
    lacking = [(name, sorted(names)) for name, names in scored if protocol not in names]
    told = "; ".join(f"{name} has {', '.join(map(short, names)) or 'none'}" for name, names in lacking)
    if len(lacking) == len(scored):
        raise DbnetError(f"--protocol {protocol}: no bundle has scores by it: {told}; measure with dbnet bench "
                         f"--protocol {protocol}")
    notes = (f"no scores by {protocol} are shown of some bundles: {told}",) if lacking else ()
    return replace(merged, notes=merged.notes + notes)


def _refuse_twins(read: Sequence[Named]) -> None:
    """One run counts once, whatever its files are called and whoever labelled them, also where a part of it was joined
    with others already.
    """
    seen: dict[str, str] = {}
    for name, bundle in read:
        key = digest_of([bundle.made, {**bundle.machine, "label": None}, [asdict(row.seconds) for row in bundle.rows]])
        if key in seen:
            raise DbnetError(f"{seen[key]} and {name} are the same run; name it once")
        seen[key] = name


def check_data(read: Sequence[Named]) -> None:
    """Every one against the first that says something. Raises DbnetError for different data, saying what differs."""
    for field, words in _DATA.items():
        known = [(name, bundle.data[field]) for name, bundle in read if bundle.data[field] is not None]
        for name, value in known[1:]:
            if value != known[0][1]:
                raise DbnetError(f"{known[0][0]} and {name} are of different data: the {words}: {_brief(known[0][1])} "
                                 f"and {_brief(value)}; {_HINT}")


def _check_models(read: Sequence[Named]) -> None:
    """Every bundle's models are among those of the bundle with most."""
    most_name, most = max(read, key=lambda named: len(named[1].models))
    known = {identity(model): model for model in most.models}
    for name, bundle in read:
        odd = [model for model in bundle.models if identity(model) not in known]
        if odd:
            raise DbnetError(f"{most_name} and {name} are of different models: {_apart(odd[0], most.models)}; {_HINT}")


def identity(model: Model) -> str:
    """Equal for the same weights that are meant and used in the same way, in whatever file."""
    return digest_of([getattr(model, field) for field in _MODEL])


def _apart(odd: Model, others: Sequence[Model]) -> str:
    """In what a model differs from the nearest of others."""
    near = min(others, key=lambda other: (other.spec != odd.spec, odd.file != other.file,
                                          sum(getattr(other, field) != getattr(odd, field) for field in _MODEL)))
    if near.spec != odd.spec:
        return f"{_called(near)} there, {_called(odd)} here"
    for field, words in _MODEL.items():
        there, here = getattr(near, field), getattr(odd, field)
        if there != here:
            if isinstance(there, Mapping):
                key = next(key for key in (*there, *here) if there.get(key) != here.get(key))
                words, there, here = f"{words}'s {short(key, 40)}", there.get(key), here.get(key)
            return f"{_called(near)} and {_called(odd)}: the {words}: {_brief(there)} and {_brief(here)}"
    return f"{_called(near)} and {_called(odd)}"


def _called(model: Model) -> str:
    return f"{short(model.file, 60)} ({short(model.spec, 40)})"


def _brief(value: Any) -> str:
    """Of a digest the first letters."""
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    return short(value, 60) if isinstance(value, str) else shown(value, 60)


def _machines(read: Sequence[Named]) -> list[str]:
    """A name for each bundle's machine; where two machines would have the same, the bundles' names tell them apart."""
    names = [machine_name(bundle.machine) for _, bundle in read]
    kinds = Counter({name: len({hardware(bundle.machine) for other, (_, bundle) in zip(names, read, strict=True)
                                if other == name}) for name in names})
    return [name if kinds[name] == 1 else f"{name} ({file})" for name, (file, _) in zip(names, read, strict=True)]


def machine_name(machine: Mapping[str, Any]) -> str:
    """Its label; without one what computes in it."""
    if machine["label"]:
        return str(machine["label"])
    cards = [f"{card['count']} x {card['name']}" if _several(card) else str(card["name"])
             for card in machine["accelerators"] if isinstance(card.get("name"), str)]
    return " + ".join(cards) or f"{machine['cpu']}, {machine['cores']} core{'s' * (machine['cores'] != 1)}"


def _several(card: Mapping[str, Any]) -> bool:
    return isinstance(card.get("count"), int) and card["count"] > 1


def hardware(machine: Mapping[str, Any]) -> str:
    """Equal for the same kind of machine with the same software below the runners."""
    return digest_of({name: value for name, value in machine.items() if name != "label"})

