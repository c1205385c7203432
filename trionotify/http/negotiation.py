"""Negotiation: which form of a resource an answer has, by what the request's headers accept.

`Accept` and `Accept-Encoding` are lists, whose items have a weight between 0 and 1 (RFC 9110, section
12). `If-None-Match` lists the forms that the client has already (section 13.1.2). There is no I/O and no
state.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from trionotify.model.media import read_media

if TYPE_CHECKING:
    from trionotify.http.messages import Request

__all__ = ["has_already", "preferred", "takes_gzip"]

#: The most items of a list that are read. Browsers send ten, but thousands fit into a head.
_ITEMS: Final = 100
#: An item. A comma in quotes is a part of it.
_ITEM: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+"?)++')
#: A weight. Some clients (Java's) leave out the 0 before the point, or have more than three decimals.
_WEIGHT: Final = re.compile(r"0?\.[0-9]+|0\.?|1(?:\.0*)?")
#: The names of a coding (RFC 9110, section 8.4.1.3).
_GZIP: Final = ("gzip", "x-gzip")


def preferred(accept: str | None, offered: Sequence[str]) -> str | None:
    """The media type in `offered` that a header `Accept` prefers; None if it accepts none of them.

    It follows RFC 9110, section 12.5.1, but ignores parameters other than `q`. Among equals, the first
    one wins. An empty header counts as a missing one, which accepts the first.
    """
    if accept is None or not accept.strip():
        return offered[0]
    weights = _weights(accept)

    def liking(kind: str) -> float:
        # Java's default has a `*` for `*/*`.
        return _first(weights, kind, f"{kind.partition('/')[0]}/*", "*/*", "*") or 0.0

    best = max(offered, key=liking)
    return best if liking(best) > 0 else None


def takes_gzip(request: Request) -> bool:
    """Return whether to compress an answer with gzip, by RFC 9110, section 12.5.3.

    Gzip must be accepted, and preferred no less than the plain answer. Unless it is listed, a plain
    answer is the last choice. It may be refused, with `identity;q=0` or `*;q=0`.
    """
    weights = _weights(request.header("accept-encoding") or "")
    zipped, plain = _first(weights, *_GZIP, "*"), _first(weights, "identity", "*")
    if zipped is None:
        return plain == 0
    return zipped > 0 and zipped >= (plain or 0.0)


def has_already(request: Request, tag: str) -> bool:
    """Return whether the client has the content with this entity tag, strong or weak, already."""
    opaque = tag.removeprefix("W/")
    listed = request.tokens("if-none-match")
    return any(item == "*" or item.removeprefix("W/") == opaque for item in listed)


def _first(weights: dict[str, float], *names: str) -> float | None:
    """Return the weight of the first of these names that is listed; None if none is."""
    return next((weights[name] for name in names if name in weights), None)


def _weights(text: str) -> dict[str, float]:
    """Return the weights of a list's items, by their names in lower case.

    An item whose weight is invalid counts as not listed. Of two with one name, the larger weight counts.
    """
    found: dict[str, float] = {}
    for item in itertools.islice(_ITEM.finditer(text), _ITEMS):
        media = read_media(item[0])
        weight = media.parameters.get("q", "1")
        if media.essence and _WEIGHT.fullmatch(weight):
            found[media.essence] = max(float(weight), found.get(media.essence, 0.0))
    return found
