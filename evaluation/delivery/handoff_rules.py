"""The resize rules and box rules of `dbnet`, written out for people who have nothing of ours: in words, Python, C++.

Python's lines are run by the hand-off's verify.py and compared with `dbnet.preprocess` by the tests; C++'s compiled.
"""

from __future__ import annotations

from dataclasses import dataclass

from dbnet.spec import ALL_CANDIDATES, STRIDE, BoxRule, PixelFormat

_ROUND_PY = f"max(round(int({{side}} * ratio) / {STRIDE}) * {STRIDE}, {STRIDE})"
_ROUND_CPP = f"std::max(int(std::nearbyint(int({{side}} * ratio) / {STRIDE}.0)) * {STRIDE}, {STRIDE})"


@dataclass(frozen=True)
class Resize:
    """words: for people. python, cpp: statements that set `new_height` and `new_width` from `height` and `width`."""

    words: str
    python: tuple[str, ...]
    cpp: tuple[str, ...]


def resize_of(pixels: PixelFormat) -> Resize:
    """The rule of a pixel format, with its numbers in place."""
    rows, columns = pixels.size
    rule = pixels.resize
    if rule == "stretch":
        return Resize(f"every image becomes {rows} high and {columns} wide, whatever its shape",
                      (f"new_height, new_width = {rows}, {columns}",),
                      (f"const int new_height = {rows}, new_width = {columns};",))
    if rule == "short_side":
        return _short_side(rows)
    if rule == "fit_pad_after":
        return _fitted(rows, columns)
    if rule == "grid":
        return Resize(f"each side is enlarged to the next multiple of {STRIDE}",
                      (f"new_height, new_width = -(-height // {STRIDE}) * {STRIDE}, -(-width // {STRIDE}) * {STRIDE}",),
                      (f"const int new_height = (height + {STRIDE - 1}) / {STRIDE} * {STRIDE};",
                       f"const int new_width = (width + {STRIDE - 1}) / {STRIDE} * {STRIDE};"))
    words, python, cpp = _ratio(pixels)
    sides = [template.format(side=side) for template in (_ROUND_PY, _ROUND_CPP) for side in ("height", "width")]
    return Resize(f"{words}; both sides are cut to whole pixels and then rounded to a multiple of {STRIDE}, halves to "
                  f"the even multiple",
                  (f"ratio = {python}", f"new_height = {sides[0]}", f"new_width = {sides[1]}"),
                  (f"const double ratio = {cpp};", f"const int new_height = {sides[2]};",
                   f"const int new_width = {sides[3]};"))


def _ratio(pixels: PixelFormat) -> tuple[str, str, str]:
    rows, columns = pixels.size
    if pixels.resize in ("short_side_min", "limit_min"):
        return (f"enlarged until the shorter side is {rows}, never shrunk", f"max(1.0, {rows} / min(height, width))",
                f"std::max(1.0, {rows}.0 / std::min(height, width))")
    if pixels.resize == "limit_max":
        return (f"shrunk until the longer side is {rows}, never enlarged", f"min(1.0, {rows} / max(height, width))",
                f"std::min(1.0, {rows}.0 / std::max(height, width))")
    return (f"scaled to fit into {rows} high and {columns} wide, keeping its shape",
            f"min({rows} / height, {columns} / width)",
            f"std::min({rows}.0 / height, {columns}.0 / width)")


def _short_side(short: int) -> Resize:
    return Resize(f"the shorter side becomes {short} (the width of a square image), the longer one keeps the shape and "
                  f"is rounded up to a multiple of {STRIDE}; on float32, not rounded to 8 bits again",
                  ("if height < width:",
                   f"    new_height, new_width = {short}, "
                   f"math.ceil({short} / height * width / {STRIDE}) * {STRIDE}",
                   "else:",
                   f"    new_height, new_width = math.ceil({short} / width * height / {STRIDE}) * {STRIDE}, {short}"),
                  (f"const int longer = int(std::ceil({short}.0 / std::min(height, width) * std::max(height, width) / "
                   f"{STRIDE})) * {STRIDE};",
                   f"const int new_height = height < width ? {short} : longer;",
                   f"const int new_width = height < width ? longer : {short};"))


def _fitted(rows: int, columns: int) -> Resize:
    low, high = min(rows, columns), max(rows, columns)
    return Resize(f"scaled, keeping its shape, until the shorter side is {low} or the longer one {high}, whichever "
                  f"comes first; sides are rounded to whole pixels, halves up",
                  (f"ratio = min({high} / max(height, width), {low} / min(height, width))",
                   "new_height, new_width = int(height * ratio + 0.5), int(width * ratio + 0.5)"),
                  (f"const double ratio = std::min({high}.0 / std::max(height, width), "
                   f"{low}.0 / std::min(height, width));",
                   "const int new_height = int(height * ratio + 0.5), new_width = int(width * ratio + 0.5);"))


