"""HTTP from the other side: requests as bytes, answers as h11's client understands them."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import attrs
import h11

from tests.conftest import Room
from tests.kernel import FakeKernel
from trionotify.http.serving import serve_transport

__all__ = ["Answered", "Web", "blocks", "get", "post"]


@attrs.frozen
class Answered:
    """An answer, whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def get(target: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request without a body."""
    lines = [f"{method} {target} HTTP/{version}", "Host: test", *fields, "", ""]
    return "\r\n".join(lines).encode()


def post(target: str, body: str | bytes, *fields: str) -> bytes:
    """A request with one."""
    data = body.encode() if isinstance(body, str) else body
    return get(target, *fields, f"Content-Length: {len(data)}", method="POST") + data


class Web:
    """One connection."""

    def __init__(self, room: Room, kernel: FakeKernel | None = None, **options: Any) -> None:
        self.kernel = kernel or FakeKernel()
        self._room = room
        self._read = 0
        serve = partial(serve_transport, **{"remote": "web:1", **options})
        room.nursery.start_soon(lambda: serve(room.hub, self.kernel))

    async def ask(self, request: bytes, method: str = "GET") -> Answered:
        """Send one request, and read the answer to it."""
        self.kernel.feed(request)
        await self._room.quiet()
        (answer,) = self.answers(method)
        return answer

    def answers(self, *methods: str) -> list[Answered]:
        """The answers that have come since, to requests with these methods."""
        data = bytes(self.kernel.taken[self._read :])
        self._read += len(data)
        found = []
        for method in methods or ("GET",):
            answer, data = _answer(method, data)
            found.append(answer)
        assert not data, data
        return found

    def stream(self) -> tuple[Answered, str]:
        """The head of a stream, and all that came in its chunks by now."""
        answer, rest = _answer("GET", bytes(self.kernel.taken), whole=False)
        assert not rest
        return answer, answer.body.decode()


def _answer(method: str, data: bytes, *, whole: bool = True) -> tuple[Answered, bytes]:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "test")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    head, body = None, b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif event is h11.NEED_DATA:
            assert not whole, f"the answer isn't whole: {data!r}"
            break
    assert head is not None
    headers = {name.decode(): value.decode() for name, value in head.headers}
    return Answered(head.status_code, headers, body), client.trailing_data[0]


def blocks(text: str) -> list[dict[str, str]]:
    """The blocks of an event stream, by the HTML standard (section 9.2.6); a comment is left out."""
    found: list[dict[str, str]] = []
    block: dict[str, list[str]] = {}
    *lines, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert rest == "", "a line isn't whole"
    for line in lines:
        if not line:
            if block:
                found.append({name: "\n".join(values) for name, values in block.items()})
            block = {}
            continue
        name, _, value = line.partition(":")
        if name:
            block.setdefault(name, []).append(value.removeprefix(" "))
    assert not block, "a block isn't whole"
    return found
