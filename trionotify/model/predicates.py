"""Predicates, the conditions of filters and audiences.

A predicate decides on a *subject*, anything with `get(name) -> str | None`: a notification (then it
is a subscription's filter) or a client (then it is a publisher's audience). The built-in ones are the
dialects of the CloudEvents Subscriptions API (section 3.2.4, "filters"), with its names; `filters` reads
them from its JSON.

They are immutable, hashable values, which `&`, `|` and `~` combine. Two are equal if they have the same
canonical form (`key_of`), whatever the order, nesting and repetition of their parts. That is what lets
the hub find equal ones and index them. Any callable of the subject can stand wherever a predicate can;
it is compared by identity and has no JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from types import FunctionType, MethodType
from typing import Any, ClassVar, Final, NoReturn, Protocol

import attrs

from trionotify import cesql
from trionotify.errors import cut, hint_of, quoted
from trionotify.model.text import check_unicode

__all__ = [
    "EVERYTHING",
    "LEAVES",
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
    "check_plain",
    "is_value",
    "key_of",
    "to_json",
]


class Subject(Protocol):
    """The subject of a predicate, which is a notification or a client."""

    def get(self, name: str, /) -> str | None:
        """Return the attribute `name` as text, or None if it is missing."""


#: A predicate, or any callable that serves as one.
Wanted = Callable[[Any], object]
#: The flags of functions that return before their code has run.
_LATER: Final = CO_COROUTINE | CO_GENERATOR | CO_ASYNC_GENERATOR


class Predicate:
    """The base of the built-in predicates. Call one with a subject; it returns True or False."""

    __slots__ = ()

    def __call__(self, subject: Subject) -> bool:
        raise NotImplementedError  # pragma: no cover - every predicate defines it

    def __eq__(self, other: object) -> bool:
        return key_of(self) == key_of(other) if isinstance(other, Predicate) else NotImplemented

    def __hash__(self) -> int:
        return hash(key_of(self))

    def __bool__(self) -> NoReturn:
        # `a and b` would be `b`, which selects more.
        raise TypeError("a predicate is neither true nor false; write &, | and ~ for and, or and not")

    def __and__(self, other: Wanted) -> AllOf:
        return AllOf(_flat(AllOf, self, other)) if callable(other) else NotImplemented

    def __rand__(self, other: Wanted) -> AllOf:
        return AllOf(_flat(AllOf, other, self)) if callable(other) else NotImplemented

    def __or__(self, other: Wanted) -> AnyOf:
        return AnyOf(_flat(AnyOf, self, other)) if callable(other) else NotImplemented

    def __ror__(self, other: Wanted) -> AnyOf:
        return AnyOf(_flat(AnyOf, other, self)) if callable(other) else NotImplemented

    def __invert__(self) -> Not:
        return Not(self)

    def to_json(self) -> Any:
        """Return this predicate in the CloudEvents Subscriptions form, ready for `json.dumps`."""
        return to_json(self)


@attrs.frozen(init=False, repr=False, eq=False)
class OnAttributes(Predicate):
    """A condition on each of some attributes, all of which must hold."""

    attributes: tuple[tuple[str, str], ...]
    #: Compares an attribute's text with the condition's.
    _test: ClassVar[Any]

    def __init__(self, mapping: Mapping[str, str] | None = None, /, **attributes: str) -> None:
        """Take the attributes as keywords, or in `mapping` if a name isn't a Python identifier.

        In an audience they are the query's parameters, which may have any name; those of a filter
        are checked when it is registered. Raises TypeError or ValueError if a name or a value isn't
        text, is empty, or has a lone surrogate, or if there are none.
        """
        kind = type(self).__name__
        if not isinstance(mapping, Mapping | None):
            raise TypeError(
                f"{kind}: must be given attributes, such as {kind}(type='order.paid'), not"
                f" {quoted(mapping)}"
            )
        pairs = {**(mapping or {}), **attributes}
        if not pairs:
            raise ValueError(f"{kind}: needs at least one attribute")
        for name, value in pairs.items():
            if not isinstance(name, str):
                raise TypeError(f"attribute name: must be str, not {type(name).__name__}")
            if not name.isprintable() or not name:
                raise ValueError(f"attribute name {quoted(name)}: must consist of printable characters")
            if not isinstance(value, str):
                raise TypeError(f"{cut(name)}: must be str, not {type(value).__name__}")
            if not value:
                raise ValueError(f"{cut(name)}: must not be empty")
            check_unicode(cut(name), value)
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
    """Every named attribute exists and equals the given text, including case."""

    _test = staticmethod(str.__eq__)


@attrs.frozen(init=False, repr=False, eq=False)
class Prefix(OnAttributes):
    """Every named attribute exists and begins with the given text, including case."""

    _test = staticmethod(str.startswith)


@attrs.frozen(init=False, repr=False, eq=False)
class Suffix(OnAttributes):
    """Every named attribute exists and ends with the given text, including case."""

    _test = staticmethod(str.endswith)


class _Checked(tuple[Wanted, ...]):
    """Parts that were checked before."""

    __slots__ = ()


def _flat(kind: type[AllOf] | type[AnyOf], *operands: Wanted) -> _Checked:
    """Return the parts of `operands`, joined by an operator.

    A chain of operators has one level, however long it is. Otherwise a loop with `|=` would make a
    predicate that is nested deeper than the stack.
    """
    found: list[Wanted] = []
    for operand in operands:
        if type(operand) is kind:
            found += operand.parts
        else:
            check_callable(operand)
            found.append(operand)
    return _Checked(found)


def _checked_parts(parts: Iterable[Wanted]) -> tuple[Wanted, ...]:
    if not isinstance(parts, Iterable):
        raise TypeError(f"predicates: must be in a list, such as [{quoted(parts)}]")
    found = tuple(parts)
    if not found:
        raise ValueError("predicates: must be at least one, not none")
    if type(parts) is not _Checked:
        for part in found:
            check_callable(part)
    return found


def check_callable(part: object) -> None:
    """Raise TypeError if `part` can't be a predicate."""
    if not callable(part):
        raise TypeError(f"{quoted(part)} is not a predicate or a callable{hint_of(part)}")
    check_plain(part)


