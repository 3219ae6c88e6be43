"""Ground truth of every data set, read without its images: what result files are scored against."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbnet.datasets import ctw1500, icdar2015, labelfile, mlt2017, td500, totaltext
from dbnet.datasets.archive import image_stem, is_number, lines_of, natural_order, read_texts, shown_name, zips_inside
from dbnet.errors import DbnetError
from dbnet.sample import Sample

#: Data set -> (text of a label file, what errors call it, image) -> labels.
PARSERS: dict[str, Callable[[str, str, Path], Sample]] = {
    "icdar2015": icdar2015.parse_labels,
    "mlt2017": mlt2017.parse_labels,
    "ctw1500": ctw1500.parse_labels,
    "totaltext": totaltext.parse_labels,
    "td500": td500.parse_labels,
}
#: What labels and results can be given as.
FORMATS = (*PARSERS, "labelfile")
SUFFIXES = (".txt", ".gt", ".xml")
#: What stands before an image's name in the name of its label file.
PREFIX = re.compile(r"^(poly_gt_|gt_)")
RESULT = re.compile(r"^(res_|poly_res_)")

#: File names that a data set gives its labels, without the suffix.
NAMES = {
    "icdar2015": re.compile(r"gt_.*|(ts_|tr_)?img_\d+"),
    "mlt2017": re.compile(r"gt_.*|(ts_|tr_)?img_\d+"),
    "ctw1500": re.compile(r"\d+"),
    "totaltext": re.compile(r"poly_gt_.*|img\d+"),
    "td500": re.compile(r"IMG_\d+"),
}
#: Share of the lines that must have a data set's form: a spoilt line is told as such, and hides nothing.
MOST = 0.9


@dataclass(frozen=True)
class Labels:
    """dataset: one of `FORMATS`. samples: in natural order of their images; `Sample.image` is the image's stem."""

    dataset: str
    samples: list[Sample]


def read_labels(path: str | Path, dataset: str | None = None) -> Labels:
    """The labels in a folder, a zip (folders in it are ignored) or a label file, as `dataset` writes them.

    dataset: one of `FORMATS`; without it, the names and the lines of the files tell. A label file with a line for each
    image is told by itself, whatever `dataset` says. Raises DbnetError if the files cannot be read or told, a line has
    another form (naming it), or two files are for one image.
    """
    path = Path(path)
    if dataset is not None and dataset not in FORMATS:
        raise DbnetError(f"unknown format {dataset!r}; choose from {', '.join(FORMATS)}")
    texts = read_texts(path, SUFFIXES)
    if not texts:
        raise DbnetError(f"{path}: no labels ({', '.join(SUFFIXES)} files) in it{zips_inside(path)}")
    if len(texts) == 1 and labelfile.is_label_file(text := next(iter(texts.values()))):
        samples = labelfile.read_label_file(text, str(path))
        return Labels(dataset or "labelfile", sorted(samples, key=lambda sample: natural_order(sample.name)))
    if dataset == "labelfile":
        raise DbnetError(f"{path}: no label file, whose lines are {labelfile.LINE}")
    return _read_folder(path, texts, dataset)


def _read_folder(path: Path, texts: Mapping[str, str], dataset: str | None) -> Labels:
    files = label_files(path, texts)
    dataset = dataset or told_dataset(path, {name: texts[name] for name in files.values()})
    parse = PARSERS[dataset]
    samples = [parse(texts[name], where_of(path, name), Path(stem)) for stem, name in files.items()]
    return Labels(dataset, samples)


def label_files(path: Path, names: Collection[str]) -> dict[str, str]:
    """Stem of the image -> the one of `names`, the files in `path`, that has its labels; in natural order.

    Raises DbnetError if they are results, or two files are for one image.
    """
    if all(RESULT.match(name) for name in names):
        raise DbnetError(f"{path}: holds results ({shown_name(min(names))}), not labels; are --gt and --results the "
                         f"other way round?")
    # As the official scripts do: where labels are marked by their names, other files are none.
    marked = [name for name in names if PREFIX.match(name) or name.lower().endswith(".gt")]
    files: dict[str, str] = {}
    for name in sorted(marked or names, key=natural_order):
        stem = PREFIX.sub("", image_stem(Path(name).stem))
        if stem in files:
            raise DbnetError(f"{path}: {shown_name(files[stem])} and {shown_name(name)} are both labels of "
                             f"{shown_name(stem)}; keep the one that counts")
        files[stem] = name
    return files


