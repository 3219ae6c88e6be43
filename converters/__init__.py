"""One weight map between MindSpore, PyTorch and ONNX, and the file formats on both sides of it."""

from converters.api import convert, load_weights, save_weights

__all__ = ["convert", "load_weights", "save_weights"]
