"""Memory: how the C library's allocator gives it back, for a process that is a server and nothing else.

By default glibc learns from the first large block that is freed to take the next ones from the heap. After
one burst of large messages the heap has holes, and the process keeps hundreds of megabytes that nothing is
in. With a fixed threshold, large blocks are the system's again as soon as they are free.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

__all__ = ["give_memory_back"]

#: Of <malloc.h>.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
#: Bytes of a block that is taken from the system by itself; of free ones at the heap's end that are kept.
_LARGE: Final = 1 << 17
_KEPT: Final = 1 << 20


def give_memory_back() -> None:
    """Have free memory returned to the system, where the C library can be told to (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
