"""Ascend's converters as programs: what they take is written beside the target, and they are run where they are.

Neither converter_lite nor ATC was run with this: there was no machine that has them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from converters.writing import write_text
from dbnet.errors import DbnetError, escaped, short

#: Seconds for a conversion: with many sizes CANN compiles each of them.
PATIENCE = 3600.0
#: How a chip is called by ATC: Ascend310, Ascend310P3, Ascend910B4, Ascend910_9391.
_CHIP = re.compile(r"Ascend\d{3}\w*", re.ASCII)
#: The same in a table of npu-smi, which leaves Ascend out in some versions.
_LISTED = re.compile(r"\b(?:Ascend\s*)?((?:310|910|610|950)[A-Z0-9_]*)\s*$", re.ASCII | re.MULTILINE)
#: Lines of an output that say what went wrong: CANN's errors have numbers.
_TELLING = re.compile(r"\bE[0-9A-Z]\d{4}\b|\bERROR\b|\bFAILED\b|\bfailed\b|\berror\b")


@dataclass(frozen=True)
class Tool:
    """program: its name. owner: what it comes with. success: what it prints when it is done; its exit code may be 0
    without.
    """

    program: str
    owner: str
    success: str


@dataclass(frozen=True)
class Conversion:
    """One run. arguments: without the program and the output, which `output` names, without its suffix; {} in there is
    where the finished file will be. needed: files that it reads, by their names, in the target's folder. sidecar: says
    by its sha256 which file it belongs to, see `sealing`.
    """

    tool: Tool
    arguments: tuple[str, ...]
    output: str
    script: Path
    needed: tuple[Path, ...]
    sidecar: Path | None = None

    def shell(self, target: Path, more: str = "") -> str:
        """A script for the host that has the converter; it works wherever its folder is copied to. more: an argument
        that is quoted already.
        """
        command = " \\\n  ".join([self.tool.program, *map(shlex.quote, self.arguments), *([more] if more else []),
                                  self.output + shlex.quote(target.stem)])
        return ("#!/bin/sh\n"
                f"# Makes {escaped(target.name)} of {escaped(self.needed[0].name)}, on a host that has "
                f"{self.tool.owner}.\n"
                f'cd "$(dirname "$0")" || exit 3\n'
                + (command + "\n" if self.sidecar is None else sealing(self.tool, command, target, self.sidecar)))


def sealing(tool: Tool, command: str, target: Path, sidecar: Path) -> str:
    """The command in a script that also writes the file's sha256 into the sidecar, on its line `"file"`. An earlier
    file is removed first: it would pass for the new one where the converter fails with exit code 0.
    """
    out, about = shlex.quote(f"./{target.name}"), shlex.quote(f"./{sidecar.name}")
    return (f"command -v {tool.program} > /dev/null || {{ echo '{tool.program} is not on the PATH' >&2; exit 3; }}\n"
            f"rm -f {out}\n{command} || exit\n"
            f"[ -f {out} ] || {{ echo '{tool.program} wrote no file' >&2; exit 1; }}\n"
            f"sum=$(sha256sum < {out}) || exit\n"
            f"""sed "s/^ \\"file\\": [^,]*/ \\"file\\": \\"${{sum%% *}}\\"/" {about} > {about}.new &&\n"""
            f"  mv -f {about}.new {about}\n")


def beside(out: Path, end: str) -> Path:
    """A file that belongs to `out`: model.mindir -> model.END."""
    return out.with_name(f"{out.stem}.{end}")


def write_script(conversion: Conversion, target: Path, more: str = "") -> None:
    """Writes the script. Raises DbnetError."""
    write_text(conversion.script, conversion.shell(target, more))
    os.chmod(conversion.script, conversion.script.stat().st_mode | 0o111)


def by_hand(conversion: Conversion, why: str, argument: str = "") -> str:
    """What to tell of the target where the conversion was not made: the user asked for a file that is not there.
    argument: that the script needs.
    """
    kept = ", ".join(path.name for path in (*conversion.needed, conversion.script))
    return (f"is not there yet: {why}; what it is made of was written beside it ({kept}): copy these to a host with "
            f"{conversion.tool.owner} and run there: {run_by_hand(conversion.script, argument)}")


def run_by_hand(script: Path, argument: str = "") -> str:
    """The command, to be copied into a shell."""
    return " ".join(["sh", shlex.quote(script.name), *([argument] if argument else [])])


def convert(conversion: Conversion, target: Path) -> str | None:
    """Runs the converter; `target` is there then, whole. Why not, if it is not installed or fails; else None."""
    tool, graph = conversion.tool, conversion.needed[0].name
    program = shutil.which(tool.program)
    if program is None:
        return f"{tool.program} is not installed here"
    target = target.absolute()
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".dbnet-") as folder:
            made = Path(folder, target.name)
            code, output = _run([program, *conversion.arguments, conversion.output + str(made.with_suffix(""))],
                                target.parent)
            if code or tool.success not in output:
                return f"{tool.program} refuses {graph} (exit code {code}): {what_it_says(output)}"
            if not made.is_file():
                return f"{tool.program} says {tool.success!r} of {graph} and has written no {target.name}"
            os.replace(made, target)
    except subprocess.TimeoutExpired:
        return (f"{tool.program} did not end within {PATIENCE:g} s and was ended; fewer sizes (--buckets) take "
                f"less")
    except OSError as error:
        return f"{program} could not be run ({error.strerror or error})"
    return None


def _run(command: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and output. After PATIENCE, and after ^C, the program is ended with all that it has started."""
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True) as process:
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output


def what_it_says(output: str) -> str:
    """Of a converter's output the first line that tells what is wrong, else the last one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if _TELLING.search(line)]
    numbered = [line for line in telling if re.search(r"\bE[0-9A-Z]\d{4}\b", line)]
    return short((numbered or telling[:1] or lines[-1:] or ["it says nothing"])[0])


def chip_of(soc: str | None) -> str | None:
    """The chip as ATC calls it: the user's word, or what npu-smi lists; None if neither tells.

    Raises DbnetError for a word that is no chip.
    """
    if soc is not None:
        if _CHIP.fullmatch(soc) is None:
            raise DbnetError(f"unknown chip {soc!r}; write it as ATC does: Ascend310P3, Ascend910B4 (Ascend and what "
                             f"npu-smi info lists under Name)")
        return soc
    program = shutil.which("npu-smi")
    if program is None:
        return None
    try:
        listed = subprocess.run([program, "info", "-m"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return chip_listed(listed.stdout)


def chip_listed(table: str) -> str | None:
    """The first chip in what `npu-smi info -m` prints."""
    found = _LISTED.search(table)
    return f"Ascend{found[1]}" if found else None
