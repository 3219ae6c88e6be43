"""Texts spoilt value by value: JSON, YAML, lines of labels and results, XML, and how they are encoded."""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from random import Random
from typing import Any

from evaluation.store import LINE_CRC
from tests.fuzz_bytes import BLIND, NUMBERS, Mutator

#: Bytes that are looked at of what has grown already.
MOST = 2**20
#: In place of a number or a word of a line.
WORDS = ("", " ", "nan", "inf", "-inf", "1e309", "-1e309", "1e-400", "1_000", "0x10", "1e5", "999999.5", "1000001",
         "-0", "9" * 400, "9" * 5000, "1." + "9" * 5000, "\u0663\u0664", "\u00b2", "\uff11", "True", "None", "null",
         "~", "{}", "[]", "[[1,2],[3,4]]", "\"", "'", "\0", "\x1b[2J", "\u2028", "\x85", "\x1c", "\u202e", "\ufeff",
         "\ud800", "####", "###", "*", "#", "Latin", "../../etc/passwd", "/etc/passwd", "%s%n", "{0}", "a" * 3000,
         "1e1e1", "--1", "1,2,3", "1 2 3 4 5", "\t", "\t[]", "0 0 1 1 9 9 0.5")
#: In place of a line.
LINES = ("", "\t", "a.jpg\t[]", "a.jpg\t[[]]", "a.jpg\t" + "[" * 5000, "a.jpg\t" + "{\"a\":" * 5000, "1,1,9,1,9,9,1,9",
         "1,1,9,1,9,9,1,9,text", "1,1,9,1,9,9,1,9,Latin,text",
         "x: [[1 9 9]], y: [[1 1 9]], ornt: [u'c'], transcriptions: [u'a']", "x: [[", "0 0 5 5 9 9 0.3",
         "," * 3000, "1," * 3000, "[" * 20000, "\"" * 1001, "<!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/passwd\">]>",
         "<a>" * 3000, "&lol;", "<?xml version='9'?>", "<box><segs>1,1,9,1,9,9</segs></box>", "%TAG ! tag:x,2000:",
         "--- {}", "a: &a [*a, *a]", "<<: {a: 1}")
#: In place of a value in JSON. Python's own parser takes NaN, which no JSON has.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, *NUMBERS, -2**63, 10**400, float("nan"), float("inf"), "", "a", "0",
    "nan", "9" * 5000, "\0", "\x1b[31m", "\ud800", "a\nb", "x" * 3000, [], {}, [[]], [None], [0] * 700, [[1, 2]] * 200,
    {"": {}}, {"polygon": [[1, 2], [3, 4], [5, 6]], "score": 2}, {"version": 1}, [1, "a", None, {}], "/etc/passwd",
    "dbnet_resnet50", "mindocr", "F16", "BF16", "F8_E4M3", "I64", [2**31, 2**31], [0], [0, 2**60], [-1], [1] * 40)
#: In place of a piece of YAML.
YAML = ("!!python/object/apply:os.system ['touch executed']", "!!python/name:os.system", "!!binary aGFsbG8=",
        "!!set {a, b}", "!!timestamp 2001-99-99", "2001-99-99", "!!int 1e",
        "!!int ''", "!!bool x", "!!float x", "!!float ''", "!!null x", "0o8", "0b2", "190:20:30:99", ".inf",
        ".nan", "&a [*a]", "&b {<<: *b}", "*missing", "{a: 1, a: 2}", "[[[[[[[[[[", "? [a]\n: b", "- - - -", "|\n  a",
        "\"\\ud800\"", "'", "@", "`", "%", "\t", "yes", "on", "!x y", "!<tag:a> b", "{? {a: 1} : 2}", "=", "<<", "..",
        "--- a", "...", "[" + "[" * 2000, "- " * 3000 + "a",
        "{a: " * 2000, "[" * 60000, "- " * 30000, "? " * 30000, "&a " * 20000, "{a, " * 20000, "!" * 60000,
        "a: b\n" * 9000)


def _decoded(data: bytes) -> str:
    return data[:MOST].decode("utf-8", "surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape" if not re.search("[\ud800-\udbff]", text) else "surrogatepass")


