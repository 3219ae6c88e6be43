"""The protocol of ICDAR 2017 MLT (rrc.cvc.uab.es, challenge 8, task 1, `TL_iou_MLT_1_0.py` of 2017-04-18).

Read in public copies, one of them in facebookresearch/MultiplexedOCR (multiplexer/evaluation/mlt19/task1): matching,
the rule for ignored texts, both thresholds of 0.5 and the cut to integers are those of ICDAR 2015 (`rrc`). What differs
does not touch the F-score: labels name a script, by which texts can be chosen (all by default); every detection has a
confidence, from which average precision is computed, but all of them count, and match in the order of the file.
"""

from __future__ import annotations

from evaluation.protocols import Protocol, rrc

PROTOCOLS = (Protocol("mlt2017", "ICDAR 2017 MLT, official, task 1 (the rules of ICDAR 2015)",
                      rrc.PROTOCOLS[0].thresholds, rrc.count),)
