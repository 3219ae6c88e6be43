"""The seed's recipes from their flattened form, `[name]` and `key = value` lines, back to YAML."""

from __future__ import annotations

import json
import re
from typing import Any

#: Keys whose values the flattened form leaves out, for they are paths of one machine.
PATHS = ("dataset_root", "data_dir", "label_file")


def sections(text: str) -> dict[str, dict[str, str]]:
    """recipe -> dotted path -> value as text."""
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            settings = found.setdefault(line.strip("[]"), {})
        elif line.strip():
            path, _, value = line.partition(" = ")
            settings[path] = value
    return found


def shown(output: str) -> dict[str, tuple[str, str]]:
    """dotted path -> (value as text, origin) of what `dbnet recipe show` prints."""
    matches = [re.fullmatch(r"(\S+) = (.*?)  # (.*)", line) for line in output.splitlines()[1:]]
    return {match[1]: (match[2], match[3]) for match in matches}


def without_paths(values: dict[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in values.items() if path.rpartition(".")[2] not in PATHS}


def to_yaml(settings: dict[str, str]) -> str:
    """A file as MindOCR writes it: sections in blocks, `Name:` for an operation without arguments."""
    tree: dict[str, Any] = {}
    for path, value in settings.items():
        *parents, name = re.sub(r"\[\d+\]$", "", path).split(".")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        if path.endswith("]"):
            inner.setdefault(name, []).append(value)
        else:
            inner[name] = "null" if value == "None" else value
    return "\n".join(_lines(tree, "")) + "\n"


def _lines(tree: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for name, value in tree.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list):
            lines.append(f"{indent}{name}:")
            for operation in value:
                word, _, arguments = operation.partition(" ")
                lines.append(f"{indent}  - {word}:")
                lines += [f"{indent}      {key}: {json.dumps(item)}"
                          for key, item in json.loads(arguments or "{}").items()]
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines
