"""An index that finds the predicates that hold for a notification, without asking each one.

Every distinct predicate is filed once, under one or more *anchors*: conditions on one attribute of
which at least one must hold whenever the predicate does. A notification's attributes lead to the
anchors that hold, by hash; only the predicates filed there are evaluated. So the cost of a match
follows what nearly matches, not how many predicates there are.

| predicate | filed under |
| --- | --- |
| `Exact`, `Prefix`, `Suffix` | one of its conditions, the one with the fewest others beside it |
| `AllOf` | the anchors of one of its parts, chosen the same way |
| `AnyOf` | the anchors of all of its parts |
| `Sql` | what one of the parts that it ANDs asks by `=`, `IN` or `LIKE` |
| anything else (`Not`, a callable, `EVERYTHING`) | no anchor: evaluated every time |

A prefix of length n is found by hashing the first n characters, once for each length in use; a suffix
likewise from the end. Of a very long text only the beginning, or the end, is an anchor, so there are
never many lengths.

A predicate may be an application's callable, which may even register, replace or remove predicates
here. So the candidates are looked up at once (`candidates`), but the `members` of each only in its
turn, when there may be none left. The caller may evaluate the candidates in slices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Final, Generic, TypeVar

import attrs

from trionotify.model.attributes import ATTRIBUTES
from trionotify.model.costs import Price, price_of
from trionotify.model.filters import ON_ATTRIBUTES
from trionotify.model.multimap import Bags
from trionotify.model.notification import Notification
from trionotify.model.predicates import (
    EVERYTHING,
    NOTHING,
    AllOf,
    AnyOf,
    Exact,
    Predicate,
    Prefix,
    Sql,
    Subject,
    Suffix,
    Wanted,
    key_of,
)

__all__ = ["Filed", "PredicateIndex"]

Member = TypeVar("Member", bound=Hashable)

#: The most characters of a prefix or suffix in an anchor.
MAX_ANCHOR: Final = 256


@attrs.frozen
class _Anchor:
    """The condition that one attribute equals, begins with or ends with a text."""

    kind: type[Exact] | type[Prefix] | type[Suffix]
    name: str
    text: str


@attrs.define(eq=False)
class Filed(Generic[Member]):
    """A distinct predicate, and its anchors (None if it has none).

    `certain` means that if an anchor matches, so does the predicate, without an evaluation. `price` is
    the cost of the evaluation, if it may be costly.
    """

    predicate: Wanted
    anchors: tuple[_Anchor, ...] | None
    certain: bool
    price: Price | None


#: Predicates by attribute and text, and the lengths of the texts in use.
@attrs.define(eq=False)
class _Shelf(Generic[Member]):
    by_text: Bags[str, Filed[Member]] = attrs.Factory(Bags)
    lengths: Counter[int] = attrs.Factory(Counter)


_KINDS: Final = (Exact, Prefix, Suffix)
_BUILT_IN: Final = (*_KINDS, AllOf, AnyOf, Sql, type(NOTHING))


class PredicateIndex(Generic[Member]):
    """Members registered under predicates. Made by the broadcast, which alone calls it."""

    def __init__(self) -> None:
        self._filed: dict[Hashable, Filed[Member]] = {}
        self._members: Bags[Filed[Member], Member] = Bags()
        self._unanchored: dict[Filed[Member], None] = {}
        self._shelves: dict[type, dict[str, _Shelf[Member]]] = {kind: {} for kind in _KINDS}

    @property
    def selective(self) -> bool:
        """Whether some predicate doesn't hold for everything."""
        return len(self._filed) > (key_of(EVERYTHING) in self._filed)

    def add(self, predicate: Wanted, member: Member, key: Hashable | None = None) -> Filed[Member]:
        """Register `member` under `predicate`; equal predicates share all work.

        `key` is the predicate's `key_of`, if the caller keeps it anyway.
        """
        key = key_of(predicate) if key is None else key
        filed = self._filed.get(key)
        if filed is None:
            anchors = self._anchors(predicate)
            certain = _says_all(predicate) and not any(map(_is_cut, anchors or ()))
            price = None if certain else price_of(predicate)
            filed = self._filed[key] = Filed(predicate, anchors, certain, price)
            self._file(filed)
        self._members.add(filed, member)
        return filed

    def remove(self, predicate: Wanted, member: Member) -> None:
        """Undo `add`. Raises KeyError if the member isn't registered."""
        key = key_of(predicate)
        filed = self._filed[key]
        self._members.remove(filed, member)
        if not self._members.count(filed):
            del self._filed[key]
            self._unfile(filed)

    def members(self, filed: Filed[Member]) -> Iterable[Member]:
        """Return the members registered under one of the candidates; none if it was removed."""
        return self._members.get(filed)

    def holding(
        self, filed: Filed[Member], subject: Subject, errors: dict[Member, Exception]
    ) -> Iterable[Member]:
        """Return the current members of one of the candidates, if its predicate holds for `subject`.

        Returns no members if it was removed since it was found. If it raises, it holds for none, and its
        members go into `errors` with the exception.
        """
        if not filed.certain:
            try:
                if not filed.predicate(subject):
                    return ()
            except Exception as error:  # an application's own callable may raise anything
                errors.update(dict.fromkeys(self._members.get(filed), error))
                return ()
        return self._members.get(filed)

    def candidates(self, subject: Subject) -> Sequence[Filed[Member]]:
        """Return the predicates that may hold for `subject`, as filed now. Ask `holding` about each."""
        found = self._unanchored
        if len(found) == len(self._filed):
            return tuple(found)
        found = found.copy()
        shelves = self._shelves[Exact]
        for name in _looked_at(shelves, subject):
            text = subject.get(name)
            if text is not None:
                for filed in shelves[name].by_text.get(text):
                    found[filed] = None
        for kind in (Prefix, Suffix):
            shelves = self._shelves[kind]
            for name in _looked_at(shelves, subject) if shelves else ():
                text = subject.get(name)
                if text is None:
                    continue
                shelf, size = shelves[name], len(text)
                for length in shelf.lengths:
                    if length <= size:
                        part = text[:length] if kind is Prefix else text[size - length :]
                        for filed in shelf.by_text.get(part):
                            found[filed] = None
        return tuple(found)

    def _anchors(self, predicate: Wanted) -> tuple[_Anchor, ...] | None:  # noqa: PLR0911 - a table
        """Return all anchors of `predicate`; None if it has none."""
        match predicate:
            case Predicate() if type(predicate) not in _BUILT_IN:
                return None  # it may decide as it likes
            case Exact() | Prefix() | Suffix():
                kind = type(predicate)
                options = [(_anchor(kind, n, t),) for n, t in predicate.attributes]
                return options[0] if len(options) == 1 else min(options, key=self._crowd)
            case Sql():
                conditions = predicate.expression.conditions()
                found = [
                    tuple(_anchor(ON_ATTRIBUTES[c.kind], c.name, t) for t in c.texts) for c in conditions
                ]
                return min(found, key=self._crowd) if found else None
            case AllOf():
                parts = [a for part in predicate.parts if (a := self._anchors(part)) is not None]
                return min(parts, key=self._crowd) if parts else None
            case AnyOf():
                together: dict[_Anchor, None] = {}
                for part in predicate.parts:
                    anchors = self._anchors(part)
                    if anchors is None:
                        return None
                    together.update(dict.fromkeys(anchors))
                return tuple(together)
        return () if predicate is NOTHING else None

    def _crowd(self, anchors: tuple[_Anchor, ...]) -> tuple[int, int]:
        """Return the rank of these anchors, where lower is better.

        It counts the predicates filed there already, then how unspecific the anchors are.
        """
        others = sum(
            shelf.by_text.count(anchor.text)
            for anchor in anchors
            if (shelf := self._shelves[anchor.kind].get(anchor.name))
        )
        vague = sum(anchor.kind is not Exact for anchor in anchors)
        return (others, vague)

    def _file(self, filed: Filed[Member]) -> None:
        if filed.anchors is None:
            self._unanchored[filed] = None
            return
        for anchor in filed.anchors:
            shelf = self._shelves[anchor.kind].setdefault(anchor.name, _Shelf())
            shelf.by_text.add(anchor.text, filed)
            shelf.lengths[len(anchor.text)] += 1

    def _unfile(self, filed: Filed[Member]) -> None:
        if filed.anchors is None:
            del self._unanchored[filed]
            return
        for anchor in filed.anchors:
            shelf = self._shelves[anchor.kind][anchor.name]
            shelf.by_text.remove(anchor.text, filed)
            shelf.lengths[len(anchor.text)] -= 1
            if not shelf.lengths[len(anchor.text)]:
                del shelf.lengths[len(anchor.text)]
            if not shelf.by_text:
                del self._shelves[anchor.kind][anchor.name]