def check_plain(function: Callable[..., Any], name: str = "predicate") -> None:
    """Raise TypeError for an async function or a generator, whose result would always count as true."""
    if type(function) in _BUILT_IN:
        return
    inner: Any = function
    # Types, because a mock seems to be an instance of its `spec`. And not the functions of `inspect`,
    # which take ten times as long, for each notification that is published with a function.
    while (kind := type(inner)) is partial or kind is MethodType:
        inner = inner.func if kind is partial else inner.__func__
    if kind is not FunctionType and not _flags_of(inner) & _LATER:
        inner = kind.__call__
    if _flags_of(inner) & _LATER:
        raise TypeError(
            f"{name}: must be a plain function, but {quoted(function)} is async or has a yield"
        )


def _flags_of(function: Any) -> int:
    """Return the flags of a function's code, or of that which an `AsyncMock` seems to have."""
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
    return flags if isinstance(flags, int) else 0


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
    """A CloudEvents SQL expression (CESQL 1.0.0) is true, and its evaluation had no errors.

    `source` is the expression's text. Raises `cesql.ParseError`, a ValueError that says where the text
    is invalid, and what was expected there.
    """

    source: str
    expression: cesql.Expression

    def __init__(self, source: str) -> None:
        if not isinstance(source, str):
            raise TypeError(f"sql: must be str, not {type(source).__name__}")
        check_unicode("sql", source)
        self.__attrs_init__(source, cesql.parse(source))

    def __call__(self, subject: Subject) -> bool:
        # A notification's attributes have types, which the language respects. A client's are text.
        return self.expression.holds(getattr(subject, "value", subject.get))

    def __repr__(self) -> str:
        return f"Sql({self.source!r})"

    def __reduce__(self) -> tuple[type[Sql], tuple[str]]:
        return Sql, (self.source,)


@attrs.frozen(eq=False)
class _Constant(Predicate):
    """A predicate with a constant result: `EVERYTHING` or `NOTHING`."""

    answer: bool

    def __call__(self, subject: Subject) -> bool:
        return self.answer

    def __repr__(self) -> str:
        return "EVERYTHING" if self.answer else "NOTHING"

    def __reduce__(self) -> str:
        return repr(self)  # a copy is the constant itself


#: Matches every notification. It is the filter of a client without one. Its JSON is the empty list.
EVERYTHING: Final = _Constant(True)
#: Matches no notification. It remains when the last predicate is unsubscribed.
NOTHING: Final = _Constant(False)


#: The predicates without parts.
LEAVES: Final = frozenset({Exact, Prefix, Suffix, Sql, _Constant})
_BUILT_IN: Final = LEAVES | {AllOf, AnyOf, Not}


def is_value(predicate: Wanted) -> bool:
    """Return whether it consists only of built-in predicates, which never raise and compare by value."""
    kind = type(predicate)  # of a subclass nothing is known
    if kind is AllOf or kind is AnyOf:
        return all(map(is_value, predicate.parts))  # type: ignore[attr-defined] # mypy doesn't narrow by type()
    if kind is Not:
        return is_value(predicate.part)  # type: ignore[attr-defined] # the same
    return kind in LEAVES


def demanded(predicate: Wanted) -> dict[tuple[str, str], None] | None:
    """Return names and values of which everything that it selects has at least one; None if unknown."""
    match predicate:
        case Exact(attributes=(condition, *_)) if type(predicate) is Exact:
            return {condition: None}
        case AllOf(parts=parts) if type(predicate) is AllOf:
            for part in parts:
                if (found := demanded(part)) is not None:
                    return found
        case AnyOf(parts=parts) if type(predicate) is AnyOf:
            together: dict[tuple[str, str], None] = {}
            for part in parts:
                found = demanded(part)
                if found is None:
                    return None
                together.update(found)
            return together
    return None


def key_of(predicate: Wanted) -> Hashable:  # noqa: PLR0911 - a table
    """Return the canonical form of `predicate`, a dict's key for as long as the predicate is kept.

    Every condition is an atom on one attribute. Nested sets of them are flattened, without order and
    without duplicates, and parts that decide nothing are omitted. So equivalent predicates have the same
    key if that is cheap to find out. Callables count by identity, because an `__eq__` or `__hash__` of
    the application may raise, or change its result.
    """
    kind = type(predicate)
    if isinstance(predicate, OnAttributes) and kind in LEAVES:
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
    # Each access creates another bound method, but those of one object are equal.
    return predicate if kind is MethodType else id(predicate)


def _joined(how: str, keys: Iterable[Hashable]) -> Hashable:
    """Return the key of `all` or `any` of these, flat and without parts that change nothing."""
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
    """Write `predicate` in the form of the CloudEvents Subscriptions API, which `from_json` reads.

    Raises TypeError for a callable that is not a built-in predicate, and ValueError for `NOTHING`
    anywhere, and `EVERYTHING` inside another predicate, which that form can't express.
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
            raise ValueError(f"{predicate} can't be a part of a JSON filter; leave it out")
    raise TypeError(
        f"{quoted(predicate)} can't be written as JSON; use Exact, Prefix, Suffix, AllOf, AnyOf,"
        " Not and Sql"
    )
