"""Every reader of what strangers send: how its files are made, what is called, and what it may take."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from random import Random

import cv2
import numpy as np

from converters.formats import read_file
from converters.inspect import inspect
from converters.load import SourceOptions, load_model
from converters.onnx_foreign import read_foreign
from converters.onnx_outline import read_outline
from converters.tensor_file import TensorFile
from converters.training_file import read_training
from dbnet.datasets.image_facts import inspect_image
from dbnet.datasets.label_set import read_label_set
from dbnet.datasets.labels import read_labels
from dbnet.datasets.prepared import read_prepared
from dbnet.datasets.synthtext_labels import open_labels
from dbnet.errors import DbnetError
from dbnet.image_header import size_of
from dbnet.preprocess import read_bytes
from dbnet.recipe import read_recipe
from dbnet.recipe_configs import published
from dbnet.recipe_model import box_rule, network, pixel_format
from dbnet.recipe_train import training_plan
from dbnet.record import Record
from evaluation.pictures import decode
from evaluation.results import read_results
from evaluation.store import open_store
from evaluation.training_journal import Journal
from tests import fuzz_data, fuzz_graphs, fuzz_traces, fuzz_weights
from tests.fuzz_bytes import BLIND
from tests.fuzz_headers import IMAGE, MAT, SAFETENSORS
from tests.fuzz_nodes import NODES
from tests.fuzz_pickles import PICKLE
from tests.fuzz_protobufs import PROTOBUF
from tests.fuzz_reader import MIB, Reader
from tests.fuzz_texts import JSON, JSON_LINES, LINE_TEXT, STORE, YAML_TEXT, in_json
from tests.fuzz_zips import ZIP, inside

# Weights --------------------------------------------------------------------------------------------------------------


def _bytes_of(file: TensorFile) -> int:
    arrays = {id(array): array.nbytes for table in (file.tensors, file.ema or {}, file.raw) for array in table.values()}
    return sum(arrays.values())


def _options(chance: Random) -> SourceOptions:
    """Mostly told, since finding out takes most of the time."""
    told = chance.random() < 0.8
    return SourceOptions(spec="dbnet_mobilenetv3" if told else None, dialect="mindocr" if told else None,
                         take=chance.choice((None, "plain", "ema")), allow_edited=chance.random() < 0.8)


def _printable(texts: Sequence[str]) -> None:
    """Notes go to the terminal as they are."""
    strange = next((text for text in texts if not text.isprintable()), None)
    if strange is not None:
        raise ValueError(f"a note that cannot be printed: {strange!r}")


def weights(path: Path, chance: Random) -> int:
    """The codec alone in most cases; also the whole way to a model, `dbnet inspect` and a training to go on with."""
    kind = chance.random()
    if kind < 0.85:
        file = read_file(path)
        file.optimizers()
        _printable(file.notes)
        return _bytes_of(file)
    if kind < 0.91:
        model = load_model(path, _options(chance))
        _printable(model.notes)
        return sum(array.nbytes for array in model.weights.values())
    if kind < 0.97:
        _printable(inspect(path, _options(chance))["notes"])
        return path.stat().st_size
    return training(path, chance)


def graph(path: Path, chance: Random) -> int:
    """By its nodes: what names nothing is matched in order."""
    kind = chance.random()
    if kind < 0.2:
        return weights(path, chance)
    if kind < 0.4:
        read_outline(path)
        return 0
    _printable(read_foreign(path).notes)
    return path.stat().st_size


def whole(path: Path, chance: Random) -> int:
    """A whole model, its graph too."""
    if chance.random() < 0.5:
        _printable(load_model(path).notes)
    else:
        _printable(inspect(path)["notes"])
    return path.stat().st_size


def training(path: Path, _chance: Random) -> int:
    """What `dbnet train --resume` reads."""
    file = read_training(path)
    if file.about:
        Journal.from_dict(file.about, str(path))
    return sum(array.nbytes for array in file.state.values())


def journal(path: Path, _chance: Random) -> int:
    """The JSON in a training file by itself."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DbnetError(f"{path.name}: no JSON") from error
    if isinstance(found, dict):
        Journal.from_dict(found, str(path))
    return 0


