"""On which page of a database are which entries: read from the bytes, by the format's documentation."""

from __future__ import annotations

from functools import cache

from tests.damage.damages import PAGE

__all__ = ["offsets_by_page"]

_INTERIOR, _LEAF = 5, 13


@cache
def offsets_by_page(data: bytes) -> dict[int, set[int]]:
    """For each page that holds rows of a table, or a part of one that is long: the row's offsets.

    Of a table `entries` of more than one page.
    """
    found: dict[int, set[int]] = {}
    for root in range(2, len(data) // PAGE + 1):
        if data[(root - 1) * PAGE] == _INTERIOR:
            for page in _children(data, root):
                _read_leaf(data, page, found)
    return found


def _children(data: bytes, page: int) -> list[int]:
    begin = (page - 1) * PAGE
    count = int.from_bytes(data[begin + 3 : begin + 5])
    cells = [begin + int.from_bytes(data[begin + 12 + 2 * n : begin + 14 + 2 * n]) for n in range(count)]
    return [int.from_bytes(data[at : at + 4]) for at in (*cells, begin + 8)]


def _read_leaf(data: bytes, page: int, found: dict[int, set[int]]) -> None:
    begin = (page - 1) * PAGE
    if data[begin] != _LEAF:
        return
    found.setdefault(page, set())
    for n in range(int.from_bytes(data[begin + 3 : begin + 5])):
        at = begin + int.from_bytes(data[begin + 8 + 2 * n : begin + 10 + 2 * n])
        size, at = _varint(data, at)
        offset, at = _varint(data, at)
        found[page].add(offset)
        here = _local(size)
        if here < size:
            more = int.from_bytes(data[at + here : at + here + 4])
            while more:
                found.setdefault(more, set()).add(offset)
                more = int.from_bytes(data[(more - 1) * PAGE : (more - 1) * PAGE + 4])


def _local(size: int) -> int:
    """How much of a row is on the leaf itself."""
    if size <= PAGE - 35:
        return size
    least = (PAGE - 12) * 32 // 255 - 23
    most = least + (size - least) % (PAGE - 4)
    return most if most <= PAGE - 35 else least


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for n in range(9):
        byte = data[at + n]
        if n == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + n + 1
    raise AssertionError("never here")
