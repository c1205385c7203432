"""Pages of the log's older part."""

from __future__ import annotations

from trionotify import Notification
from trionotify.delivery.entry import Entry
from trionotify.storage.pages import Pages


def entries(after: int, count: int, data: str = "") -> list[Entry]:
    made = [Entry(Notification(data)) for _ in range(count)]
    for offset, entry in enumerate(made, after + 1):
        entry.offset = offset
    return made


def offsets(found: list[Entry]) -> list[int]:
    return [entry.offset for entry in found]


def test_what_was_added_is_found() -> None:
    """From anywhere inside a page, up to its end, and no further than asked."""
    pages = Pages(1 << 20)
    pages.add(10, entries(10, 5))
    pages.add(20, entries(20, 5))
    assert offsets(pages.find(10, 100)) == [11, 12, 13, 14, 15]
    assert offsets(pages.find(13, 100)) == [14, 15]
    assert offsets(pages.find(21, 2)) == [22, 23]
    assert [pages.find(after, 100) for after in (0, 9, 15, 17, 25, 99)] == [[]] * 6


def test_pages_that_overlap() -> None:
    """Each holds what it holds."""
    pages = Pages(1 << 20)
    pages.add(0, entries(0, 8))
    pages.add(5, entries(5, 8))
    assert offsets(pages.find(4, 100)) == [5, 6, 7, 8]
    assert offsets(pages.find(5, 100)) == list(range(6, 14))
    pages.add(5, entries(5, 2))
    assert offsets(pages.find(5, 100)) == [6, 7]


def test_what_was_not_used_for_longest_goes_first() -> None:
    """When all together weigh too much; the last one always stays."""
    pages = Pages(3 * (3 * 11_000) * 2)
    for after in (0, 2, 4):
        pages.add(after, entries(after, 2, "x" * 10_000))
    pages.find(0, 1)
    pages.add(6, entries(6, 2, "x" * 10_000))
    assert [offsets(pages.find(after, 9)) for after in (0, 2, 4, 6)] == [[1, 2], [], [5, 6], [7, 8]]
    pages.add(8, entries(8, 1, "x" * 1_000_000))
    assert [offsets(pages.find(after, 9)) for after in (0, 4, 6, 8)] == [[], [], [], [9]]
