"""Whether what a process holds stays the same: its first third against its last."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tests.fuzz.vitals import Vitals

__all__ = ["DESCRIPTORS_SLACK", "RSS_SLACK", "THREADS_SLACK", "growth"]

#: Bytes by which the median may grow: the log's newest end in memory (16 MiB, with all that belongs to
#: an entry), pages of its file, and the allocator's loss.
RSS_SLACK = 48 << 20
#: Clients come and go: so many more may be there in the median.
DESCRIPTORS_SLACK = 20
THREADS_SLACK = 2


def growth(samples: Sequence[Vitals]) -> list[str]:
    """The figures that have grown by more than they may."""
    third = len(samples) // 3
    if not third:
        return ["too few samples"]
    faults = []
    for name, slack in (
        ("rss", RSS_SLACK),
        ("descriptors", DESCRIPTORS_SLACK),
        ("threads", THREADS_SLACK),
    ):
        first, last = (
            median(getattr(sample, name) for sample in part)
            for part in (samples[:third], samples[-third:])
        )
        if last > first + slack:
            faults.append(f"{name} grew from {first:g} to {last:g}, by more than {slack}")
    return faults
