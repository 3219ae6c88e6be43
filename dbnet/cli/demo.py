"""dbnet demo"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from dbnet.cli.demo_model import HEIGHT, IMAGES, WEIGHTS, WIDTH, boxes_of, embedded_spec
from dbnet.cli.options import PathArgument, print_table


@click.command()
@click.option("--out", type=PathArgument, default=Path("reports/demo"), show_default=True,
              help="Folder of the report; what the last demo wrote there is replaced.")
def demo(out: Path) -> None:
    """Convert an embedded model ckpt -> pth -> onnx -> ckpt, run it in every installed runtime, compare, and report.

    Exit code 1 if the runtimes or the weights differ. The embedded model is small and was trained for minutes.
    """
    from converters.compare_weights import compare_weights
    from converters.convert import load_model
    from dbnet.cli.demo_report import write_report
    from parity.compare import table
    files, said = _convert(_empty(out))
    weights = compare_weights(load_model(files[0]), load_model(files[-1]))
    for line in said:
        click.echo(line)
    click.echo(f"ckpt -> pth -> onnx -> ckpt: {weights.identical} tensors identical, "
               f"{len(weights.different)} different")
    outputs, missing = _run(files)
    comparisons = _compare(outputs)
    for pair, rows in comparisons.items():
        click.echo(f"\n{pair}, {IMAGES} images of {HEIGHT}x{WIDTH}, differences relative to each stage's largest value")
        click.echo(table(rows))
    for name in missing:
        click.echo(f"{name}: not installed, not compared")
    boxes = _compare_boxes(outputs)
    for line in boxes.values():
        click.echo(line)
    same = weights.same and all(row.passed for rows in comparisons.values() for row in rows) and all(
        "unexplained" not in line for line in boxes.values())
    scores = _scores(outputs)
    click.echo("")
    print_table(f"F-score on {IMAGES} drawn images, whose outlines are of lines; the model looks for words",
                ("runtime", "boxes", "precision", "recall", "f-score"),
                [(name, s["boxes"], *(f"{s[k]:.4f}" for k in ("precision", "recall", "fscore")))
                 for name, s in scores.items()], right=(1, 2, 3, 4))
    report = write_report(out, said, weights, outputs, comparisons, list(boxes.values()), scores, missing, same)
    verdict = "DIFFERENT" if not same else "the same model everywhere" if len(outputs) > 1 else \
        "the weights are identical; with fewer than two runtimes installed there was nothing else to compare"
    click.echo(f"{verdict}; report: {report}")
    if not same:
        raise click.exceptions.Exit(1)


def _empty(out: Path) -> Path:
    """The folder, without what an earlier demo left; other files in it stay."""
    from dbnet.errors import DbnetError
    try:
        out.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(out / "models", ignore_errors=True)
        (out / "models").mkdir()
    except OSError as error:
        raise DbnetError(f"{out}: cannot be written ({error.strerror}); choose another folder with --out") from error
    return out / "models"


def _convert(folder: Path) -> tuple[list[Path], list[str]]:
    from converters.convert import convert, describe
    files, said = [WEIGHTS], []
    for name in ("embedded.ckpt", "hop1.pth", "hop2.onnx", "hop3.ckpt"):
        done = convert(files[-1], folder / name)
        said.append(describe(done)[0])
        files.append(done.target)
    return files[1:], said


def _run(files: list[Path]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """runner -> stages, each runner on the file of its own framework; and the runners that are not installed."""
    from dataclasses import replace

    import numpy as np

    from dbnet.datasets.drawn import draw
    from dbnet.extras import installed
    from dbnet.preprocess import prepare
    from dbnet.spec import STAGES
    from evaluation.runners import open_runner
    pixels = replace(embedded_spec().pixels, size=(HEIGHT, WIDTH))
    images = np.concatenate([prepare(draw(i, HEIGHT, WIDTH)[0], pixels).tensor for i in range(IMAGES)])
    outputs, missing = {}, []
    for name, file in (("torch", files[1]), ("mindspore", files[3]), ("onnxruntime", files[2])):
        if installed(name):
            outputs[name] = open_runner(file, runner=name, device="cpu", stages=STAGES).run(images)
        else:
            missing.append(name)
    return outputs, missing


def _compare(outputs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    import itertools

    from parity.compare import compare_stages
    from parity.tolerances import tolerances
    return {f"{a} against {b}": compare_stages(outputs[a], outputs[b], tolerances("cpu"))
            for a, b in itertools.combinations(outputs, 2)}


def _compare_boxes(outputs: dict[str, dict[str, Any]]) -> dict[tuple[str, str], str]:
    """Runner pair -> what there is to say of their boxes."""
    import itertools

    from parity.boxes import compare_boxes
    told = {}
    for a, b in itertools.combinations(outputs, 2):
        found = [compare_boxes(outputs[a]["probability"][i, 0], outputs[b]["probability"][i, 0], embedded_spec().boxes)
                 for i in range(IMAGES)]
        unexplained = sum(f.unexplained for f in found)
        line = f"boxes, {a} against {b}: {sum(f.boxes[0] for f in found)} and {sum(f.boxes[1] for f in found)}"
        line += ", the same" if all(f.same for f in found) else f", {sum(f.unmatched for f in found)} differ"
        told[a, b] = line + (f", {unexplained} of them unexplained" if unexplained else "")
    return told


def _scores(outputs: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    from dataclasses import asdict

    import numpy as np

    from dbnet.datasets.drawn import draw
    from dbnet.sample import Sample
    from evaluation.protocols.table import score
    samples = []
    for i in range(IMAGES):
        polygons = draw(i, HEIGHT, WIDTH)[1]
        samples.append(Sample(Path(f"drawn_{i}.png"), polygons, np.zeros(len(polygons), bool), [""] * len(polygons)))
    scores = {}
    for name, stages in outputs.items():
        found = [boxes_of(stages["probability"][i, 0]) for i in range(IMAGES)]
        scores[name] = {"boxes": sum(map(len, found)), **asdict(score(["rrc"], samples, found)["rrc"].score)}
    return scores
