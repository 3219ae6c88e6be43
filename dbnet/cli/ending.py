"""How a command ends: every failure as one line, and its exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import click

from dbnet.errors import DbnetError

USAGE, FAILED = 2, 3


def exit_code_of(work: Callable[[], object]) -> int:
    """Does the work; 0, or the code of what it raised, which is told on standard error."""
    try:
        work()
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        error.show()
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted")
    except DbnetError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of our output left, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else a full disk is told again at exit
        return _fail(f"{error.filename or 'standard output'}: {error.strerror or error}; check the path and its "
                     f"permissions")
    except MemoryError:
        return _fail("not enough memory; close other programs or use a smaller input")
    except Exception as error:  # a bug of ours, but a traceback is not for users
        if os.environ.get("DBNET_TRACEBACK"):
            raise
        return _fail(f"internal error, please report it ({type(error).__name__}: {error}); "
                     f"set DBNET_TRACEBACK=1 to see where it happened")
    return 0


def _fail(message: str) -> int:
    print(f"dbnet: {' '.join(message.split())}", file=sys.stderr)
    return FAILED