def where_of(path: Path, name: str) -> str:
    """What errors call the file `name` of `path`, which may be that file itself."""
    return f"{path}/{shown_name(name)}" if path.name != name else f"{path}"


# Telling --------------------------------------------------------------------------------------------------------------


def told_dataset(path: Path, texts: Mapping[str, str], advice: str = "say --format",
                 choices: Sequence[str] = FORMATS) -> str:
    """The one data set that names and lines of the texts (name -> text) fit.

    Raises DbnetError with the names that would do, behind `advice`; `choices` where any would.
    """
    for suffix, dataset in ((".gt", "td500"), (".xml", "ctw1500")):
        if all(name.lower().endswith(suffix) for name in texts):
            return dataset
    names = {dataset for dataset, pattern in NAMES.items()
             if all(pattern.fullmatch(image_stem(Path(name).stem)) for name in texts)}
    lines = by_lines(texts.values())
    if lines is None:
        # Nothing in the files speaks for another data set, or all of them are empty.
        fitting = names - {"mlt2017"}
    else:
        fitting = names & lines or lines
    if len(fitting) == 1:
        return fitting.pop()
    if fitting:
        raise DbnetError(f"{path}: cannot tell which labels these are: {' or '.join(sorted(fitting))} would fit "
                         f"{shown_name(min(texts))}; {advice} {'|'.join(sorted(fitting))}")
    hint = "they may be results; " if all(map(_is_result, texts.values())) else ""
    raise DbnetError(f"{path}: cannot tell which labels these are ({shown_name(min(texts))}); {hint}{advice} "
                     f"{'|'.join(choices)}")


def by_lines(texts: Iterable[str]) -> set[str] | None:
    """The data sets whose form nearly all lines have; None where there are no lines, or none of a known form."""
    counts: Counter[str] = Counter()
    total = 0
    for text in texts:
        if totaltext.START.search(text):
            return {"totaltext"}
        for _, line in lines_of(text, ""):
            total += 1
            counts.update(_forms(line))
    fitting = {dataset for dataset, count in counts.items() if count >= MOST * total}
    # An ICDAR 2015 transcription may begin with a script and a comma, but not nearly all of them.
    return (fitting - {"icdar2015"} if "mlt2017" in fitting else fitting) or None


def speaks_against(dataset: str, texts: Iterable[str]) -> float:
    """Share of the lines that can only be those of another data set. A spoilt line is none."""
    total = against = 0
    for text in texts:
        has_records = totaltext.START.search(text) is not None
        for _, line in lines_of(text, ""):
            total += 1
            against += dataset != "totaltext" if has_records else _is_against(dataset, line)
    return against / total if total else 0.0


def _is_against(dataset: str, line: str) -> bool:
    forms, fields = _forms(line), line.split(",")
    if "mlt2017" in forms:  # ICDAR 2015's could be such by chance
        return dataset != "mlt2017"
    # Six or seven numbers may be a quad with a spoilt one.
    is_short = len(fields) > 6 and all(map(is_number, fields[:6])) and not all(map(is_number, fields[:8]))
    return bool(forms) and dataset not in forms and not is_short


def _forms(line: str) -> set[str]:
    """The data sets that could have written this line."""
    fields = line.split(",")
    if len(fields) == 1:
        return {"td500"} if len(line.split()) == 7 and all(map(is_number, line.split())) else set()
    numbers = next((i for i, field in enumerate(fields) if not is_number(field)), len(fields))
    if numbers == len(fields):
        # A number as the last field may be the transcription; of 32 the first four are a box of CTW1500.
        return {"ctw1500"} if numbers == ctw1500.RELATIVE else _polygon(numbers - 1) if numbers % 2 else set()
    if fields[numbers].startswith(ctw1500.MARK) and numbers == 28:
        return {"ctw1500"}
    if numbers == 5 and len(fields) == 6:
        return {"td500"}
    if numbers == 8 and len(fields) > 9 and fields[8].strip() in mlt2017.SCRIPTS:
        return {"mlt2017", "icdar2015"}
    return _polygon(numbers)


def _polygon(numbers: int) -> set[str]:
    if numbers in (8, 9):
        return {"icdar2015", "td500", "totaltext"}
    return {"totaltext", "ctw1500"} if numbers >= 6 else set()


def _is_result(text: str) -> bool:
    return all(is_number(field) for _, line in lines_of(text, "") for field in line.rstrip(", \r").split(","))
