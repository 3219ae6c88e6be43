"""What stands in a kit's README.md."""

from __future__ import annotations

from converters.load import SourceOptions

README = """\
# {model} on an Ascend NPU

1. Needs Linux, Python 3.10 or newer, NumPy, MindSpore with CANN (`source .../set_env.sh`); nothing is installed.
2. `python run.py --preflight` looks whether it can be done and starts nothing.
3. `nohup python run.py --minutes 50 &` works for 50 minutes, the most valuable first, and writes `result.trace`.
4. Ended by anything (^C, time, a crash), the same command goes on where it stopped; another device, version or option
   is refused, for another `--out` or `--force`.
5. `--device Ascend:1` chooses another NPU, `--rehearse --out r.trace` runs everything on the CPU.
6. Order: a small picture exactly and by the device's defaults, {images} exactly, timing, the images by the
   defaults, float16, everything once more.
7. It ends with a verdict: each run against a trace that was made with {runner} {version} on a CPU.
8. Carry `result.trace` back (less than 20 MB): `dbnet compare result.trace:exact {model} --images ...{options}`.
9. Exit codes: 0 done, 1 not within tolerance, 2 usage, 3 could not do it (one line says why).
10. kit.json lists every file with its SHA-256; `result.trace.work` holds the work so far and may be removed. What is in
    lib/ is of dbnet-parity {ours} (Apache-2.0).
"""


def typed(options: SourceOptions) -> list[str]:
    """What was said about a file, as it is typed for every command that reads one."""
    named = {"--spec": options.spec, "--from": options.dialect, "--take": options.take, "--part": options.part,
             "--pixels": options.pixels}
    words = [word for name, value in named.items() if value is not None for word in (name, value)]
    for name, value in options.semantics.items():
        words += ["--set", f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"]
    return words + (["--allow-edited"] if options.allow_edited else [])
