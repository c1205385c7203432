"""Damage: what happens to files on disks that fail, and in the hands of people."""

from __future__ import annotations

from bisect import bisect_right as bisect
from collections.abc import Callable
from random import Random

import attrs

from tests.damage.templates import DATABASE, LOCK, WAL, Template

__all__ = ["KINDS", "PAGE", "Damage", "random_damages"]

#: Bytes of a page of the database, and of what is in front of each in the WAL, and in front of them all.
PAGE, _FRAME, _HEAD = 4096, 24, 32
_NAMES = {DATABASE: "database", WAL: "WAL", LOCK: "lock file"}
#: The file systems' own unit.
_SECTOR = 512


@attrs.frozen
class Damage:
    """A change to one file, from `begin` on, up to `end`."""

    file: str
    way: str
    begin: int
    end: int

    def __str__(self) -> str:
        return f"{self.way} in the {_NAMES[self.file]}, {self.begin} to {self.end}"


#: What the campaign calls them, and the files that are damaged.
KINDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "database": ((DATABASE,),),
    "wal": ((WAL,),),
    "lock": ((LOCK,),),
    "combined": ((DATABASE, WAL), (DATABASE, LOCK), (WAL, LOCK), (DATABASE, WAL, LOCK)),
}


def random_damages(
    random: Random, files: tuple[str, ...], template: Template
) -> tuple[dict[str, bytes], list[Damage]]:
    """The files with one damage in each of these, and what was done."""
    spoilt = dict(template.files)
    done: list[Damage] = []
    for file in files:
        way = random.choice(_ways(file, files, [damage.way for damage in done]))
        old = template.old.get(file)
        if old is None and way in {"old copy", "lost write"}:
            way = "bit"
        before = spoilt[file]
        spoilt[file] = _WAYS[way](random, before, old or b"", _begin(random, before, file))
        done.append(Damage(file, way, *_changed(before, spoilt[file])))
    return spoilt, done


def _ways(file: str, files: tuple[str, ...], done: list[str]) -> list[str]:
    """Those that don't make a snapshot, as far as that can be known before."""
    if file != LOCK:
        return list(_WAYS)
    # It comes last. As it was, it fits to whatever ends where it was noted, or later.
    forbidden = {"lost write", "misplaced"}
    if WAL in files or not {"old copy", "cut"}.isdisjoint(done):
        forbidden.add("old copy")
    return [way for way in _WAYS if way not in forbidden]


def _begin(random: Random, data: bytes, file: str) -> int:
    """Where: often at a place that more depends on than on others."""
    if not data:
        return 0
    unit, head = (PAGE + _FRAME, _HEAD) if file == WAL else (PAGE, 0)
    pages = max(1, (len(data) - head) // unit)
    match random.randrange(6 if file != LOCK else 1):
        case 0 | 1 | 2:
            at = random.randrange(len(data))
        case 3:
            at = random.randrange(100)
        case 4:
            # Where a page says what it is and where its cells are; a frame, whose it is.
            at = head + random.randrange(pages) * unit + random.randrange(60)
        case _:
            at = head + random.choice((0, pages - 1)) * unit + random.randrange(unit)
    return min(at, len(data) - 1)


def _flip(random: Random, data: bytes, _: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _bytes(random: Random, data: bytes, _: bytes, at: int) -> bytes:
    noise = random.randbytes(random.randint(1, 8))[: len(data) - at]
    return data[:at] + noise + data[at + len(noise) :]


def _page(random: Random, data: bytes, _: bytes, at: int) -> bytes:
    begin = at // PAGE * PAGE
    noise = random.randbytes(PAGE)[: len(data) - begin]
    return data[:begin] + noise + data[begin + len(noise) :]


def _zeros(random: Random, data: bytes, _: bytes, at: int) -> bytes:
    unit = random.choice((_SECTOR, PAGE))
    begin = at // unit * unit
    end = min(len(data), begin + unit * random.randint(1, 3))
    return data[:begin] + bytes(end - begin) + data[end:]


def _cut(random: Random, data: bytes, _: bytes, at: int) -> bytes:
    return data[: at if random.random() < 0.7 else at // PAGE * PAGE]


def _old(random: Random, data: bytes, old: bytes, at: int) -> bytes:
    return old


def _lost_write(random: Random, data: bytes, old: bytes, at: int) -> bytes:
    """Some pages are as they were."""
    begin = at // PAGE * PAGE
    piece = old[begin : min(len(data), begin + PAGE * random.randint(1, 3))]
    return data[:begin] + piece + data[begin + len(piece) :]


def _misplaced(random: Random, data: bytes, _: bytes, at: int) -> bytes:
    """A page was written in the place of another."""
    begin = at // PAGE * PAGE
    source = random.randrange(max(1, len(data) // PAGE)) * PAGE
    piece = data[source : source + PAGE][: len(data) - begin]
    return data[:begin] + piece + data[begin + len(piece) :]


_WAYS: dict[str, Callable[[Random, bytes, bytes, int], bytes]] = {
    "bit": _flip,
    "bytes": _bytes,
    "page": _page,
    "zeros": _zeros,
    "cut": _cut,
    "old copy": _old,
    "lost write": _lost_write,
    "misplaced": _misplaced,
}


def _changed(before: bytes, after: bytes) -> tuple[int, int]:
    """From the first to behind the last byte that is another one."""
    if before == after:
        return 0, 0
    size = min(len(before), len(after))
    begin = bisect(range(1, size + 1), 0, key=lambda end: before[:end] != after[:end])
    if len(before) != len(after):
        return begin, max(len(before), len(after))
    return begin, size - bisect(range(1, size + 1), 0, key=lambda end: before[-end:] != after[-end:])
