"""Compressed frames: made once, for all clients that read them.

A client that has agreed to compression has another format, whose `encode` is a `CompressedEncode`. It
makes compressed frames from those of a plain format, and the entry keeps both. So compression costs CPU
time once per notification and not once per delivery. It needs no memory per client, because each frame
is compressed by itself.

Compressing a frame takes longer than anything else that the broadcast does for a notification. So
`prepare` makes the missing frames of a slice first. It passes its turn on between two of them, and large
ones are made in a thread. Readers of plain frames come first (`compressed_last`) and don't wait.

A client that catches up has its small frames compressed in its own turns. Large ones, and those of old
entries, which keep no frames, are left uncompressed if they aren't there already. Otherwise each of a
thousand clients would compress them again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs
import trio

from trionotify.delivery.position import Encode, Group, Position

if TYPE_CHECKING:
    from trionotify.delivery.counters import Compression
    from trionotify.delivery.entry import Entry
    from trionotify.delivery.turns import Turn

__all__ = ["CompressedEncode", "compressed_last"]

#: From this size in bytes on, a frame is compressed in a thread. This takes a third of a millisecond.
LARGE: Final = 1 << 16
#: Calls a function in a thread and waits for it, even if cancelled.
_in_thread = trio.to_thread.run_sync


@attrs.frozen(eq=False)
class CompressedEncode:
    """Makes frames of the format `plain` for clients that read compressed ones. Created by the hub.

    `compress` returns None for a frame that is too short or doesn't get shorter. It runs in any thread.
    `store` makes a frame that the same clients can read, without compressing anything.
    """

    plain: Encode
    compress: Callable[[bytes], bytes | None]
    store: Callable[[bytes], bytes]
    counts: Compression
    #: Threads of its own, because the application's may all be busy for long.
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1), init=False)

    def __call__(self, entry: Entry) -> bytes:
        """Return the entry's frame, compressed unless it is large or the entry is old. Doesn't block."""
        plain = entry.frame(self.plain)
        if entry.old or len(plain) >= LARGE:
            return self.store(plain)
        return self._counted(plain, self.compress(plain))

    async def prepare(self, entries: list[Entry], turn: Turn) -> None:
        """Make the frames that these entries lack. A checkpoint if that takes a turn or a thread."""
        for entry in entries:
            if entry.has_frame(self):
                continue
            plain = entry.frame(self.plain)
            if len(plain) >= LARGE and not entry.old:
                found = await _in_thread(self.compress, plain, limiter=self._limiter)
                entry.keep_frame(self, self._counted(plain, found))
            else:
                entry.frame(self)
            if turn.over:
                await turn.pass_on()

    def _counted(self, plain: bytes, compressed: bytes | None) -> bytes:
        if compressed is None:
            return self.store(plain)
        self.counts.plain_bytes += len(plain)
        self.counts.compressed_bytes += len(compressed)
        return compressed


def compressed_last(readers: Group | Position) -> bool:
    """Return a key that sorts readers of compressed frames behind the others."""
    return isinstance(readers.encode, CompressedEncode)
