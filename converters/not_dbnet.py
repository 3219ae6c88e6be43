"""Networks that are known by their names and not read: what each is, and why no exact conversion exists. Data only.

Sources: docTR `models/detection/differentiable_binarization/pytorch.py`; PaddleOCR `ppocr/modeling/backbones/`
`det_resnet_vd.py`, `rec_lcnetv3.py`, `rec_hgnet.py`, `necks/{db_fpn,fpn}.py`, `heads/det_fce_head.py`; MMOCR 1.0.1
`models/textdet`; MindOCR `necks/fpn.py`, `heads/det_{east,pse,fce}_head.py`; WenmuZhou/DBNet.pytorch `models/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NO_DBNET = "is no DBNet"


@dataclass(frozen=True)
class Known:
    """patterns: each must be found somewhere among the names. what: the network. why: no exact conversion exists."""

    what: str
    patterns: tuple[str, ...]
    why: str


#: In this order: the first whose patterns are all found is named.
KNOWN = (
    Known("WenmuZhou's DBNet.pytorch", (r"\bneck\.reduce_conv_c5\.", r"\bhead\.(binarize|thresh)\."),
          "its neck has batch norms and smoothing convolutions"),
    # These share necks and backbones with the DBNets below.
    Known("FCENet", (r"\b(bbox_head|det_head|head)\.out_conv_(cls|reg)\.",), _NO_DBNET),
    Known("PSENet", (r"\b(neck\.(reduce_conv_c2|output_convs|fpn)|(neck|fpn)\.(toplayer|latlayer\d)_)\.",), _NO_DBNET),
    Known("TextSnake or DRRG", (r"\bneck\.up_block\d\.",), _NO_DBNET),
    Known("docTR's DBNet", (r"\bfeat_extractor\.", r"\b(fpn\.(in|out)_branches|prob_head|thresh_head)\."),
          "its feature pyramid and head are built otherwise (batch norms and dilation in the pyramid)"),
    Known("a DBNet with LKPAN (PP-OCRv3's teacher and server)", (r"\bneck\.pan_(head|lat)_conv\.",),
          "its neck has 9x9 convolutions and a second, bottom-up path"),
    Known("a DBNet with ResNet-vd (PaddleOCR's R18_vd, R50_vd)", (r"\bbackbone\.(conv1_[123]|bb_\d+_\d+)\.",
                                                                   r"\bhead\.(binarize|thresh)\."),
          "its stem is three 3x3 convolutions and its shortcuts take averages, which the ResNets here do not"),
    Known("a DBNet with PP-LCNetV3 (PP-OCRv4 and v5 mobile)",
          (r"\bbackbone\.blocks[2-6]\.\d+\.(dw|pw)_conv\.(lab|conv_kxk|act\.lab)",),
          "its backbone is re-parameterised with learnable affine blocks"),
    Known("a DBNet with PP-HGNet (PP-OCRv4 and v5 server)",
          (r"\bbackbone\.stem\.", r"\bbackbone\.stages\.\d+\.(blocks|downsample)\."),
          "its backbone is no ResNet"),
    Known("MMOCR's DBNet++", (r"\bneck\.asf_(conv|attn)\.",),
          "its adaptive scale fusion works on 256 channels, that of the DBNet++ here on 64"),
    Known("a DBNet with an oCLIP ResNet (MMOCR)", (r"\bbackbone\.bn3\.", r"\bbackbone\.(layer1\.0\.)?downsample|"
                                                   r"\bbackbone\.layer1\.0\.", r"_head\.binarize\."),
          "its stem is three 3x3 convolutions, it takes averages in place of strides"),
    Known("MMOCR's DBNet with a convolution after the joined maps", (r"\bneck\.out_conv\.",),
          "the neck here ends with the joined maps"),
    Known("MMOCR's DBNet with batch norms in its neck", (r"\bneck\.(lateral|smooth)_convs\.\d+\.bn\.",),
          "the neck here has none"),
    Known("EAST", (r"\b(head|neck)\.(score|geo|f_score|f_geo|det_conv)\w*\.",), _NO_DBNET),
    Known("EAST (MindOCR)", (r"\bneck\.conv7\.", r"\bhead\.(conv1|conv2|conv3)\."), _NO_DBNET),
    Known("PANet", (r"\bneck\.(fpems|reduce_layers)\.",), _NO_DBNET),
    Known("SAST", (r"\bneck\.cab\.", r"\bhead\.head[12]\."), _NO_DBNET),
    Known("CRAFT", (r"\bbasenet\.slice\d",), _NO_DBNET),
    Known("a recogniser of text", (r"\b(head|predictor|decoder)\.(ctc|fc|dense|attention|rnn|embedding)\w*\.|"
                                   r"\b(neck\.encoder\w*|decoder\.decoder)\.",), _NO_DBNET),
)
#: ResNet's depth by the number of blocks in layer3 and layer1, as far as it is not built here.
_DEPTHS = {(23, 3): 101, (36, 3): 152, (6, 3): 34}
#: The branch that every DBNet has, in all the names that are read.
_BRANCH = re.compile(r"\b(segm|binarize)\.")


def recognised(names: Iterable[str], strange: bool = True) -> str | None:
    """What a file is and why it cannot be read, in one phrase, or None if nothing is known about it.

    strange: False if it nearly fits a DBNet that is read; then only its own kin are looked for, unless it has no head
    of a DBNet: a ResNet-50 outweighs all else in any detector.
    """
    text = "\n".join(names)
    strange = strange or not _BRANCH.search(text)
    for known in KNOWN:
        if (strange or known.why != _NO_DBNET) and all(re.search(pattern, text) for pattern in known.patterns):
            return f"is {known.what}: {known.why}"
    return _deeper(text)


def _deeper(text: str) -> str | None:
    counts = [len(set(re.findall(rf"\bbackbone\.layer{layer}\.(\d+)\.", text))) for layer in (3, 1)]
    depth = _DEPTHS.get((counts[0], counts[1]))
    bottleneck = bool(re.search(r"\bbackbone\.layer1\.0\.conv3\.", text))
    if depth is None or (depth == 34) == bottleneck:
        return None
    return f"has a ResNet-{depth}: ResNet-18 and ResNet-50 are built here, nothing else"
