"""The head of a request: its line and its headers, as text.

h11 can read every head, and says what is wrong with one. It takes as long for that as the rest of the
server takes to accept a client. So a *plain* head, as nearly all are, is read here, with two patterns.
They allow less than h11 does, and every head that they don't allow goes to h11. So no head is accepted
here that h11 would refuse, or read in another way; a test compares the two.

What decides where a request ends is never plain unless it is a single `Content-Length`. There is no I/O
and no state here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Self

import attrs

if TYPE_CHECKING:
    import h11

__all__ = ["Head", "plain_head"]

#: The bytes of the lines. (To delete them is quicker than a pattern that compares each one.)
_TEXT: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
#: Method, target, version, and the lines of the headers. Each line ends with CR LF, and none is folded.
#: (The possessive `*+` never goes back, and `.` not beyond its line, so the time is linear.)
_HEAD: Final = re.compile(
    r"(GET|HEAD|POST|DELETE|OPTIONS) ([!-~]++) HTTP/(1\.[01])\r\n"
    r"(?:[-!#$%&'*+.^_`|~0-9a-zA-Z]++:.*\r\n)*+\r\n"
)
_FIELD: Final = re.compile(r"([^:\r\n]++):[\t ]*+(.*)\r\n")
_LENGTH: Final = re.compile(r"[0-9]{1,20}")
#: Headers for which h11 has rules of its own.
_NOT_PLAIN: Final = frozenset({"transfer-encoding", "expect"})


@attrs.frozen
class Head:
    """The content of a request's head. `headers` are in order, with names in lower case."""

    method: str
    target: str
    http_version: str
    headers: tuple[tuple[str, str], ...]
    #: The body's length in bytes; 0 if it is `chunked`, or if there is none.
    length: int = 0
    chunked: bool = False

    @classmethod
    def parsed(cls, head: h11.Request) -> Self:
        """Return the head that h11 has parsed."""
        # Lowered here, because iterating over h11's own lower-case view is slow.
        fields = tuple(
            (name.decode("ascii").lower(), value.decode("latin-1"))
            for name, value in head.headers.raw_items()
        )
        found = dict(fields)
        return cls(
            head.method.decode("ascii"),
            head.target.decode("ascii"),
            head.http_version.decode("ascii"),
            fields,
            int(found.get("content-length", 0)),
            "transfer-encoding" in found,
        )

    @property
    def persistent(self) -> bool:
        """Whether the peer may send another request behind this one."""
        listed = ",".join([value for name, value in self.headers if name == "connection"]).lower()
        return self.http_version >= "1.1" and "close" not in map(str.strip, listed.split(","))


def plain_head(raw: bytes) -> Head | None:
    """Parse a whole head, up to and including its empty line; return None if h11 must parse it."""
    text = raw.decode("latin-1")
    found = _HEAD.fullmatch(text)
    ends = raw.translate(None, _TEXT)
    if found is None or ends != b"\r\n" * (len(ends) // 2):
        return None
    method, target, version = found.groups()
    lines = _FIELD.findall(text, found.end(3) + len("\r\n"))
    fields = tuple([(name.lower(), value.rstrip("\t ")) for name, value in lines])
    names = [name for name, _ in fields]
    if names.count("host") != 1 or not _NOT_PLAIN.isdisjoint(names):
        return None
    lengths = [value for name, value in fields if name == "content-length"]
    if lengths and (len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0])):
        return None
    return Head(method, target, version, fields, int(lengths[0]) if lengths else 0)
