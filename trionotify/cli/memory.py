"""Settings of the C library's allocator for a process that is only a server.

When the first large block is freed, glibc by default begins to take such blocks from the heap. After one
burst of large messages the heap has holes, and the process keeps hundreds of megabytes of free memory.
With a fixed threshold, a large block goes back to the system as soon as it is free.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

__all__ = ["give_memory_back"]

#: Constants from <malloc.h>.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
#: Bytes of a block that is taken from the system by itself, and of free memory kept at the heap's end.
_LARGE: Final = 1 << 17
_KEPT: Final = 1 << 20


def give_memory_back() -> None:
    """Make the allocator return free memory to the system. Does nothing unless it is glibc's."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
