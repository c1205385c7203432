"""Predicates: who wants what.

A predicate decides on a *subject*, anything with `get(name) -> str | None`: a notification (then it
is a subscription's filter) or a client (then it is a publisher's audience). The built-in ones are the
dialects of the CloudEvents Subscriptions API (section 3.2.4, "filters"), with its names and its JSON.

They are values: immutable, equal when they say the same in the same words, hashable, combined with
`&`, `|` and `~`. That is what lets the hub find equal ones and index them. Any callable of the
subject can stand wherever a predicate can; it is compared by identity and has no JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from types import MethodType
from typing import Any, Final, Protocol

import attrs

from trionotify.notification import check_attribute_name

__all__ = [
    "EVERYTHING",
    "NOTHING",
    "AllOf",
    "AnyOf",
    "Exact",
    "Not",
    "Predicate",
    "Prefix",
    "Subject",
    "Suffix",
    "Wanted",
    "from_json",
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


@attrs.frozen(init=False, repr=False)
class _OnAttributes(Predicate):
    """One condition on each of some attributes; all of them must hold."""

    attributes: tuple[tuple[str, str], ...]

    def __init__(self, mapping: Mapping[str, str] | None = None, /, **attributes: str) -> None:
        """Take the attributes by keyword, or in `mapping` where a name is no Python identifier.

        Raises TypeError or ValueError when a name or a value is not text, is empty, or when there
        is none at all.
        """
        pairs = {**(mapping or {}), **attributes}
        if not pairs:
            raise ValueError(f"{type(self).__name__} needs at least one attribute")
        for name, value in pairs.items():
            check_attribute_name(name)
            if not isinstance(value, str):
                raise TypeError(f"{name} must be str, not {type(value).__name__}")
            if not value:
                raise ValueError(f"{name} must not be empty")
        self.__attrs_init__(tuple(sorted(pairs.items())))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in self.attributes)})"


@attrs.frozen(init=False, repr=False)
class Exact(_OnAttributes):
    """Every named attribute is there and equals the given text, case included."""

    def __call__(self, subject: Subject) -> bool:
        for name, value in self.attributes:
            if subject.get(name) != value:
                return False
        return True


@attrs.frozen(init=False, repr=False)
class Prefix(_OnAttributes):
    """Every named attribute is there and begins with the given text, case included."""

    def __call__(self, subject: Subject) -> bool:
        for name, value in self.attributes:
            text = subject.get(name)
            if text is None or not text.startswith(value):
                return False
        return True


@attrs.frozen(init=False, repr=False)
class Suffix(_OnAttributes):
    """Every named attribute is there and ends with the given text, case included."""

    def __call__(self, subject: Subject) -> bool:
        for name, value in self.attributes:
            text = subject.get(name)
            if text is None or not text.endswith(value):
                return False
        return True


def _checked_parts(parts: Iterable[Wanted]) -> tuple[Wanted, ...]:
    found = tuple(parts)
    if not found:
        raise ValueError("at least one predicate is needed")
    for part in found:
        _check_callable(part)
    return found


def _check_callable(part: object) -> None:
    if not callable(part):
        raise TypeError(f"{part!r} is neither a predicate nor a callable")


@attrs.frozen
class AllOf(Predicate):
    """Every one of `parts` holds."""

    parts: tuple[Wanted, ...] = attrs.field(converter=_checked_parts)

    def __call__(self, subject: Subject) -> bool:
        for part in self.parts:
            if not part(subject):
                return False
        return True


@attrs.frozen
class AnyOf(Predicate):
    """At least one of `parts` holds."""

    parts: tuple[Wanted, ...] = attrs.field(converter=_checked_parts)

    def __call__(self, subject: Subject) -> bool:
        for part in self.parts:
            if part(subject):
                return True
        return False


@attrs.frozen
class Not(Predicate):
    """`part` doesn't hold."""

    part: Wanted = attrs.field()

    @part.validator
    def _check(self, _: object, value: object) -> None:
        _check_callable(value)

    def __call__(self, subject: Subject) -> bool:
        return not self.part(subject)


