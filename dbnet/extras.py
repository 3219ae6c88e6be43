"""Optional packages: imported when a command needs them, and asked for in one line when they are missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from dbnet.errors import DbnetError

#: import name -> (extra of this distribution, what it is needed for)
OPTIONAL = {
    "torch": ("torch", "the PyTorch half"),
    "mindspore": ("mindspore", "the MindSpore half"),
    "onnxruntime": ("onnxruntime", "running .onnx files"),
}


def installed(module: str) -> bool:
    """True if `module` can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # refused by an import hook, or half taken out of sys.modules
        return False


def require(module: str) -> ModuleType:
    """Imports an optional package.

    Raises DbnetError, naming the extra to install, if it is missing or broken.
    """
    extra, purpose = OPTIONAL[module]
    if not installed(module):
        raise DbnetError(f"{module} is not installed, and {purpose} needs it: pip install 'dbnet-parity[{extra}]'")
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, AttributeError) as error:
        raise DbnetError(f"{module} is installed but does not import ({error}); reinstall it: "
                         f"pip install --force-reinstall 'dbnet-parity[{extra}]'") from error
