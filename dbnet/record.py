"""The record: what a weight file alone does not know, as one line of JSON that every format we write carries.

Carriers: .pth `state_dict._metadata["dbnet"]`, .ckpt and .pdparams a `str` entry named "dbnet", safetensors
`__metadata__["dbnet"]`, .onnx `metadata_props["dbnet"]`, .mindir `user_info["dbnet"]`.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from typing import Any, get_args, get_type_hints

from dbnet.errors import DbnetError, short, shown
from dbnet.spec import ALL_CANDIDATES, BoxRule, ModelSpec, PixelFormat, get_spec, with_semantics

#: The key under which each carrier holds the record.
RECORD_KEY = "dbnet"
RECORD_VERSION = 1
#: Of a number in a file, but for `max_candidates`: sides of images, which take memory, and thresholds.
LARGEST = 1e6


@dataclass(frozen=True)
class Record:
    """spec: what the weights compute, with pixel format and box defaults; origin: whose semantics these are (a dialect
    of `converters.dialects`); sha256: digest of the weights (`converters.weights.digest`), None before it is known.
    """

    spec: ModelSpec
    origin: str
    sha256: str | None = None

    def to_json(self) -> str:
        """One line, keys sorted: equal records are equal texts."""
        return json.dumps({
            "version": RECORD_VERSION, "spec": self.spec.name, "semantics": _semantics(self.spec),
            "pixels": asdict(self.spec.pixels), "boxes": asdict(self.spec.boxes),
            "origin": self.origin, "sha256": self.sha256}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> Record:
        """Reads what `to_json` wrote; `where` names the file in errors.

        Raises DbnetError if the text is not such a record: it came with a file and is not trusted.
        """
        try:
            data = json.loads(text)
            if not isinstance(data, dict):
                raise TypeError("not an object")
            if data["version"] != RECORD_VERSION:
                raise DbnetError(f"{where}: its record has version {shown(data['version'])}, this dbnet reads "
                                 f"{RECORD_VERSION}; update dbnet-parity")
            spec = with_semantics(get_spec(_typed(data["spec"], str)), dict(data["semantics"]))
            spec = replace(spec, pixels=read_fields(PixelFormat, data["pixels"]),
                           boxes=read_fields(BoxRule, data["boxes"]))
            sha256 = data["sha256"]
            return cls(spec, _typed(data["origin"], str), None if sha256 is None else _typed(sha256, str))
        except DbnetError as error:
            raise DbnetError(f"{where}: its record cannot be used: {error}") from error
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise DbnetError(f"{where}: its record is damaged ({type(error).__name__}: {short(error)}); "
                             f"convert the original file again") from error


def _semantics(spec: ModelSpec) -> dict[str, Any]:
    """The semantics without fields that came later, where they are as they always were: earlier versions read these."""
    known = get_spec(spec.name)
    silent = {field.name for field in fields(ModelSpec) if field.default is not MISSING
              and getattr(spec, field.name) == getattr(known, field.name) == field.default}
    return {name: value for name, value in spec.semantics().items() if name not in silent}


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{shown(value)} is not a {kind.__name__}")
    return value


def read_fields(kind: type, data: Any) -> Any:
    """An instance of a flat dataclass, every value checked against its type. Raises TypeError, ValueError, KeyError."""
    hints = _hints(kind)
    needed = {field.name for field in fields(kind) if field.default is MISSING}  # the others came with later versions
    if not needed <= set(data) <= set(hints):
        raise ValueError(f"{kind.__name__} has {sorted(hints)}, the file {sorted(data)}")
    return kind(**{name: _value(hints[name], value, ALL_CANDIDATES if name == "max_candidates" else LARGEST)
                   for name, value in data.items()})


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Compiles our annotations, which is done once and never while a stranger's file is read."""
    return get_type_hints(kind)


def _value(hint: Any, value: Any, largest: float) -> Any:
    choices = get_args(hint)
    if hint is bool:
        return bool(_typed(value, bool))
    if hint in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{shown(value)} is not a number")
        number = hint(value)
        if number != value or not abs(number) <= largest:
            raise ValueError(f"{shown(value)} is out of range")
        return number
    if choices and isinstance(choices[0], type):  # a tuple of numbers
        if not isinstance(value, list) or len(value) != len(choices):
            raise TypeError(f"{shown(value)} is not a list of {len(choices)} numbers")
        return tuple(_value(kind, item, largest) for kind, item in zip(choices, value, strict=True))
    if value not in choices:
        raise ValueError(f"{shown(value)} is not one of {choices}")
    return value
