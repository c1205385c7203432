"""What of a log its readers have found damaged."""

from __future__ import annotations

from bisect import bisect_right

__all__ = ["Losses"]


class Losses:
    """Stretches of offsets of which nothing can be read any more. Made and used by the log alone."""

    def __init__(self) -> None:
        #: Stretches (after, upto], in order; none touches another.
        self._afters: list[int] = []
        self._uptos: list[int] = []
        self._lost = 0

    def __len__(self) -> int:
        """How many offsets are lost."""
        return self._lost

    @property
    def stretches(self) -> int:
        """In how many stretches."""
        return len(self._uptos)

    def add(self, after: int, upto: int) -> bool:
        """Remember that nothing in (`after`, `upto`] can be read; whether that is news."""
        first = bisect_right(self._uptos, after - 1)
        last = bisect_right(self._afters, upto)
        if first < last:
            known = self._afters[first] <= after and upto <= self._uptos[first]
            if known:
                return False
            after, upto = min(after, self._afters[first]), max(upto, self._uptos[last - 1])
        self._lost += upto - after + sum(self._afters[first:last]) - sum(self._uptos[first:last])
        self._afters[first:last], self._uptos[first:last] = [after], [upto]
        return True

    def upto(self, after: int) -> int | None:
        """Where the damage behind the offset `after` ends; None if what comes next may be whole."""
        at = bisect_right(self._uptos, after)
        return self._uptos[at] if at < len(self._uptos) and self._afters[at] <= after else None

    def any_behind(self, offset: int) -> bool:
        """Whether anything behind this offset is lost."""
        return bool(self._uptos) and self._uptos[-1] > offset

    def forget(self, start: int) -> None:
        """Everything up to the offset `start` was evicted."""
        gone = bisect_right(self._uptos, start)
        self._lost -= sum(self._uptos[:gone]) - sum(self._afters[:gone])
        del self._uptos[:gone], self._afters[:gone]
        if self._afters and self._afters[0] < start:
            self._lost -= start - self._afters[0]
            self._afters[0] = start

    def __str__(self) -> str:
        """The offsets in words, the first few stretches."""
        stretches = [
            f"{after + 1}" if after + 1 == upto else f"{after + 1} to {upto}"
            for after, upto in zip(self._afters[:5], self._uptos[:5], strict=True)
        ]
        return ", ".join(stretches) + (", …" if len(self._afters) > 5 else "")
