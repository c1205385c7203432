"""Answers in HTTP, read from bytes as they came, and what may be in any of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from tests.web import Answered

__all__ = ["Malformed", "fault_of", "is_last", "read_all", "read_one"]

_STATUS = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [\x20-\x7e]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t\x20-\x7e]*)")
#: Those of 5xx that a server in good health may give, each with its reason.
_REFUSALS = (503, 507)
_WITHOUT_BODY = (101, 204, 304)


class Malformed(Exception):
    """Bytes that are no answer."""


def read_one(data: bytes, method: str | None = None) -> tuple[Answered, int] | None:
    """The first answer in `data`, and where it ends; None as long as it isn't whole.

    `method` is that of the request; None where it isn't known: then an answer without its body is one
    to HEAD. A body in chunks is taken as far as it came. Raises `Malformed`.
    """
    head, found, _ = data.partition(b"\r\n\r\n")
    if not found:
        return None
    line, *fields = head.split(b"\r\n")
    if not (status := _STATUS.fullmatch(line)):
        raise Malformed(f"no status line: {line[:200]!r}")
    headers: dict[str, str] = {}
    for field in fields:
        if not (matched := _FIELD.fullmatch(field)):
            raise Malformed(f"no header: {field[:200]!r}")
        name = matched[1].decode().lower()
        value = matched[2].decode()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    code, begin = int(status[1]), len(head) + 4
    if code in _WITHOUT_BODY or code < 200 or method == "HEAD":
        return Answered(code, headers, b""), begin
    if "content-length" not in headers and method is None and data[begin : begin + 9] == b"HTTP/1.1 ":
        return Answered(code, headers, b""), begin
    if "content-length" not in headers:  # it ends with the connection
        return Answered(code, headers, data[begin:]), len(data)
    end = begin + int(headers["content-length"])
    if method is None and data[begin : begin + 9] in (b"", b"HTTP/1.1 "):
        return Answered(code, headers, b""), begin
    return None if len(data) < end else (Answered(code, headers, data[begin:end]), end)


def read_all(data: bytes) -> Iterator[Answered]:
    """The answers in all bytes of a connection, those of 1xx left out. Raises `Malformed`."""
    while data:
        one = read_one(data)
        if one is None:
            raise Malformed(f"cut off: {data[:200]!r}")
        answer, end = one
        if answer.status == 101 or answer.status >= 200:
            yield answer
        if answer.status == 101:
            return
        data = data[end:]


def is_last(answer: Answered) -> bool:
    """Whether nothing follows on its connection."""
    return "close" in answer.headers.get("connection", "").lower() or answer.status == 101


def fault_of(answer: Answered, allowed: frozenset[int] = frozenset()) -> str | None:
    """The fault of an answer, whatever the request was. `allowed` are further ones of 5xx."""
    if answer.status >= 500 and answer.status not in allowed and answer.status not in _REFUSALS:
        return f"it was answered with {answer.status}: {answer.body[:300]!r}"
    if answer.status < 400 or not answer.body:
        return None
    try:
        problem = json.loads(answer.body)
        fine = problem["status"] == answer.status and problem["detail"] and problem["title"]
    except (ValueError, KeyError, TypeError):
        fine = False
    if not fine or answer.headers.get("content-type") != "application/problem+json":
        return f"{answer.status} came without a problem document that says why: {answer.body[:300]!r}"
    return None
