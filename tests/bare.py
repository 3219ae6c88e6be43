"""An interpreter that has a few packages and nothing else: a venv of links to those of this environment."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path


def bare_python(folder: Path, *packages: str) -> Path:
    """The interpreter of a new environment below `folder` with these distributions and what they require."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    waiting, done = list(packages), set()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in done:
            continue
        done.add(name)
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))
        # Of `a>=1`, `b; python_version > "3"` and `c; extra == "d"` the names of those that are here without extras.
        waiting += [re.split(r"[^\w.-]", requirement)[0] for requirement in distribution.requires or ()
                    if "extra" not in requirement and _installed(re.split(r"[^\w.-]", requirement)[0])]
    return folder / "bin" / "python"


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
