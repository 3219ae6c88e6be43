"""Target openvino: OpenVINO's own pair of files, .xml and .bin, or an .onnx, which OpenVINO reads too."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from converters.delivery_note import BIN_KEY, DELIVERY_KEY, texts_of
from converters.load import LoadedModel
from dbnet.errors import DbnetError, short
from dbnet.extras import require
from dbnet.record import RECORD_KEY
from evaluation.delivery.common import write_onnx
from evaluation.delivery.refused import RefusedError
from evaluation.delivery.settings import Delivered, ExportSettings


def write(model: LoadedModel, out: Path, settings: ExportSettings) -> Delivered:
    """Record and note of the model and the sha256 of the .bin go into the .xml as rt_info; what the files hold is what
    the settings say, nothing is compressed besides. Raises DbnetError; RefusedError, which has the .onnx, if OpenVINO
    does not read that.
    """
    if out.suffix.lower() == ".onnx":
        return write_onnx(model, out, settings)
    openvino: Any = require("openvino")
    with tempfile.TemporaryDirectory(prefix=".dbnet-", dir=out.parent) as folder:
        source = Path(folder) / f"{out.stem}.onnx"
        delivered = write_onnx(model, source, settings)
        try:
            read = openvino.Core().read_model(source)
        except RuntimeError as error:
            raise RefusedError("openvino", f"OpenVINO {openvino.__version__}", str(error), source.read_bytes(),
                               ".onnx") from error
        texts = texts_of(source)
        for key, name in ((RECORD_KEY, "record"), (DELIVERY_KEY, "delivery")):
            if key in texts:
                read.set_rt_info(texts[key], ["dbnet", name])
        for _ in range(2):  # the .bin is known when it is written
            try:
                openvino.save_model(read, out, compress_to_fp16=False)
            except RuntimeError as error:
                raise DbnetError(f"{out.name}: OpenVINO could not write it: {short(error)}") from error
            texts[BIN_KEY] = hashlib.sha256(out.with_suffix(".bin").read_bytes()).hexdigest()
            read.set_rt_info(texts[BIN_KEY], ["dbnet", "bin_sha256"])
    if texts_of(out) != texts:
        raise DbnetError(f"{out.name}: OpenVINO did not write the record that it was given; nothing was written")
    return replace(delivered, path=out, files=(out, out.with_suffix(".bin")))
