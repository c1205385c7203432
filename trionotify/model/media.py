"""Media types of bodies and of events' data (RFC 9110, section 8.3).

A parameter's name may be in any case, its value may be in quotes, and an encoding has several labels. So
only this module reads the text of a media type. There is no I/O, and no state.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import attrs

__all__ = ["NOSNIFF", "Media", "read_media"]

#: `; name=value`, or `; name="value"`, in which a backslash takes what follows as it is. A value whose
#: quotes aren't closed extends to the end, because searching for the end of each would take quadratic
#: time.
_PARAMETER: Final = re.compile(
    r';\s*(?P<name>[^\s;="]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*+)|(?P<plain>[^;"]*))', re.DOTALL
)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
#: The labels of UTF-8 (https://encoding.spec.whatwg.org/#names-and-labels), and of its ASCII part.
_UTF_8: Final = frozenset(
    {
        *("utf-8", "utf8", "unicode-1-1-utf-8", "unicode11utf8", "unicode20utf8", "x-unicode20utf8"),
        *("us-ascii", "ascii"),
    }
)
#: Subtypes of XML, besides those that end in `+xml` (RFC 7303, section 9).
_XML: Final = frozenset({"xml", "xml-dtd", "xml-external-parsed-entity"})
#: A longer text isn't cached, because texts from strangers must not fill the memory.
_LONGEST: Final = 200


#: It keeps browsers from guessing another media type than the answer's.
NOSNIFF: Final = ("X-Content-Type-Options", "nosniff")


@attrs.frozen
class Media:
    """A media type, with its `essence`, like `text/plain`, in lower case, and its parameters by name."""

    essence: str
    parameters: Mapping[str, str]
    #: Whether it is a JSON type (RFC 6839, section 3.1). Stored, because every event needs it.
    is_json: bool = attrs.field(init=False)

    @is_json.default
    def _look(self) -> bool:
        subtype = self.essence.rpartition("/")[2]
        return subtype == "json" or subtype.endswith("+json")

    @property
    def is_xml(self) -> bool:
        """Whether it is an XML type, which is text."""
        subtype = self.essence.rpartition("/")[2]
        return subtype in _XML or subtype.endswith("+xml")

    @property
    def charset(self) -> str | None:
        """The encoding that it names, in lower case, or None."""
        return self.parameters.get("charset", "").strip().lower() or None

    @property
    def is_utf_8(self) -> bool:
        """Whether it names UTF-8, by any of its labels, or no encoding."""
        return self.charset is None or self.charset in _UTF_8


def read_media(text: str) -> Media:
    """Parse a media type. Invalid parameters are ignored; of two with one name, the first counts."""
    return _read(text) if len(text) <= _LONGEST else _read.__wrapped__(text)


@lru_cache(maxsize=256)
def _read(text: str) -> Media:
    essence = text.partition(";")[0]
    parameters: dict[str, str] = {}
    for found in _PARAMETER.finditer(text, len(essence)):
        quoted = found["quoted"]
        value = found["plain"].strip() if quoted is None else _ESCAPED.sub(r"\1", quoted)
        parameters.setdefault(found["name"].lower(), value)
    return Media(essence.strip().lower(), MappingProxyType(parameters))