def padding_of(pixels: PixelFormat) -> str | None:
    """What is put around the resized image, for people; None if nothing."""
    if pixels.resize == "keep_ratio_pad":
        return (f"to the right and below with black (0, before normalisation), to {pixels.size[0]} high and "
                f"{pixels.size[1]} wide")
    if pixels.resize == "fit_pad_after":
        return f"to the right and below with 0 after normalisation, to the next multiple of {STRIDE}"
    return None


def steps_of(boxes: BoxRule) -> list[str]:
    """The box rule in words, step by step."""
    if boxes.rule == "opencv":
        return _steps_of_opencv(boxes)
    polygons = boxes.box_type == "poly" or boxes.rule == "mmocr"
    epsilon = {"mindocr": 0.005, "mmocr": 0.01}.get(boxes.rule, 0.002)
    what = "the simplified contour" if polygons else "that rectangle"
    steps = [f"text is where the map is {'at least' if boxes.rule == 'mindocr' else 'above'} {boxes.binary_thresh:g}"]
    if boxes.dilation:
        steps.append("text grows by one pixel to the right and down: cv2.dilate(bitmap, np.ones((2, 2)))")
    most = boxes.max_candidates + (boxes.rule == "mmocr")
    steps.append(f"cv2.findContours(RETR_LIST, CHAIN_APPROX_SIMPLE); the first {most} contours")
    if polygons:
        steps.append(f"each is simplified: cv2.approxPolyDP with {epsilon:g} of its length; fewer than 4 corners: none")
    else:
        steps.append("the smallest rectangle of each (cv2.minAreaRect); one with a side below 3 pixels is dropped")
    steps += [f"score: the mean of the map over {_scored(boxes, what)}; below {boxes.box_thresh:g} it is dropped",
              f"{what} is cut to whole pixels and grown by area * {boxes.unclip_ratio:g} / perimeter with round "
              f"corners (pyclipper: JT_ROUND, ET_CLOSEDPOLYGON; area and perimeter of what is not cut yet)"]
    if boxes.box_type == "quad":
        steps.append("the smallest rectangle of that; one with a side below 5 pixels is dropped")
    elif boxes.rule != "mmocr":
        steps.append("dropped if its smallest rectangle has a side below 5 pixels")
    return [*steps, _placed(boxes)]


def _steps_of_opencv(boxes: BoxRule) -> list[str]:
    return [
        f"text is where the map is above {boxes.binary_thresh:g}",
        f"cv2.findContours(RETR_LIST, CHAIN_APPROX_SIMPLE); "
        f"{'all' if boxes.max_candidates == ALL_CANDIDATES else f'the first {boxes.max_candidates}'} contours",
        f"score: the mean of the map over the inside of the contour (cv2.fillPoly); below {boxes.box_thresh:g} it is "
        f"dropped",
        "the contour is scaled to the image, x * float32(width / resized width), y alike, and cut to whole pixels",
        "its smallest rectangle (cv2.minAreaRect), dropped if min(height / x scale, width / y scale) is below 3; width "
        "and height are exchanged if it is higher than wide or turned by 60 degrees or more",
        f"its corners are rounded, its sides pushed out by area * {boxes.unclip_ratio:g} / perimeter, the new corners "
        f"are where they meet, rounded; from the bottom left clockwise; not clipped to the image. Where the image was "
        f"padded, all this is done in the padded image, and the corners are scaled to the image afterwards. This is "
        f"cv2.dnn.TextDetectionModel_DB, setBinaryThreshold({boxes.binary_thresh:g}), "
        f"setPolygonThreshold({boxes.box_thresh:g}), setUnclipRatio({boxes.unclip_ratio:g}), "
        f"setMaxCandidates({boxes.max_candidates})"]


def _scored(boxes: BoxRule, what: str) -> str:
    if boxes.rule == "mindocr":
        return "the text pixels in the contour's upright bounds"
    if boxes.score_mode == "slow" and boxes.box_type == "quad":
        return "the inside of the contour (cv2.fillPoly)"
    return f"the inside of {what}, its corners cut to whole pixels (cv2.fillPoly)"


def _placed(boxes: BoxRule) -> str:
    if boxes.rule == "mmocr":
        return ("x * (1 / (resized width / width)), y alike; neither rounded nor clipped; corners in cv2.boxPoints' "
                "order")
    last = "width - 1" if boxes.rule == "mindocr" else "width"
    way = "x / float32(resized width / width)" if boxes.rule == "mindocr" else "x / resized width * width"
    order = "" if boxes.box_type == "poly" else "; corners from the top left clockwise"
    return f"{way}, rounded (halves to even), clipped to 0..{last}; y alike{order}"
