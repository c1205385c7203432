"""A client's view of a stream: HTTP by h11, events by the HTML standard, and none of our code."""

from __future__ import annotations

import re
import zlib

import attrs
import h11

from tests.conftest import Room
from tests.kernel import FakeKernel
from tests.web import get
from trionotify.http.serving import serve_transport

NDJSON = "Accept: application/x-ndjson"
ENDED = (0, "")


@attrs.frozen
class Dispatched:
    """An event as a page gets it."""

    type: str
    data: str
    last_event_id: str


class EventSource:
    """The HTML standard, section 9.2.6, "Interpreting an event stream", line by line."""

    def __init__(self) -> None:
        self.events: list[Dispatched] = []
        self.last_event_id = ""
        self.retry: int | None = None
        self.comments = 0
        self._id = self._type = self._data = ""
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take bytes, however they were cut."""
        # What ends with CR may be half of CR LF.
        *lines, self._rest = re.split(rb"\r\n|\n|\r(?!\Z)", self._rest + data)
        for line in lines:
            self._take(line.decode())

    def _take(self, line: str) -> None:
        if not line:
            self._dispatch()
        elif line.startswith(":"):
            self.comments += 1
        else:
            name, _, value = line.partition(":")
            self._process(name, value.removeprefix(" "))

    def _process(self, name: str, value: str) -> None:
        if name == "event":
            self._type = value
        elif name == "data":
            self._data += value + "\n"
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)

    def _dispatch(self) -> None:
        self.last_event_id = self._id
        if self._data:
            data = self._data.removesuffix("\n")
            self.events.append(Dispatched(self._type or "message", data, self.last_event_id))
        self._data = self._type = ""


class StreamPeer:
    """A client's view of the bytes that a `FakeKernel` took, as `tests.kernel.Peer` is."""

    def __init__(self, kernel: FakeKernel, method: str = "GET") -> None:
        self.kernel = kernel
        self.source = EventSource()
        self.lines: list[str] = []
        self.status: int | None = None
        #: `ENDED` when it came to its end in good order: there is no place for a code.
        self.close: tuple[int, str] | None = None
        self.body = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._http = h11.Connection(h11.CLIENT)
        self._http.send(h11.Request(method=method, target="/", headers=[("Host", "test")]))
        self._http.send(h11.EndOfMessage())
        self._seen = 0
        self._rest = b""
        self._unzip = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def look(self) -> StreamPeer:
        """Read what has come since the last look."""
        data = bytes(self.kernel.taken[self._seen :])
        # Without chunks, it is the connection's end that ends it.
        over = self.kernel.eof_sent and not self.ended
        if not (data or over):
            return self
        self._seen += len(data)
        if data:
            self._http.receive_data(data)
        if over:
            self._http.receive_data(b"")
        while (event := self._http.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
            if isinstance(event, h11.Response):
                self.status, self._headers = event.status_code, list(event.headers)
            elif isinstance(event, h11.Data):
                self._read(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self.close = ENDED
                break
        # (Before the end, what is left may be a chunk's head of which only a part has come.)
        assert not (self.close and self._http.trailing_data[0]), "bytes behind the end"
        return self

    def _read(self, data: bytes) -> None:
        if self.header("content-encoding") == "gzip":
            data = self._unzip.decompress(data)
        self.body += data
        if self.header("content-type") == "text/event-stream":
            self.source.feed(data)
        else:
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.lines += [line.decode() for line in lines]

    def header(self, name: str) -> str | None:
        found = [value for key, value in self._headers if key == name.lower().encode()]
        return b", ".join(found).decode() if found else None

    @property
    def ended(self) -> bool:
        return self.close is not None

    @property
    def messages(self) -> list[str]:
        """The data of the events, or the lines that aren't empty."""
        return [event.data for event in self.source.events] + [line for line in self.lines if line]


async def stream(
    room: Room,
    target: str = "/events",
    *headers: str,
    kernel: FakeKernel | None = None,
    method: str = "GET",
    version: str = "1.1",
) -> StreamPeer:
    """One that has asked, and was answered, whatever the answer is."""
    kernel = kernel or FakeKernel()
    kernel.feed(get(target, *headers, method=method, version=version))
    room.nursery.start_soon(serve_transport, room.hub, kernel, "test:1")
    await room.quiet()
    return StreamPeer(kernel, method).look()
