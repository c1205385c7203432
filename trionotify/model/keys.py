"""The keys of a query: the server's, misspelt ones, and the application's.

A key that isn't the server's is the application's, for audiences and `authenticate`. If a misspelt key
passed for one of those, a client would get everything, or a notification would go to everyone. So a
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
from trionotify.model.text import texts_of

__all__ = [
    "CREDENTIALS",
    "OF_TEMPLATE",
    "OURS",
    "TICKET",
    "UNSIGNED",
    "allowed_params",
    "check_keys",
    "is_filter",
]

#: Keys of a publisher's query that are attributes of its notifications; a `POST` has `audience` besides.
OF_TEMPLATE: Final = frozenset({"type", "subject", "source", "datacontenttype", "to"})
#: All keys of the server, except the dotted ones.
OURS: Final = OF_TEMPLATE | {
    *("id", "role", "sql", "filters", "narrow", "echo", *SPELLINGS, "lag", "format", "exp", "sig"),
    *("audience", "ticket"),
}
#: The key of a ticket, which stands for a token in a URL, once.
TICKET: Final = "ticket"
#: The keys whose values let a client in. Audiences don't see them, because a publisher could find out a
#: value by trying, and use it.
CREDENTIALS: Final = frozenset({"sig", TICKET})
#: Wrong keys, and the keys that they mean.
_MISNOMERS: Final[Mapping[str, str]] = {
    "filter": "filters",
    **{kind: f"{kind}.ATTR=VALUE" for kind in ON_ATTRIBUTES},
    "recipient": "to",
    "recipients": "to",
    "cursor": "since",
}
#: Words that applications use, although one letter makes them ours.
_WORDS: Final = frozenset({"formats", "roles", "sources", "subjects", "types"})
#: The shortest key that is checked. Shorter keys are too similar to other words: `tag` and `lag`, `sid`
#: and `sig`, `uid` and `id`.
_SHORTEST: Final = 4


#: The keys that the bearer of a signed query may choose. They change how it receives, and can only
#: narrow what.
UNSIGNED: Final = frozenset({*SPELLINGS, "lag", "format", "echo", "narrow"})


def _plain(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "")


#: The key that is meant, by its plain spelling.
_MEANT: Final[Mapping[str, str]] = {**{_plain(key): key for key in sorted(OURS)}, **_MISNOMERS}


def is_filter(key: str) -> bool:
    """Return whether this query key is a filter."""
    return key in ("filters", "sql") or key.partition(".")[0] in ON_ATTRIBUTES


def check_keys(params: Mapping[str, str], allowed: frozenset[str] | None = None) -> None:
    """Raise `Refused` (400), with the fix, for a misspelt key, and for a key not in `allowed`."""
    for key in params:
        if key in OURS:
            continue
        kind, dot, _ = key.partition(".")
        if dot:
            if kind not in ON_ATTRIBUTES:
                raise _no_such(key, "; filter keys are exact.ATTR, prefix.ATTR and suffix.ATTR")
        elif meant := _meant(key):
            raise _no_such(key, f"; did you mean {meant!r}?")
        elif allowed is not None and key not in allowed:
            hint = "; remove it, or add it to the server's allow_params"
            raise _no_such(key, did_you_mean(key, OURS | allowed) or hint)


def _no_such(key: str, hint: str) -> Refused:
    # The log doesn't name it, because it may be a token without its name.
    return Refused(400, f"{cut(key)}: unknown key{hint}", logged="a key")


def allowed_params(names: str | Iterable[str] | None) -> frozenset[str] | None:
    """Return the keys in `allow_params`. A text may have several with commas or spaces between.

    Raises TypeError or ValueError that begins with `allow_params`.
    """
    if names is None:
        return None
    found: set[str] = set()
    for text in texts_of("allow_params", names):
        found.update(filter(None, re.split(r"[\s,]+", text)))
    for key in found - OURS:
        if "." in key:
            raise ValueError(
                f"allow_params: {key!r} has a dot, so it is a filter and is always allowed; remove it"
            )
        if meant := _meant(key):
            raise ValueError(f"allow_params: {key!r} is too similar to {meant!r}; choose another name")
    return frozenset(found)


def _meant(key: str) -> str | None:
    """Return the server's key that a misspelt key means; None if it is the application's."""
    plain = _plain(key)
    return _MEANT.get(plain) or (None if plain in _WORDS else _neighbour(plain))


def _neighbour(plain: str) -> str | None:
    return next((meant for name, meant in _MEANT.items() if _is_slip(plain, name)), None)


def _is_slip(text: str, name: str) -> bool:
    """Return whether `text` is `name` with one letter too many, missing, or wrong, or two swapped.

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
