"""Optional packages: what is missing, broken or interrupted while it is imported."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from dbnet.errors import DbnetError
from dbnet.extras import OPTIONAL, require

PRESS = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.2)\n"
IN_TRY = "try:\n" + "".join(f"    {line}\n" for line in PRESS.splitlines())


@pytest.fixture
def framework(tmp_path, monkeypatch, interrupts_arrive):
    """`framework(source)` installs a package of that source; a ^C is Python's own, as in a terminal."""
    monkeypatch.setitem(OPTIONAL, "a_framework", ("torch", "the test"))
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(source):
        sys.modules.pop("a_framework", None)
        (tmp_path / "a_framework.py").write_text(source)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield make
    signal.signal(signal.SIGINT, before)
    sys.modules.pop("a_framework", None)


@pytest.mark.parametrize("source", [
    PRESS,
    IN_TRY + "except KeyboardInterrupt as error:\n    raise ImportError('initialization failed') from error\n",
    IN_TRY + "except KeyboardInterrupt:\n    raise ImportError('initialization failed') from None\n",
    IN_TRY + "except BaseException:\n    pass\nraise ImportError('a symbol is missing')\n",
    IN_TRY + "except BaseException:\n    pass\nraise RuntimeError('a part is missing')\n",
    IN_TRY + "except BaseException:\n    pass\n",
    "try:\n    raise KeyboardInterrupt\nexcept KeyboardInterrupt as error:\n    raise OSError('x') from error\n",
    "try:\n    try:\n        raise KeyboardInterrupt\n    finally:\n        {}['a']\n"
    "except KeyError as error:\n    raise ImportError('x') from error\n",
])
def test_an_interrupt_is_no_broken_installation(root, tmp_path, source):
    """In a process of its own: in CI a worker once ended at the first of these, for a reason that is not known."""
    (tmp_path / "a_framework.py").write_text(source)
    script = tmp_path / "wants.py"
    script.write_text(f"""
import gc, signal, sys
sys.path.insert(0, {str(root)!r})
gc.disable()  # see `interrupts_arrive`
signal.signal(signal.SIGINT, signal.default_int_handler)
from dbnet.extras import OPTIONAL, require
OPTIONAL["a_framework"] = ("torch", "the test")
try:
    require("a_framework")
except KeyboardInterrupt:
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done


@pytest.mark.parametrize("source", [
    "raise ImportError('libcudart.so.12: cannot open')", "import nothing_of_that_name", "raise OSError('broken')",
    "import os\nos.nothing_of_that_name",
    "error = ImportError('a circle')\nother = OSError('b')\n"
    "other.__context__, error.__context__ = error, other\nraise error",
])
def test_a_broken_installation_is_one_line(framework, source):
    framework(source)
    with pytest.raises(DbnetError, match="is installed but does not import") as error:
        require("a_framework")
    assert "\n" not in str(error.value)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_package_that_imports(framework):
    framework("VALUE = 7")
    assert require("a_framework").VALUE == 7
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background jobs
    framework(PRESS + "VALUE = 8")
    assert require("a_framework").VALUE == 8
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
