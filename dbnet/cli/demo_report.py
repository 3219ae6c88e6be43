"""The demo's report: Markdown with pictures beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dbnet.cli.demo_model import HEIGHT, IMAGES, SPEC, WIDTH, boxes_of
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError


def write_report(out: Path, said: list[str], weights: Any, outputs: dict[str, Any], comparisons: dict[str, Any],
                 boxes: list[str], scores: dict[str, dict[str, float]], missing: list[str], same: bool) -> Path:
    """Writes report.md and its pictures into `out` and returns the report's path. Raises DbnetError."""
    from converters.writing import write_text
    from evaluation.evaluate import versions
    from parity.compare import table
    verdict = "The same model everywhere" if len(outputs) > 1 else "Identical weights, nothing else compared"
    lines = [f"# {verdict if same else 'DIFFERENT'}", "",
             f"Embedded `{SPEC}`, trained by this suite (see dbnet/embedded/README.md).", "",
             "## Conversions", ""]
    lines += [f"- {line}" for line in said]
    lines += [f"- first against last: {weights.identical} tensors identical, {len(weights.different)} different", ""]
    lines += ["## Parity, stage by stage", ""]
    for pair, rows in comparisons.items():
        lines += [f"### {pair}", "", "```", table(rows), "```", ""]
    lines += [f"- {line}" for line in boxes]
    lines += [f"- {name}: not installed, not compared" for name in missing]
    lines += ["## Scores", "", "The drawn outlines are of lines, and the model looks for words: a line of two "
              "is mostly missed.", "", "| runtime | boxes | precision | recall | f-score |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {s['boxes']:.0f} | {s['precision']:.4f} | {s['recall']:.4f} | {s['fscore']:.4f} |"
              for name, s in scores.items()]
    lines += ["", "## Pictures", "", "Left: the image with the drawn outlines (green) and the boxes found (red). "
              "Right: the probability map.", ""]
    for name, stages in outputs.items():
        for i in range(IMAGES):
            picture = f"{name}_{i}.png"
            _save(out / picture, _picture(i, stages["probability"][i, 0]))
            lines.append(f"![{name}, image {i}]({picture})")
    lines += ["", "## Versions", "", *(f"- {name} {version}" for name, version in versions().items()), ""]
    write_text(out / "report.md", "\n".join(lines))
    return out / "report.md"


def _picture(index: int, probability: np.ndarray) -> np.ndarray:
    image, polygons = draw(index, HEIGHT, WIDTH)
    cv2.polylines(image, [p.round().astype(np.int32) for p in polygons], True, (0, 200, 0), 2)
    cv2.polylines(image, [d.polygon.round().astype(np.int32) for d in boxes_of(probability)], True, (0, 0, 255), 2)
    heat = cv2.applyColorMap((probability * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    return np.concatenate([image, heat], axis=1)


def _save(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), image):
        raise DbnetError(f"{path}: could not be written; choose another folder with --out")
