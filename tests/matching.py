"""All members that an index finds for a notification, in one call."""

from __future__ import annotations

from typing import Any

from trionotify.model.index import PredicateIndex

__all__ = ["match"]


def match(
    index: PredicateIndex[Any], subject: Any, errors: dict[Any, Exception] | None = None
) -> list[Any]:
    """The members whose predicate holds; without `errors`, none may raise."""
    raised: dict[Any, Exception] = {} if errors is None else errors
    found = []
    for filed in index.candidates(subject):
        found += index.holding(filed, subject, raised)
    assert errors is not None or not raised
    return found
