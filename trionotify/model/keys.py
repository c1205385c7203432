"""The keys of a query: ours, those that are nearly ours, and the application's.

A key that isn't ours is the application's: audiences and `authenticate` look at it. If a misspelt key of
ours passed for one of those, a client would get everything, or a notification would go to everyone. So a
key that differs from one of ours by a single slip is refused, in upper or lower case and with or without
underscores. So is a plain misnaming, like `recipient`. With `allow_params`, every key is refused that
isn't listed there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from trionotify.errors import Refused, cut, did_you_mean
from trionotify.model.cursor import SPELLINGS
from trionotify.model.filters import ON_ATTRIBUTES

__all__ = ["OF_TEMPLATE", "OURS", "UNSIGNED", "allowed_params", "check_keys", "is_filter"]

#: What a publisher's query says of what it publishes; a `POST` has `audience` besides.
OF_TEMPLATE: Final = frozenset({"type", "subject", "source", "datacontenttype", "to"})
#: All that mean something, but for the dotted ones.
OURS: Final = OF_TEMPLATE | {
    *("id", "role", "sql", "filters", "narrow", "echo", *SPELLINGS, "lag", "format", "exp", "sig"),
    "audience",
}
#: What is meant by keys that are nobody's.
_MISNOMERS: Final[Mapping[str, str]] = {
    "filter": "filters",
    **{kind: f"{kind}.ATTR=VALUE" for kind in ON_ATTRIBUTES},
    "recipient": "to",
    "recipients": "to",
    "cursor": "since",
}
#: Words that applications use, although one letter makes them ours.
_WORDS: Final = frozenset({"formats", "roles", "sources", "subjects", "types"})
#: Of shorter keys too many words are neighbours: `tag` and `lag`, `sid` and `sig`, `uid` and `id`.
_SHORTEST: Final = 4


#: What its bearer may choose: how it gets what it may have, and less of it.
UNSIGNED: Final = frozenset({*SPELLINGS, "lag", "format", "echo", "narrow"})


def _plain(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "")


#: What is meant, by the plain spelling.
_MEANT: Final[Mapping[str, str]] = {**{_plain(key): key for key in sorted(OURS)}, **_MISNOMERS}


def is_filter(key: str) -> bool:
    """Whether this key of a query is a filter."""
    return key in ("filters", "sql") or key.partition(".")[0] in ON_ATTRIBUTES


def check_keys(params: Mapping[str, str], allowed: frozenset[str] | None = None) -> None:
    """Raise `Refused` (400) for a key that is nearly ours, and for one that isn't `allowed`, if that is
    given. The reason says what to write.
    """
    for key in params:
        if key in OURS:
            continue
        kind, dot, _ = key.partition(".")
        if dot:
            if kind not in ON_ATTRIBUTES:
                raise _no_such(key, "; with a dot there are exact.ATTR, prefix.ATTR and suffix.ATTR")
        elif meant := _meant(key):
            raise _no_such(key, f"; did you mean {meant!r}?")
        elif allowed is not None and key not in allowed:
            hint = "; leave it out, or add it to the server's allow_params"
            raise _no_such(key, did_you_mean(key, OURS | allowed) or hint)


def _no_such(key: str, hint: str) -> Refused:
    # The log doesn't say which: it may be a token without its name.
    return Refused(400, f"{cut(key)}: no such key{hint}", logged="a key")


def allowed_params(names: str | Iterable[str] | None) -> frozenset[str] | None:
    """The application's keys in `allow_params`, each text one or several with commas or spaces between.

    Raises TypeError or ValueError that begins with `allow_params`.
    """
    if names is None:
        return None
    found: set[str] = set()
    for text in (names,) if isinstance(names, str) else names:
        if not isinstance(text, str):
            raise TypeError(f"allow_params must be str, not {type(text).__name__}")
        found.update(filter(None, re.split(r"[\s,]+", text)))
    for key in found - OURS:
        if "." in key:
            raise ValueError(f"allow_params: {key!r}: keys with a dot are filters, and allowed anyway")
        if meant := _meant(key):
            raise ValueError(f"allow_params: {key!r} is too much like {meant!r}: choose another name")
    return frozenset(found)


def _meant(key: str) -> str | None:
    """Which key of ours is meant by one that isn't; None when it is the application's."""
    plain = _plain(key)
    return _MEANT.get(plain) or (None if plain in _WORDS else _neighbour(plain))


def _neighbour(plain: str) -> str | None:
    return next((meant for name, meant in _MEANT.items() if _is_slip(plain, name)), None)


def _is_slip(text: str, name: str) -> bool:
    """Whether `text` is `name` with one letter too many, missing, or wrong, or two swapped.

    In a name of four letters a wrong one doesn't count: `rule`, `tape` and `each` are words.
    """
    if len(name) < _SHORTEST or abs(len(text) - len(name)) > 1:
        return False
    start = 0
    while start < min(len(text), len(name)) and text[start] == name[start]:
        start += 1
    end = 0
    while end < min(len(text), len(name)) - start and text[-1 - end] == name[-1 - end]:
        end += 1
    found, wanted = text[start : len(text) - end], name[start : len(name) - end]
    if len(found) == len(wanted) == 1:
        return len(name) > _SHORTEST
    return len(found) + len(wanted) == 1 or (len(found) == 2 and found == wanted[::-1])
