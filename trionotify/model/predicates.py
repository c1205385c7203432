"""Predicates: who wants what.

A predicate decides on a *subject*, anything with `get(name) -> str | None`: a notification (then it
is a subscription's filter) or a client (then it is a publisher's audience). The built-in ones are the
dialects of the CloudEvents Subscriptions API (section 3.2.4, "filters"), with its names; `filters` reads
them from its JSON.

They are values: immutable, hashable, combined with `&`, `|` and `~`, and equal when they have the same
canonical form (`key_of`): in whatever order and nesting their parts stand, said once or twice. That is
what lets the hub find equal ones and index them. Any callable of the subject can stand wherever a
predicate can; it is compared by identity and has no JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from types import MethodType
from typing import Any, ClassVar, Final, Protocol

import attrs

from trionotify import cesql
from trionotify.errors import cut, hint_of, quoted

__all__ = [
    "EVERYTHING",
    "NOTHING",
    "AllOf",
    "AnyOf",
    "Exact",
    "Not",
    "Predicate",
    "Prefix",
    "Sql",
    "Subject",
    "Suffix",
    "Wanted",
    "check_callable",
    "is_value",
    "key_of",
    "to_json",
]


class Subject(Protocol):
    """What a predicate looks at: a notification or a client."""

    def get(self, name: str, /) -> str | None:
        """The attribute `name` as text, or None where there is none."""


#: A predicate, or any callable that does for one.
Wanted = Callable[[Any], object]


class Predicate:
    """The base of the built-in predicates: call one with a subject, get True or False."""

    __slots__ = ()

    def __call__(self, subject: Subject) -> bool:
        raise NotImplementedError  # pragma: no cover - every predicate defines it

    def __eq__(self, other: object) -> bool:
        return key_of(self) == key_of(other) if isinstance(other, Predicate) else NotImplemented

    def __hash__(self) -> int:
        return hash(key_of(self))

    def __and__(self, other: Wanted) -> AllOf:
        return AllOf([self, other]) if callable(other) else NotImplemented

    def __rand__(self, other: Wanted) -> AllOf:
        return AllOf([other, self]) if callable(other) else NotImplemented

    def __or__(self, other: Wanted) -> AnyOf:
        return AnyOf([self, other]) if callable(other) else NotImplemented

    def __ror__(self, other: Wanted) -> AnyOf:
        return AnyOf([other, self]) if callable(other) else NotImplemented

    def __invert__(self) -> Not:
        return Not(self)

    def to_json(self) -> Any:
        """This predicate in the CloudEvents Subscriptions form, ready for `json.dumps`."""
        return to_json(self)


@attrs.frozen(init=False, repr=False, eq=False)
class OnAttributes(Predicate):
    """One condition on each of some attributes; all of them must hold."""

    attributes: tuple[tuple[str, str], ...]
    #: Whether an attribute's text does, given the condition's.
    _test: ClassVar[Any]

    def __init__(self, mapping: Mapping[str, str] | None = None, /, **attributes: str) -> None:
        """Take the attributes by keyword, or in `mapping` where a name is no Python identifier.

        In an audience they are the query's parameters, which may have any name; those of a filter
        are looked at where it is registered. Raises TypeError or ValueError when a name or a value is
        not text, is empty, or when there is none at all.
        """
        pairs = {**(mapping or {}), **attributes}
        if not pairs:
            raise ValueError(f"{type(self).__name__} needs at least one attribute")
        for name, value in pairs.items():
            if not isinstance(name, str):
                raise TypeError(f"an attribute's name must be str, not {type(name).__name__}")
            if not name.isprintable() or not name:
                raise ValueError(f"{quoted(name)} can't name an attribute: use printable characters")
            if not isinstance(value, str):
                raise TypeError(f"{cut(name)} must be str, not {type(value).__name__}")
            if not value:
                raise ValueError(f"{cut(name)} must not be empty")
        self.__attrs_init__(tuple(sorted(pairs.items())))

    def __call__(self, subject: Subject) -> bool:
        for name, value in self.attributes:
            text = subject.get(name)
            if text is None or not self._test(text, value):
                return False
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in self.attributes)})"


@attrs.frozen(init=False, repr=False, eq=False)
class Exact(OnAttributes):
    """Every named attribute is there and equals the given text, case included."""

    _test = staticmethod(str.__eq__)


@attrs.frozen(init=False, repr=False, eq=False)
class Prefix(OnAttributes):
    """Every named attribute is there and begins with the given text, case included."""

    _test = staticmethod(str.startswith)


@attrs.frozen(init=False, repr=False, eq=False)
class Suffix(OnAttributes):
    """Every named attribute is there and ends with the given text, case included."""

    _test = staticmethod(str.endswith)


def _checked_parts(parts: Iterable[Wanted]) -> tuple[Wanted, ...]:
    found = tuple(parts)
    if not found:
        raise ValueError("at least one predicate is needed")
    for part in found:
        check_callable(part)
    return found


def check_callable(part: object) -> None:
    """Raise TypeError for what can be no predicate."""
    if not callable(part):
        raise TypeError(f"{quoted(part)} is neither a predicate nor a callable{hint_of(part)}")


@attrs.frozen(eq=False)
class AllOf(Predicate):
    """Every one of `parts` holds."""

    parts: tuple[Wanted, ...] = attrs.field(converter=_checked_parts)

    def __call__(self, subject: Subject) -> bool:
        for part in self.parts:
            if not part(subject):
                return False
        return True


@attrs.frozen(eq=False)
class AnyOf(Predicate):
    """At least one of `parts` holds."""

    parts: tuple[Wanted, ...] = attrs.field(converter=_checked_parts)

    def __call__(self, subject: Subject) -> bool:
        for part in self.parts:
            if part(subject):
                return True
        return False


@attrs.frozen(eq=False)
class Not(Predicate):
    """`part` doesn't hold."""

    part: Wanted = attrs.field()

    @part.validator
    def _check(self, _: object, value: object) -> None:
        check_callable(value)

    def __call__(self, subject: Subject) -> bool:
        return not self.part(subject)