@attrs.frozen
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
_PLAIN: Final = frozenset({Exact, Prefix, Suffix, _Constant})

_ON_ATTRIBUTES: Final[dict[str, type[_OnAttributes]]] = {
    "exact": Exact,
    "prefix": Prefix,
    "suffix": Suffix,
}
_OF_PARTS: Final[dict[str, type[AllOf | AnyOf]]] = {"all": AllOf, "any": AnyOf}
#: Evaluating a filter takes a few frames of the stack for each level.
_MAX_DEPTH: Final = 32
_DIALECTS: Final = ", ".join([*_ON_ATTRIBUTES, *_OF_PARTS, "not"])


def from_json(value: object) -> Predicate:
    """Read a predicate from the JSON of the CloudEvents Subscriptions API.

    `value` is one filter (a mapping with the name of its dialect as the only key), or a list of
    filters, which must all hold; an empty list wants everything. JSON text does as well.
    Raises ValueError that names the fault and where it is.
    """
    if isinstance(value, str | bytes):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"filters: not JSON: {error}") from None
        except RecursionError:
            raise ValueError("filters: nested too deep") from None
    if not isinstance(value, list):
        return _read_filter(value, "filter")
    filters = [_read_filter(item, f"filters[{at}]") for at, item in enumerate(value)]
    if not filters:
        return EVERYTHING
    return filters[0] if len(filters) == 1 else AllOf(filters)


def _read_filter(value: object, where: str, depth: int = 1) -> Predicate:
    if depth > _MAX_DEPTH:
        raise ValueError(f"filters: nested too deep: {_MAX_DEPTH} is the most")
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ValueError(
            f"{where}: a filter is an object with one key, the name of its dialect ({_DIALECTS})"
        )
    ((dialect, content),) = value.items()
    where = f"{where}.{dialect}"
    if make := _ON_ATTRIBUTES.get(dialect):
        if not isinstance(content, Mapping):
            raise ValueError(f"{where}: an object of attributes and their texts is needed")
        try:
            return make(content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None
    if combine := _OF_PARTS.get(dialect):
        if not isinstance(content, list) or not content:
            raise ValueError(f"{where}: an array of at least one filter is needed")
        return combine(
            [_read_filter(item, f"{where}[{at}]", depth + 1) for at, item in enumerate(content)]
        )
    if dialect == "not":
        return Not(_read_filter(content, where, depth + 1))
    raise ValueError(f"{where}: no such dialect; there are {_DIALECTS}")


def is_value(predicate: Wanted) -> bool:
    """Whether it is built of built-in predicates alone: then it never raises, and compares by value."""
    kind = type(predicate)  # of a subclass nothing is known
    if kind is AllOf or kind is AnyOf:
        return all(map(is_value, predicate.parts))  # type: ignore[attr-defined] # mypy doesn't narrow by type()
    if kind is Not:
        return is_value(predicate.part)  # type: ignore[attr-defined] # the same
    return kind in _PLAIN


def key_of(predicate: Wanted) -> Hashable:
    """What stands for `predicate` in a dict, as long as the predicate itself is kept.

    Built-in ones are equal by value, whatever they are built of. Other callables count by identity,
    whatever they say: an `__eq__` or `__hash__` of the application's may raise, or change its mind.
    """
    kind = type(predicate)
    if kind is AllOf or kind is AnyOf:
        return (kind, tuple(map(key_of, predicate.parts)))  # type: ignore[attr-defined] # mypy doesn't narrow by type()
    if kind is Not:
        return (kind, key_of(predicate.part))  # type: ignore[attr-defined] # the same
    # A bound method is made anew at each look; those of one object are equal.
    return predicate if kind in _PLAIN or kind is MethodType else id(predicate)


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
        case _Constant():
            raise ValueError(f"{predicate} has no JSON but as a whole: leave it out")
    raise TypeError(
        f"{predicate!r} has no JSON: use Exact, Prefix, Suffix, AllOf, AnyOf and Not instead"
    )
