"""Sound labels, results, recipes and images, from which the spoilt ones are made. Always the same bytes."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
from PIL import Image

from dbnet.datasets.drawn import draw
from dbnet.recipe_configs import CONFIGS, PUBLISHED
from dbnet.sample import Detection
from evaluation.store import MAGIC, encode
from tests.fuzz_zips import DEFLATED, Entry, build
from tests.mat_scenes import Writer

QUAD = "10,10,110,12,110,40,10,38"
CURVE = ",".join(str(number) for number in range(10, 38))
RECORD = ("x: [[206 251 386]], y: [[633 811 931]], ornt: [u'c'], transcriptions: [u'Joe\\'s']\n"
          "x: [[1 2 3\n 4]], y: [[5 6 7 8]], ornt: [u'#'], transcriptions: [u'#']\n")
XML = (f"<?xml version='1.0'?><Annotations><image file='1001.jpg'><box height='9' left='1' top='2' width='8'>"
       f"<label>a b</label><segs>{CURVE}</segs></box></image></Annotations>")
#: Data set -> name of a label file, and its text.
LABELS = {"icdar2015": ("gt_img_1.txt", f"\ufeff{QUAD},word\r\n{QUAD},###\r\n"),
          "mlt2017": ("gt_img_2.txt", f"{QUAD},Latin,word\n{QUAD},Korean,a,b\n"),
          "ctw1500": ("0001001.txt", f"{CURVE},####a, b\n{CURVE},#######\n"), "ctw1500 xml": ("1001.xml", XML),
          "totaltext": ("poly_gt_img1.txt", RECORD), "totaltext lines": ("poly_gt_img2.txt", "1,2,3,4,5,6,word\n"),
          "td500": ("IMG_0059.gt", "0 0 10 20 100 30 0.3\n1 1 10 60 100 30 -0.1\n"),
          "td500 marks": ("IMG_0060.JPG.txt", f"{QUAD},1\n{QUAD},\n"),
          "td500 boxes": ("gt_img_3.txt", "1,1,90,30,0.2,a\n")}
LABEL_FILE = "".join(f'test/img_{i}.jpg\t[{{"transcription": "word", "points": [[1, 1], [90, 2], [90, 30.5]]}}, '
                     f'{{"transcription": "###", "points": [[1, 1], [9, 2], [9, 30]]}}]\n' for i in range(3))
RESULT_FILE = "img_1.jpg\t[[[0, 0], [100, 0], [100, 20], [0, 20]]]\t[0.5]\nimg_2.jpg\t[]\t[]\n"
REPORT = {"images": {f"img_{i}.jpg": {"detections": [{"polygon": [[0, 0], [100, 0], [100, 20]], "score": 0.5}]}
                     for i in range(3)}, "scores": {"hmean": 0.5}}
#: What a store of the harness was made with.
HEADER = {"images": 3, "model": "x.ckpt", "boxes": {"thresh": 0.3}}


#: Digits -> others, for the name of a second file.
_OTHER = str.maketrans("012359", "678441")


def zipped(*files: tuple[str, str | bytes], folder: str = "") -> bytes:
    """A zip of (name, content), deflated."""
    return build([Entry((folder + name).encode(), text.encode() if isinstance(text, str) else text, DEFLATED)
                  for name, text in files])


@cache
def label_zips() -> tuple[bytes, ...]:
    """Zips of each data set's labels, and of Total-Text's .mat files."""
    return (*(zipped((name, text), (name.translate(_OTHER), text)) for name, text in LABELS.values()),
            zipped(*LABELS.values(), folder="a/b/"), zipped(("poly_gt_img1.mat", totaltext_mats()[0])),
            zipped(("Label.txt", LABEL_FILE)))


@cache
def label_texts() -> tuple[bytes, ...]:
    """Label files of their own."""
    return (LABEL_FILE.encode(), *(text.encode() for _, text in LABELS.values()))


@cache
def result_zips() -> tuple[bytes, ...]:
    """Zips of results: lines, and our JSON."""
    many = [(f"res_img_{i}.txt", f"{QUAD},0.75\n{QUAD},0.5\n") for i in range(1, 4)]
    return (zipped(*many), zipped(("1001.txt", f"{CURVE}\n")), zipped(("IMG_0059.txt", "0 0 100 20 0.1\n")),
            zipped(("a.json", json.dumps(REPORT))), zipped(*many, folder="../a/"),
            build([Entry(name.encode(), text.encode()) for name, text in many]))


def stored() -> bytes:
    """What `dbnet evaluate --save` keeps."""
    polygon = np.array([[0, 0], [99.5, 0], [99, 20]], np.float32)
    lines = [encode(f"img_{i}.jpg", i, [[Detection(polygon, 0.5)], []]) for i in range(3)]
    return MAGIC + json.dumps(HEADER)[1:].encode() + b"\n" + b"".join(lines)


@cache
def totaltext_mats() -> tuple[bytes, ...]:
    """polygt in both byte orders, with and without compression."""
    files = []
    for writer, storage in ((Writer(), "uint16"), (Writer(">"), "uint8"), (Writer("<", small=False), "utf-8")):
        x, y = writer.numbers(np.array([[1, 9, 9]], "i2")), writer.numbers(np.array([[1, 1, 9.5]]))
        rows = [[writer.text(["x:"], storage), x, writer.text(["y:"], storage), y, writer.text([word], storage),
                 writer.text(["c"], storage)] for word in ("one", "#")]
        cells = writer.cells([row[i] for i in range(6) for row in rows], "polygt", (2, 6))
        files += [writer.file(cells), writer.file(cells, compress=True)]
    return tuple(files)


@cache
def synthtext_mats() -> tuple[bytes, ...]:
    """gt.mat of three images."""
    files = []
    for writer in (Writer(), Writer(">")):
        boxes = [writer.numbers(np.arange(8 * n, dtype="f4").reshape(2, 4, n)) for n in (1, 2, 3)]
        words = [writer.text(["one"]), writer.text(["two   ", "thr ee"]), writer.text(["a\nb\nc"])]
        names = [writer.text([f"8/img_{i}.jpg"]) for i in range(3)]
        variables = [writer.cells(boxes, "charBB"), writer.cells(boxes, "wordBB"), writer.cells(names, "imnames"),
                     writer.cells(words, "txt")]
        files += [writer.file(*variables), writer.file(*variables, compress=True)]
    return tuple(files)


@cache
def recipes() -> tuple[bytes, ...]:
    """A few of the package's own, and one with everything written out."""
    names = ("db_r18_icdar15", "db_mobilenetv3_ppocrv3", "dbpp_r50_icdar15_910", "db_r50_synthtext")
    texts = [(CONFIGS / f"{name}.yaml").read_bytes() for name in names]
    loader = b"  loader: {<<: &w {num_workers: 10}, shuffle: True}\n"
    return (*texts, texts[0].replace(b"  loader:\n    num_workers: 10\n", loader))


