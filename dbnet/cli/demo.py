"""dbnet demo"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.demo_model import HEIGHT, IMAGES, WEIGHTS, WIDTH
from dbnet.cli.options import PathArgument, print_table

if TYPE_CHECKING:
    from dbnet.sample import Sample
    from parity.whole import WholeComparison

#: The files, each made from the one before.
CHAIN = ("embedded.ckpt", "hop1.pth", "hop2.onnx", "hop3.ckpt")
#: Runtime -> which of the converted files it reads; the first that is installed is the reference.
RUNTIMES = {"torch": "hop1.pth", "mindspore": "hop3.ckpt", "onnxruntime": "hop2.onnx"}


@dataclass(frozen=True, eq=False)
class Compared:
    """One runtime against the reference, and the page about it."""

    reference: str
    runtime: str
    whole: WholeComparison
    report: Path


@click.command()
@click.option("--out", type=PathArgument, default=Path("reports/demo"), show_default=True,
              help="Folder of the reports; what the last demo wrote there is replaced.")
def demo(out: Path) -> None:
    """Convert an embedded model ckpt -> pth -> onnx -> ckpt, compare all installed runtimes, and write the reports.

    Exit code 1 if the runtimes or the weights differ. The embedded model is small and was trained for minutes; the
    images are drawn.
    """
    from converters.compare_weights import compare_weights
    from converters.convert import load_model
    from dbnet.extras import installed
    folder = _empty(out)
    for line in _convert(folder):
        click.echo(line)
    weights = compare_weights(load_model(folder / CHAIN[0]), load_model(folder / CHAIN[-1]))
    click.echo(f"ckpt -> pth -> onnx -> ckpt: {weights.identical} tensors identical, "
               f"{len(weights.different)} different")
    there = [name for name in RUNTIMES if installed(name)]
    for name in RUNTIMES:
        if name not in there:
            click.echo(f"{name}: not installed, not compared")
    samples = _drawn(out)
    found = [_compare(out, there[0], name, samples) for name in there[1:]]
    same = weights.same and all(one.whole.verdict not in (None, "different") and not one.whole.stopped for one in found)
    _table(found)
    verdict = "DIFFERENT" if not same else "the same model everywhere" if found else \
        "the weights are identical; with fewer than two runtimes installed there was nothing else to compare"
    click.echo(f"{verdict}{''.join(f'; report: {one.report}' for one in found)}")
    if not same:
        raise click.exceptions.Exit(1)


def _empty(out: Path) -> Path:
    """The folder of the models, without what an earlier demo left; all other files stay."""
    from dbnet.errors import DbnetError
    try:
        for folder in (out, out / "models", out / "images"):
            folder.mkdir(parents=True, exist_ok=True)
        for name in CHAIN:
            (out / "models" / name).unlink(missing_ok=True)
    except OSError as error:
        raise DbnetError(f"{out}: cannot be written ({error.strerror}); choose another folder with --out") from error
    return out / "models"


def _convert(folder: Path) -> list[str]:
    """Writes every file of the chain; what there is to say of each."""
    from converters.convert import convert, describe
    source, said = WEIGHTS, []
    for name in CHAIN:
        done = convert(source, folder / name)
        said.append(describe(done)[0])
        source = done.target
    return said


def _drawn(out: Path) -> list[Sample]:
    """Draws the images; their labels."""
    import cv2
    import numpy as np

    from dbnet.datasets.drawn import draw
    from dbnet.errors import DbnetError
    from dbnet.sample import Sample
    samples = []
    for i in range(IMAGES):
        image, polygons = draw(i, HEIGHT, WIDTH)
        path = out / "images" / f"drawn_{i}.png"
        if not cv2.imwrite(str(path), image):
            raise DbnetError(f"{path}: could not be written; choose another folder with --out")
        samples.append(Sample(path, polygons, np.zeros(len(polygons), bool), [""] * len(polygons)))
    return samples


def _compare(out: Path, reference: str, runtime: str, samples: list[Sample]) -> Compared:
    """Everything that `dbnet compare` does with two files and labelled images; prints the stages, writes the page."""
    from converters.load import SourceOptions
    from converters.writing import write_text
    from dbnet.cli.compare_show import show_stages
    from dbnet.preprocess import read_image
    from evaluation.comparison_report import html
    from parity.gallery import Gallery
    from parity.staged import open_staged
    from parity.whole import WholeComparison
    files = [out / "models" / RUNTIMES[name] for name in (reference, runtime)]
    pixels = f"resize=stretch,size={HEIGHT}x{WIDTH}"  # the model's own size is eleven times as many pixels
    a, b = (open_staged(file, name, "cpu", SourceOptions(pixels=pixels))
            for file, name in zip(files, (reference, runtime), strict=True))
    command = ["dbnet", "compare", *map(str, files), "--device", "cpu", "--images", str(out / "images"), "--pixels",
               pixels]
    whole = WholeComparison((a, b), (a.runner.spec.boxes, b.runner.spec.boxes), command, gt="the drawn outlines")
    gallery = Gallery(wanted=True)
    whole.run_stages([read_image(samples[0].image)])
    whole.run_images([(sample.name, str(sample.image)) for sample in samples], gallery)
    if gallery.names:
        whole.run_scores({sample.name: sample for sample in samples}, gallery, ["rrc"])
    report = out / f"{runtime}_against_{reference}.html"
    write_text(report, html(whole.to_dict(), gallery.pictures(whole.stages.shown if whole.stages else None)))
    click.echo(f"\n{runtime} against {reference}, {HEIGHT} x {WIDTH} pixels, differences relative to each stage's "
               f"largest value")
    if whole.stages is not None:
        show_stages(whole.stages)
    for line in whole.stopped:
        click.echo(f"stopped: {line}")
    return Compared(reference, runtime, whole, report)


def _table(found: list[Compared]) -> None:
    """Every runtime with its boxes, score and verdict."""
    rows: list[tuple[object, ...]] = []
    for one in found:
        data = one.whole.to_dict()
        if not data["scores"] or not data["boxes"]:
            continue
        score = data["scores"]["protocols"]["rrc"]
        if not rows:
            rows.append(_row(one.reference, data["boxes"]["a"], score["a"], "", "the reference"))
        boxes = data["boxes"]
        rows.append(_row(one.runtime, boxes["b"], score["b"], f"{data['maps'][0]['max_abs']:.1e}",
                         f"{data['verdict']}; {boxes['identical']} boxes identical"))
    if rows:
        click.echo("")
        print_table(f"{IMAGES} drawn images, whose outlines are of lines; the model looks for words",
                    ("runtime", "boxes", "precision", "recall", "f-score", "max |dp|", ""), rows, right=range(1, 6))


def _row(name: str, boxes: int, score: dict[str, Any], apart: str, verdict: str) -> tuple[object, ...]:
    return (name, boxes, *(f"{score[key]:.4f}" for key in ("precision", "recall", "fscore")), apart, verdict)
