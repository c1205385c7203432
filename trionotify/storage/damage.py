"""The damaged parts of a log, as its readers have found them."""

from __future__ import annotations

from bisect import bisect_right

__all__ = ["Losses"]


class Losses:
    """The stretches of unreadable offsets in a log. Made and used by the log alone."""

    def __init__(self) -> None:
        #: Stretches (after, upto], in order; none touches another.
        self._afters: list[int] = []
        self._uptos: list[int] = []
        self._lost = 0

    def __len__(self) -> int:
        """Return the number of lost offsets."""
        return self._lost

    @property
    def stretches(self) -> int:
        """The number of stretches."""
        return len(self._uptos)

    def add(self, after: int, upto: int) -> bool:
        """Add the unreadable offsets in (`after`, `upto`]; return whether any were unknown."""
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
        """Return where the damage right behind `after` ends; None if there is none."""
        at = bisect_right(self._uptos, after)
        return self._uptos[at] if at < len(self._uptos) and self._afters[at] <= after else None

    def any_behind(self, offset: int) -> bool:
        """Return whether anything behind this offset is lost."""
        return bool(self._uptos) and self._uptos[-1] > offset

    def forget(self, start: int) -> None:
        """Forget everything up to the offset `start`, which was evicted."""
        gone = bisect_right(self._uptos, start)
        self._lost -= sum(self._uptos[:gone]) - sum(self._afters[:gone])
        del self._uptos[:gone], self._afters[:gone]
        if self._afters and self._afters[0] < start:
            self._lost -= start - self._afters[0]
            self._afters[0] = start

    def __str__(self) -> str:
        """Return the first few stretches in words."""
        stretches = [
            f"{after + 1}" if after + 1 == upto else f"{after + 1} to {upto}"
            for after, upto in zip(self._afters[:5], self._uptos[:5], strict=True)
        ]
        return ", ".join(stretches) + (", …" if len(self._afters) > 5 else "")
