"""Which codec reads or writes a file: told by its content, and its suffix must agree."""

from __future__ import annotations

import importlib
import re
import stat
from pathlib import Path
from types import ModuleType

from converters.tensor_file import TensorFile
from dbnet.errors import DbnetError

#: format -> suffixes, the first being the usual one.
SUFFIXES = {"ckpt": (".ckpt",), "pth": (".pth", ".pt"), "onnx": (".onnx",), "safetensors": (".safetensors",),
            "pdparams": (".pdparams",), "mindir": (".mindir",)}
#: How MindSpore's encrypted files, .ckpt and .mindir, begin: AES-GCM, AES-CBC, SM4-CBC.
ENCRYPTED_CKPT = (b"\xd8\x5e\x3a\x7f", b"\xd9\x5e\x3a\x7f", b"\xda\x5e\x3a\x7f")
WRITABLE = ("ckpt", "pth", "onnx", "safetensors", "pdparams")
#: Both begin with field 1, a text: of a .ckpt a tensor, whose own field 1 is its name; of a .mindir the version of the
#: format, and then most often who wrote it.
_TENSOR = re.compile(rb"\x0a(?:[\x80-\xff]{0,9}[\x00-\x7f])\x0a", re.DOTALL)
_MODEL = re.compile(rb"\x0a[\x01-\x10][0-9][0-9.]*[\x12\x1a\x22\x2a\x32\x3a]|\x12\x09MindSpore", re.DOTALL)
#: OpenVINO's .xml, in lower case; comments may stand before its root.
_OPENVINO = re.compile(rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<net[\s>]", re.DOTALL)
#: MindSpore Lite's flat buffers, at byte 4.
_LITE = (b"MSL0", b"MSL1", b"MSL2")


def format_of_suffix(path: Path) -> str | None:
    """The format a file name promises, or None."""
    return next((name for name, suffixes in SUFFIXES.items() if path.suffix.lower() in suffixes), None)


def target_format(path: Path) -> str:
    """The format to write. Raises DbnetError for a suffix that cannot be written."""
    name = format_of_suffix(path)
    if name not in WRITABLE:
        known = ", ".join(SUFFIXES[f][0] for f in WRITABLE)
        if name == "mindir":
            raise DbnetError(f"{path}: a .mindir is read, not written; write a .ckpt, load it into "
                             f"ms_models.dbnet.DBNet and call mindspore.export")
        raise DbnetError(f"{path}: cannot write {path.suffix or 'a file without a suffix'}; choose {known}")
    return name


def detect(path: Path) -> str:
    """The format of an existing file by content. Raises DbnetError if it is none, or not what its suffix says."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise DbnetError(f"{path}: is a folder; name the weight file in it")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise DbnetError(f"{path}: is not a regular file; name the weight file")
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise DbnetError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    promised = format_of_suffix(path)
    found = _by_content(head, promised)
    if not head:
        raise DbnetError(f"{path}: is empty; copy or download it again")
    if found is None:
        raise DbnetError(f"{path}: {_looks_like(head)}; a .ckpt, .pth, .onnx, .safetensors, .pdparams or "
                         f".mindir file is needed")
    if promised is not None and found != promised:
        raise DbnetError(f"{path}: named {path.suffix}, but its content is {SUFFIXES[found][0]}; rename it")
    return found


def _by_content(head: bytes, promised: str | None) -> str | None:
    if head[:4] == b"PK\x03\x04":
        return "pth"
    if head[:4] in ENCRYPTED_CKPT:
        return "mindir" if promised == "mindir" else "ckpt"  # whose readers say what to do
    # Before the pickle: the length of a header may well end in 80 hex.
    if head[8:9] == b"{" and head[4:8] == bytes(4):
        return "safetensors"
    if head[:1] == b"\x80":  # a pickle: old torch files and Paddle's differ by name only
        return promised if promised in ("pth", "pdparams") else "pth"
    if _MODEL.match(head):
        return "mindir"
    if head[:1] == b"\x0a" and not _is_markup(head):
        return promised if promised in ("onnx", "mindir") and not _TENSOR.match(head) else "ckpt"
    if head[:1] == b"\x08":
        return "onnx"
    return None


def _is_markup(head: bytes) -> bool:
    """HTML or JSON behind a line feed. A checkpoint may begin so too, but it soon has a byte that no text has."""
    return head.lstrip()[:1] in (b"<", b"{") and all(byte >= 32 or byte in b"\t\r\n" for byte in head)


def _looks_like(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if _OPENVINO.match(text):
        return ("is an OpenVINO model, which runs as it is (--runner openvino) and whose weights, in the .bin beside "
                "it, are not read; take the model that it was made of")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<")):
        return "is a web page, not weights (a download that needs a login or confirmation?)"
    if text.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the file (run git lfs pull)"
    if head[4:8] in _LITE:
        return ("is a model of MindSpore Lite (.ms), whose weights are folded and laid out for a device; take the "
                ".mindir or .ckpt that it was made of")
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar":
        return "is an archive; unpack it first"
    return "is in no format that is known"


def codec(name: str) -> ModuleType:
    """The codec module of a format, imported on demand."""
    return importlib.import_module(f"converters.{name}_file")


def read_file(path: Path) -> TensorFile:
    """Reads any supported file. Raises DbnetError."""
    name = detect(path)
    try:
        file: TensorFile = codec(name).read(path)
    except OSError as error:
        raise DbnetError(f"{path}: cannot be read ({error.strerror})") from error
    return file