def record(path: Path, _chance: Random) -> int:
    """The record that weight files carry."""
    Record.from_json(path.read_bytes().decode("utf-8", "replace"), str(path))
    return 0


# Data -----------------------------------------------------------------------------------------------------------------


def labels(path: Path, chance: Random) -> int:
    """As `dbnet evaluate` reads them, and `dbnet data check`."""
    told = chance.choice((*(name.split()[0] for name in fuzz_data.LABELS), "labelfile"))
    dataset = told if chance.random() < 0.5 else None
    if chance.random() < 0.5:
        read_labels(path, dataset)
    else:
        read_label_set(path, dataset)
    return 0


def mat_labels(path: Path, chance: Random) -> int:
    """Total-Text's."""
    read_label_set(path, chance.choice((None, "totaltext")))
    return 0


def prepared(path: Path, _chance: Random) -> int:
    """A recipe's label file."""
    read_prepared(path)
    return 0


def results(path: Path, chance: Random) -> int:
    """Anybody's."""
    found = read_results(path, chance.choice((None, None, "icdar2015", "ctw1500", "td500", "totaltext", "mlt2017")))
    _printable(found.notes)
    return 0


def store(path: Path, _chance: Random) -> int:
    """`--save` of an evaluation that goes on with a file, and reads what is in it."""
    opened = None
    try:
        with open_store(path, fuzz_data.HEADER, 3) as opened:
            for i in range(opened.done):
                with suppress(DbnetError):  # the store is ours all the same, and may be cut behind its last whole line
                    opened.read(i, f"img_{i}.jpg")
    finally:
        if opened is not None:
            opened.close()
    return 0


def synthtext(path: Path, _chance: Random) -> int:
    """gt.mat, every entry."""
    opened = open_labels(path)
    for first in range(0, len(opened), 2):
        last = min(first + 2, len(opened))
        opened.names(first, last), opened.words(first, last), opened.quads(first, last)
    for i in islice(range(len(opened)), 9):
        opened.quads_of(i)
    return 0


def recipe(path: Path, chance: Random) -> int:
    """One of all the things that are made of a recipe."""
    chance.choice((network, box_rule, pixel_format, training_plan))(read_recipe(path))
    return 0


def table(path: Path, _chance: Random) -> int:
    """The table of published figures."""
    published(path)
    return 0


def image(path: Path, chance: Random) -> int:
    """What its header claims, its facts or its pixels."""
    size = size_of(path.read_bytes()) or (0, 0)
    if chance.random() < 0.5:
        _printable([text for note in inspect_image(path).notes for text in note])
        return 8 * min(size[0] * size[1], 2**26)
    return 4 * decode(read_bytes(path), path).nbytes


cv2.setNumThreads(1)
Record.from_json(fuzz_weights.record(fuzz_weights.MINDOCR), "")  # compiles our own annotations, once
np.seterr(all="warn")


