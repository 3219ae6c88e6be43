"""ICDAR 2015, incidental scene text (Robust Reading Competition, challenge 4, task 1).

Layout: `images/img_N.jpg` beside `gt/gt_img_N.txt`, or beside a zip of these labels. One text per line:
`x1,y1,x2,y2,x3,y3,x4,y4,transcription`, clockwise from the top left; the transcription may hold commas, and `###`
means "do not care".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dbnet.datasets.archive import lines_of, natural_order, parse_coordinates, polygon_of, read_texts, unquoted
from dbnet.errors import DbnetError
from dbnet.sample import Sample

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
DO_NOT_CARE = "###"


def load(root: str | Path) -> list[Sample]:
    """The labelled images in `root` or `root/test`, img_2 before img_10.

    The images that exist count; labels of other images are left alone. Raises DbnetError if images or labels are not
    where they should be, an image has no label, or a label has a line that cannot be read.
    """
    folder = _data_folder(Path(root))
    images = sorted((file for file in (folder / "images").iterdir() if _is_image(file)),
                    key=lambda file: natural_order(file.name))
    if not images:
        raise DbnetError(f"{folder / 'images'}: no images ({', '.join(IMAGE_SUFFIXES)}) in it")
    source = _label_source(folder)
    texts = read_texts(source)
    samples = []
    for image in images:
        name = f"gt_{image.stem}.txt"
        if name not in texts:
            raise DbnetError(f"{source}: no {name} for the image {image}; add it, or take the image away")
        samples.append(parse_labels(texts[name], f"{source}/{name}", image))
    return samples


def parse_labels(text: str, where: str, image: Path) -> Sample:
    """The labels of `image` from the text of its label file; `where` names that file in errors.

    Raises DbnetError with the number of the line that cannot be read.
    """
    polygons, texts = [], []
    for line_where, line in lines_of(text, where):
        fields = line.split(",", 8)
        if len(fields) != 9:
            raise DbnetError(f"{line_where}: {len(fields)} fields, not x1,y1,x2,y2,x3,y3,x4,y4,transcription: "
                             f"{line[:40]!r}")
        polygons.append(polygon_of(parse_coordinates(fields[:8], line_where), line_where))
        texts.append(unquoted(fields[8]))
    return Sample(image, polygons, np.array([text == DO_NOT_CARE for text in texts], bool), texts)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()


def _data_folder(root: Path) -> Path:
    """`root` or `root/test`, whichever holds images/."""
    for folder in (root, root / "test"):
        if (folder / "images").is_dir():
            return folder
    problem = "holds neither images/ nor test/images/" if root.is_dir() else "is no folder"
    raise DbnetError(f"{root}: {problem}; ICDAR 2015 is looked for as images/ beside gt/ or gt.zip")


def _label_source(folder: Path) -> Path:
    """gt/, gt.zip, or the only zip with `gt` in its name (the competition's: Challenge4_Test_Task1_GT.zip)."""
    for source in (folder / "gt", folder / "gt.zip"):
        if source.exists():
            return source
    zips = [file for file in folder.iterdir() if file.suffix.lower() == ".zip" and "gt" in file.stem.lower()]
    if len(zips) == 1:
        return zips[0]
    problem = f"several label zips ({', '.join(sorted(file.name for file in zips))})" if zips else "no labels"
    raise DbnetError(f"{folder}: {problem}; put the labels beside images/ as gt/ or gt.zip")