def words(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """One or more numbers and words of a text exchanged."""
    text = _decoded(data)
    found = [match.span() for match in re.finditer(r"[-\w.]+", text)] or [(0, 0)]
    for begin, end in sorted(chance.sample(found, min(len(found), chance.choice((1, 1, 2, 9)))), reverse=True):
        text = text[:begin] + chance.choice(WORDS) + text[end:]
    return _encoded(text)


def lines(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Lines exchanged, doubled, left out, joined, or from another file."""
    here = _decoded(data).split("\n")
    for _ in range(chance.choice((1, 1, 2, 5))):
        i = chance.randrange(len(here))
        new = chance.choice((chance.choice(LINES), chance.choice(WORDS), here[chance.randrange(len(here))],
                             chance.choice(_decoded(chance.choice(others)).split("\n")), here[i] * 2,
                             here[i][:chance.randrange(len(here[i]) + 1)]))
        here[i:i + chance.choice((0, 1, 1, 3))] = [new] * chance.choice((1, 1, 1, 2, 300))
        here = here or [""]
    return _encoded("\n".join(here))


def encoded(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Another encoding, other line ends, a byte order mark that is right or wrong."""
    text = data[:MOST].decode("utf-8", "replace")
    kind = chance.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "latin-1", "cp1252", "gbk", "ends"))
    if kind == "ends":
        text = text.replace("\n", chance.choice(("\r", "\r\n", "\u2028", "\n\n", "\0", "\x0b")))
        kind = "utf-8"
    marks = (b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
    return chance.choice(marks) + text.encode(kind, "replace")


# JSON -----------------------------------------------------------------------------------------------------------------


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in nested values."""
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            yield holder, key
            if isinstance(holder[key], (dict, list)):
                waiting.append(holder[key])


def changed(chance: Random, value: Any) -> Any:
    """`value`, which is changed, or something else in its place."""
    if not isinstance(value, (dict, list)) or not value or chance.random() < 0.02:
        return deepcopy(chance.choice(VALUES))
    for _ in range(chance.choice((1, 1, 2, 4))):
        places = list(_places(value))
        if places:
            _change(chance, *chance.choice(places), chance.choice(places))
    return value


def _change(chance: Random, holder: Any, key: Any, place: tuple[Any, Any]) -> None:
    """One value left out, doubled, from another `place`, one more or less, or any other."""
    kind = chance.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        name = chance.choice(("", "a", "\x1b[0m", "x" * 600, "version", "__metadata__", str(key) * 2))
        holder[name] = deepcopy(holder[key])
    elif kind == 2 and isinstance(holder, list):
        holder.insert(key, deepcopy(holder[chance.randrange(len(holder))]))
    elif kind == 3:
        holder[key] = deepcopy(place[0][place[1]])
    elif isinstance(holder[key], int) and not isinstance(holder[key], bool) and chance.random() < 0.5:
        holder[key] += chance.choice((1, -1, 8, 2**32))
    else:
        holder[key] = deepcopy(chance.choice(VALUES))


def in_json(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Values of a JSON text exchanged, keys set twice, or one of its lines where it is made of them."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return json_line(chance, data, others)
    if chance.random() < 0.2:
        return twice(chance, data)
    if chance.random() < 0.05:
        depth = chance.choice((50, 900, 5000, 100_000))
        return chance.choice((b"[" * depth, b"{\"a\":" * depth, b"[" * depth + b"]" * depth))
    return json.dumps(changed(chance, value)).encode()


def json_line(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A line that is JSON, or is behind a tab, changed."""
    here = data[:MOST].split(b"\n")
    i = chance.randrange(len(here))
    path, tab, rest = here[i].rpartition(b"\t")
    try:
        here[i] = path + tab + json.dumps(changed(chance, json.loads(rest))).encode()
    except (ValueError, RecursionError):
        return lines(chance, data, others)
    return b"\n".join(here)


def twice(chance: Random, data: bytes) -> bytes:
    """A key and its value once more, where it stands."""
    found = list(re.finditer(rb'"[^"\\]*": *("[^"\\]*"|[-\d.]+|\[[^][]*\]|\{[^{}]*\})', data))
    if not found:
        return data[:-1]
    match = chance.choice(found)
    return data[:match.end()] + b", " + match.group() + data[match.end():]


def in_yaml(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """A value or a whole line of YAML exchanged for what only YAML has, or its indentation."""
    here = _decoded(data).split("\n")
    i = chance.randrange(len(here))
    key, colon, _ = here[i].partition(":")
    new = chance.choice(YAML)
    bomb = "a0: &a0 [x, x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))
    here[i] = chance.choice((f"{key}{colon} {new}", f"{key}{colon} {new}", " " * chance.randrange(9) + here[i].lstrip(),
                             new, here[i] + "\n" + here[i], bomb, f"{here[i]} {new}", f"{key}{colon} &x",
                             "  " * chance.randrange(9) + f"<<: {new}"))
    return _encoded("\n".join(here))


def resummed(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A line of a store changed, with the checksum that it then has."""
    here = json_line(chance, data, others).split(b"\n")
    for i, line in enumerate(here):
        body, mark, _ = line.rpartition(LINE_CRC)
        if not mark and line.startswith(b"{") and b"line_crc32" in line:  # as `json.dumps` has written it
            body, mark = line[:line.index(b', "line_crc32"')], LINE_CRC
        if mark:
            here[i] = body + mark + b"%d}" % zlib.crc32(body)
    return b"\n".join(here)


LINE_TEXT: tuple[Mutator, ...] = (words, words, words, lines, lines, encoded, *BLIND[:4])
JSON: tuple[Mutator, ...] = (in_json, in_json, in_json, in_json, words, lines, encoded, *BLIND[:4])
JSON_LINES: tuple[Mutator, ...] = (json_line, json_line, json_line, words, lines, encoded, *BLIND[:4])
STORE: tuple[Mutator, ...] = (resummed, resummed, resummed, resummed, *JSON_LINES)
YAML_TEXT: tuple[Mutator, ...] = (in_yaml, in_yaml, in_yaml, words, lines, encoded, *BLIND[:4])