def published() -> tuple[bytes, ...]:
    """The table of published figures."""
    return (PUBLISHED.read_bytes(),)


@cache
def images() -> tuple[bytes, ...]:
    """The same picture in every format, some with more than one frame, grey, or turned by EXIF."""
    pixels = draw(1, 48, 64, 2)[0]
    files = [cv2.imencode(suffix, pixels)[1].tobytes() for suffix in (".png", ".jpg", ".bmp", ".tiff", ".webp")]
    frames = [Image.fromarray(pixels[..., ::-1]), Image.fromarray(pixels)]
    for form, options in (("GIF", {"save_all": True, "append_images": frames[1:]}), ("PNG", {"bits": 4}),
                          ("TIFF", {"compression": "tiff_lzw"}), ("JPEG", {"progressive": True, "quality": 60})):
        stream = io.BytesIO()
        frames[0].convert("P" if form in ("GIF", "PNG") else "RGB").save(stream, form, **options)
        files.append(stream.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    frames[0].save(stream, "JPEG", exif=exif)
    return (*files, stream.getvalue(), cv2.imencode(".png", pixels[..., 0])[1].tobytes())


def renamed(data: bytes, name: str) -> bytes:
    """A zip of one entry under another name."""
    return build([replace(Entry(b"", data), name=name.encode())])
