"""The clock of a durable log: a time of day that doesn't follow every jump of the machine's clock.

The moments in a log's file are times of day, because they must make sense to the next process. But
the wall clock may be wrong for a while, in either direction, and because of that nothing may be evicted
too early, or kept for ever. So this clock begins at the wall clock's time, and goes on by a steady one:

| the wall clock | this clock |
| --- | --- |
| is corrected by up to `CORRECTION` seconds | follows |
| jumps further | goes on by itself, and says so once |
| comes back from there | was right all the time |
| stays there for `SETTLED` seconds | follows: `take_over` has the stored moments moved along |

The next process goes on where this one has stopped (`resume`). In the same boot of the machine the
steady clock tells how long ago that was, and a wall clock that says something else has jumped. After
another boot only the wall clock can tell. What it says that nothing confirms is `unconfirmed`, and
doesn't make entries older, until it has stood for `SETTLED` seconds in one process.

Everything here is synchronous; one thread at a time. Tests bring their own sources.

The log asks for the time in the store's thread, in the call that notes it. A time that has waited for
that thread may be from before a jump that was followed meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import attrs

__all__ = ["CORRECTION", "SETTLED", "LogClock", "steady", "time_of_day"]

logger: logging.Logger = logging.getLogger("trionotify")

#: The largest correction of the wall clock, in seconds. Larger steps are jumps.
CORRECTION: Final = 2.0
#: Seconds for which the wall clock must stay where it has jumped to before it is trusted.
SETTLED: Final = 600.0


def time_of_day() -> float:
    """Return the machine's time of day, in seconds since 1970."""
    return time.time()


def steady() -> float:
    """Return the seconds of a clock that never goes back and, if possible, counts suspended time."""
    return time.clock_gettime(_BOOTTIME) if _BOOTTIME is not None else time.monotonic()


#: The clock on Linux. Elsewhere, `time.monotonic` is used.
_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


@attrs.define
class LogClock:
    """The clock of one log, which alone uses it. Times are in seconds since 1970."""

    _wall: Callable[[], float] = time_of_day
    _steady: Callable[[], float] = steady
    #: How far the log's time is ahead of the steady clock.
    _ahead: float = attrs.field(init=False)
    #: How far the wall clock is ahead after a jump, and the steady clock's time when that was first
    #: seen.
    _elsewhere: float | None = attrs.field(default=None, init=False)
    _since: float = attrs.field(default=0.0, init=False)
    #: Seconds since earlier processes by the wall clock alone, and when this process began to wait.
    _unconfirmed: float = attrs.field(default=0.0, init=False)
    _resumed: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._ahead = self._wall() - self._steady()

    def now(self) -> float:
        """Return the log's time. Doesn't block."""
        now = self._steady()
        self._compare(self._wall() - now, now)
        return now + self._ahead

    def resume(self, moment: float, passed: float, *, exact: bool, unconfirmed: float = 0.0) -> None:
        """Continue from `moment`, the log's time `passed` seconds ago, or unless `exact` even earlier.

        These seconds up to `moment` were `unconfirmed`. Call this first, if at all.
        """
        steadily = moment + passed - self._steady()
        self._unconfirmed, self._resumed = unconfirmed, self._steady()
        if exact:
            self._ahead = steadily
        elif self._ahead - steadily > CORRECTION:
            self._unconfirmed += self._ahead - steadily

    def unconfirmed(self) -> float:
        """The seconds by which entries of earlier processes may be younger than the clock says.

        Doesn't block.
        """
        settled = self._elsewhere is None and self._steady() - self._resumed >= SETTLED
        if self._unconfirmed and settled:
            self._unconfirmed = 0.0
        return self._unconfirmed

    def take_over(self, move: Callable[[float, float], object]) -> None:
        """Follow a jump of the wall clock, if one was long enough ago. Call this now and then.

        `move(by, now)` must move everything that this clock has noted by so many seconds; `now` is the
        time from then on. If it raises, the clock stays as it is, and the next call tries again.
        """
        now = self.now()
        if self._elsewhere is None or self._steady() - self._since < SETTLED:
            return
        by = self._elsewhere - self._ahead
        move(by, now + by)
        self._ahead, self._elsewhere, self._unconfirmed = self._elsewhere, None, 0.0
        logger.warning(
            "the log's clock follows the machine's clock by %+.1f s; stored times are moved along",
            by,
            extra={"event": "clock_followed", "seconds": round(by, 3)},
        )

    def _compare(self, ahead: float, now: float) -> None:
        """Compare the wall clock, which is `ahead` of the steady clock, with this one."""
        if abs(ahead - self._ahead) <= CORRECTION:
            self._ahead, self._elsewhere = ahead, None
        elif self._elsewhere is not None and abs(ahead - self._elsewhere) <= CORRECTION:
            self._elsewhere = ahead
        else:
            self._elsewhere, self._since = ahead, now
            by = ahead - self._ahead
            logger.warning(
                "the machine's clock has jumped by %+.1f s; the log's clock ignores the jump",
                by,
                extra={"event": "clock_jumped", "seconds": round(by, 3)},
            )