def _one(text: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [text.encode()]


#: Pickles may take 60 MiB of empty containers (`restricted_pickle.MAX_READS`), tensors without bytes of their own
#: 64 MiB (`pth_file.SPARE_BYTES`); a text is a list of numbers of 32 bytes before it is polygons.
_PICKLED, _OF_TEXT, _OF_STREAMS = 128 * MIB, 40, 64 * MIB
_PTH = (*(inside(mutator, ("data.pkl",)) for mutator in PICKLE), *ZIP, *PICKLE, *BLIND[:6])
_TEXT_ZIP = (inside(in_json, (".json",)), *(inside(mutator, (".txt", ".gt", ".xml")) for mutator in LINE_TEXT[:6]),
             *ZIP, *BLIND[:6])
_MAT, _STORE = (*MAT * 2, *BLIND), (*STORE * 2, *BLIND)

READERS: dict[str, Reader] = {
    "ckpt": Reader(("x.ckpt", "x", "x.onnx"), fuzz_weights.ckpt, (*PROTOBUF * 2, *BLIND), weights, 12, 1),
    "pth": Reader(("x.pth", "x.pt", "x", "x.pdparams"), fuzz_weights.pth, _PTH, weights, 14, 1, floor=_PICKLED),
    "pdparams": Reader(("x.pdparams", "x.pth", "x"), fuzz_weights.pdparams, (*PICKLE * 3, *BLIND), weights, 10, 1,
                       floor=_PICKLED),
    "onnx": Reader(("x.onnx", "x", "x.ckpt"), fuzz_weights.onnx, (*PROTOBUF * 2, *BLIND), weights, 12, 2),
    "foreign onnx": Reader(("x.onnx", "x"), fuzz_graphs.foreign_onnx, (*PROTOBUF * 2, *BLIND[:8]), graph, 10, 3, 0.1),
    "foreign nodes": Reader(("x.onnx",), fuzz_graphs.foreign_onnx, NODES, graph, 3, 3, 0.6),
    "mindir": Reader(("x.mindir", "x", "x.onnx"), fuzz_graphs.mindir, (*PROTOBUF * 2, *BLIND), weights, 10),
    "mindir graph": Reader(("x.mindir",), fuzz_graphs.mindir_graph, (*PROTOBUF * 2, *BLIND[:4]), whole, 1, slow=True),
    "safetensors": Reader(("x.safetensors", "x"), fuzz_weights.safetensors, (*SAFETENSORS * 4, *BLIND), weights, 10, 1),
    "trace": Reader(("x.trace", "x"), fuzz_traces.traces, (*(fuzz_traces.resealed,) * 9, *SAFETENSORS, *BLIND[:8]),
                    fuzz_traces.trace, 6, times=6),
    "training ckpt": Reader(("x.ckpt",), lambda: fuzz_weights.training_files()[:1], (*PROTOBUF, *BLIND), training, 1),
    "training pth": Reader(("x.pth",), lambda: fuzz_weights.training_files()[1:], _PTH, training, 1, floor=_PICKLED),
    "real size": Reader(("x",), fuzz_weights.real_size, BLIND, weights, 0.2, floor=_PICKLED, slow=True),
    "journal": Reader(("x.json",), _one(json.dumps(fuzz_weights.journal())), (in_json, in_json, *JSON), journal, 3),
    "record": Reader(("x.json",), _one(fuzz_weights.record(fuzz_weights.MINDOCR)), (in_json, *JSON), record, 3),
    "label zip": Reader(("x.zip",), fuzz_data.label_zips, _TEXT_ZIP, labels, 6, times=_OF_TEXT, unfolds=True),
    "label file": Reader(("x.txt", "x.gt", "x.xml", "x.list"), fuzz_data.label_texts, (*LINE_TEXT, *JSON_LINES), labels,
                         6, times=_OF_TEXT),
    "prepared": Reader(("x.txt",), _one(fuzz_data.LABEL_FILE), JSON_LINES, prepared, 3, times=_OF_TEXT),
    "result zip": Reader(("x.zip",), fuzz_data.result_zips, _TEXT_ZIP, results, 6, times=_OF_TEXT, unfolds=True),
    "result json": Reader(("x.json",), _one(json.dumps(fuzz_data.REPORT)), JSON, results, 3, times=_OF_TEXT),
    "result lines": Reader(("x.txt", "x.jsonl"), _one(fuzz_data.RESULT_FILE), JSON_LINES, results, 3, times=_OF_TEXT),
    "store": Reader(("x.jsonl",), lambda: [fuzz_data.stored()], _STORE, store, 4, times=_OF_TEXT, writes=True),
    "saved": Reader(("x.jsonl",), lambda: [fuzz_data.stored()], _STORE, results, 3, times=_OF_TEXT),
    "totaltext mat": Reader(("x.mat",), fuzz_data.totaltext_mats, _MAT, mat_labels, 5, floor=_OF_STREAMS),
    "synthtext mat": Reader(("gt.mat",), fuzz_data.synthtext_mats, _MAT, synthtext, 5, floor=_OF_STREAMS),
    "recipe": Reader(("x.yaml",), fuzz_data.recipes, YAML_TEXT, recipe, 4, times=_OF_TEXT),
    "published": Reader(("x.yaml",), fuzz_data.published, YAML_TEXT, table, 1, times=_OF_TEXT),
    "image": Reader(("x.png", "x.jpg", "x.gif"), fuzz_data.images, (*IMAGE * 3, *BLIND), image, 5, floor=_OF_STREAMS),
}
