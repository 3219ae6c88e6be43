"""The C library's heap of this process."""

from __future__ import annotations

import contextlib
import ctypes

# Source: malloc.h of the GNU C library.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: The most that glibc takes as threshold of blocks of their own, bytes.
_BLOCK = 32 << 20


def keep_freed() -> None:
    """Has the heap keep what is freed, up to 32 MiB a block, for a process that makes the same arrays over and over.

    glibc gives large blocks back at once, and the next array of that size begins in new pages, which the kernel fills
    with zeros one fault at a time: of an example of 640 x 640 px, made and copied, that was a third of the time. The
    process then holds what it had at its peak. Nothing happens without glibc.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other C libraries have none; Windows none at all
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _BLOCK)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