@attrs.frozen(init=False, repr=False, eq=False)
class Sql(Predicate):
    """A CloudEvents SQL expression (CESQL 1.0.0) is true, and nothing went wrong in finding that out.

    `source` is the expression as it was written. Raises `cesql.ParseError`, a ValueError that says where
    it can't be understood, and what was expected there.
    """

    source: str
    expression: cesql.Expression

    def __init__(self, source: str) -> None:
        if not isinstance(source, str):
            raise TypeError(f"an SQL expression must be str, not {type(source).__name__}")
        self.__attrs_init__(source, cesql.parse(source))

    def __call__(self, subject: Subject) -> bool:
        # A notification's attributes have types, which the language heeds; a client's are text.
        return self.expression.holds(getattr(subject, "value", subject.get))

    def __repr__(self) -> str:
        return f"Sql({self.source!r})"


@attrs.frozen(eq=False)
class _Constant(Predicate):
    """The same answer whatever the subject; `EVERYTHING` and `NOTHING` are the only two."""

    answer: bool

    def __call__(self, subject: Subject) -> bool:
        return self.answer

    def __repr__(self) -> str:
        return "EVERYTHING" if self.answer else "NOTHING"


#: Wants every notification: what a client without a filter has. Its JSON is the empty list.
EVERYTHING: Final = _Constant(True)
#: Wants none: what remains when the last predicate is unsubscribed.
NOTHING: Final = _Constant(False)


#: Those that have no parts.
_PLAIN: Final = frozenset({Exact, Prefix, Suffix, Sql, _Constant})


def is_value(predicate: Wanted) -> bool:
    """Whether it is built of built-in predicates alone: then it never raises, and compares by value."""
    kind = type(predicate)  # of a subclass nothing is known
    if kind is AllOf or kind is AnyOf:
        return all(map(is_value, predicate.parts))  # type: ignore[attr-defined] # mypy doesn't narrow by type()
    if kind is Not:
        return is_value(predicate.part)  # type: ignore[attr-defined] # the same
    return kind in _PLAIN


def key_of(predicate: Wanted) -> Hashable:  # noqa: PLR0911 - a table
    """The canonical form of `predicate`: what stands for it in a dict, as long as it is kept itself.

    Every condition is an atom on one attribute; sets of them are flattened, in no order, and hold
    nothing twice; what decides nothing is left out. So the same meaning has the same key wherever that
    is cheap to see. Callables count by identity, whatever they say: an `__eq__` or `__hash__` of the
    application's may raise, or change its mind.
    """
    kind = type(predicate)
    if isinstance(predicate, OnAttributes) and kind in _PLAIN:
        return _joined("all", [(kind, name, text) for name, text in predicate.attributes])
    if kind is AllOf:
        return _joined("all", map(key_of, predicate.parts))  # type: ignore[attr-defined] # mypy doesn't narrow by type()
    if kind is AnyOf:
        return _joined("any", map(key_of, predicate.parts))  # type: ignore[attr-defined] # the same
    if kind is Sql:
        return ("sql", predicate.source)  # type: ignore[attr-defined] # the same
    if kind is Not:
        return _negated(key_of(predicate.part))  # type: ignore[attr-defined] # the same
    if kind is _Constant:
        return bool(predicate.answer)  # type: ignore[attr-defined] # the same
    # A bound method is made anew at each look; those of one object are equal.
    return predicate if kind is MethodType else id(predicate)


def _joined(how: str, keys: Iterable[Hashable]) -> Hashable:
    """The key of `all` or `any` of these: flat, without what changes nothing."""
    neutral = how == "all"
    found: set[Hashable] = set()
    for key in keys:
        if key is (not neutral):
            return key
        if key is not neutral:
            found |= key[1] if isinstance(key, tuple) and key[0] == how else {key}
    if len(found) < 2:
        return found.pop() if found else neutral
    return (how, frozenset(found))


def _negated(key: Hashable) -> Hashable:
    if isinstance(key, bool):
        return not key
    return key[1] if isinstance(key, tuple) and key[0] == "not" else ("not", key)


def to_json(predicate: Wanted) -> Any:
    """Write `predicate` as the CloudEvents Subscriptions API has it: `from_json` reads it back.

    Raises TypeError for a callable that is not a built-in predicate, and ValueError for `NOTHING`
    anywhere, and `EVERYTHING` inside another, which that form can't say.
    """
    return [] if predicate is EVERYTHING else _write(predicate)


def _write(predicate: Wanted) -> dict[str, Any]:
    match predicate:
        case Exact() | Prefix() | Suffix():
            return {type(predicate).__name__.lower(): dict(predicate.attributes)}
        case AllOf():
            return {"all": [_write(part) for part in predicate.parts]}
        case AnyOf():
            return {"any": [_write(part) for part in predicate.parts]}
        case Not():
            return {"not": _write(predicate.part)}
        case Sql():
            return {"sql": predicate.source}
        case _Constant():
            raise ValueError(f"{predicate} has no JSON but as a whole: leave it out")
    raise TypeError(
        f"{quoted(predicate)} has no JSON: use Exact, Prefix, Suffix, AllOf, AnyOf, Not and Sql instead"
    )