def _looked_at(shelves: dict[str, _Shelf[Member]], subject: Subject) -> Iterable[str]:
    """Return the attributes to look up: those in use or the notification's own, whichever are fewer."""
    if len(shelves) > len(ATTRIBUTES) and isinstance(subject, Notification):
        return [name for name in subject.names() if name in shelves]
    return shelves


def _anchor(kind: type[Exact] | type[Prefix] | type[Suffix], name: str, text: str) -> _Anchor:
    if kind is Prefix:
        text = text[:MAX_ANCHOR]
    elif kind is Suffix:
        text = text[-MAX_ANCHOR:]
    return _Anchor(kind, name, text)


def _is_cut(anchor: _Anchor) -> bool:
    """Return whether the predicate's text may be longer than the anchor's."""
    return anchor.kind is not Exact and len(anchor.text) == MAX_ANCHOR


def _says_all(predicate: Wanted) -> bool:
    """Return whether the predicate is equivalent to its anchors, so it matches if one of them does."""
    kind = type(predicate)
    if kind in _KINDS:
        return len(predicate.attributes) == 1  # type: ignore[attr-defined] # mypy doesn't narrow by type()
    if kind is Sql:
        return bool(predicate.expression.is_one_condition)  # type: ignore[attr-defined] # the same
    if kind is AnyOf:
        return all(map(_says_all, predicate.parts))  # type: ignore[attr-defined] # the same
    return predicate is EVERYTHING
