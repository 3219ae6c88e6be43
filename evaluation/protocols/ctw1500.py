"""SCUT-CTW1500 (Liu et al. 2017, arXiv 1712.02170): curved text lines as polygons, matched by overlap.

A detection matches a text if their intersection over union is above 0.5, one to one. Two scripts are in use and print
the same figures: the data set's own (SCUT-CTW1500, `ctw1500_evaluation`: every detection asks for the text that it
covers best) and the conventional half of Yuliang-Liu/TIoU-metric's `curved-tiou` (every text takes the first free
detection, in the order of the files). This is the second, for it knows texts that nobody cares about (`###`, of which
CTW1500 has none, Total-Text many): they and the detections of which more than half lies on one of them are left out.
It differs from the official script of ICDAR 2015 in one thing: fractions of a pixel count.

Polygons that cross themselves take part, as they do there: they cover what lies inside them by the even-odd rule and
have the area of the shoelace formula. (The data set's own script passes over them, as if they had not been found.)
PSENet's and PAN's copies of the script match from 0.5 on, the bound included.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from evaluation.protocols import Protocol, rrc
from evaluation.protocols.matching import IGNORED_ABOVE, IOU_ABOVE

#: Counts of each image, as `evaluation.protocols.CountFunction` says.
count = partial(rrc.count, convert=partial(np.asarray, dtype=np.float64))

PROTOCOLS = (Protocol("ctw1500", "SCUT-CTW1500, polygons", {"IoU >": IOU_ABOVE, "ignored >": IGNORED_ABOVE}, count),)
