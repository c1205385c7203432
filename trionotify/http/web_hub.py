"""The hub on the web: a hub with everything that serving requests needs.

It decides which clients are accepted (by secret, `authenticate`, origins, trusted proxies and query
keys), which formats and subprotocols connections speak, and what a session does with a client's
messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from trionotify.connection.deflate import WINDOWS, Deflate, deflater
from trionotify.connection.formats import CloudEventsFormat, Format, RawFormat, compressed, served
from trionotify.connection.session import Session, publishing_session
from trionotify.connection.sse import stream_formats, unchunked
from trionotify.connection.zipped import stored_chunk, zipper
from trionotify.delivery.clients import Client
from trionotify.delivery.hub import Hub
from trionotify.http.origins import Origins
from trionotify.http.secret import Reread, Secret
from trionotify.http.tickets import SharedTickets, TicketStore
from trionotify.http.tokens import Tokens
from trionotify.model.addresses import Proxies
from trionotify.model.keys import allowed_params

if TYPE_CHECKING:
    import trio

    from trionotify.delivery.accepted import AcceptedWebSocket
    from trionotify.delivery.log import Log
    from trionotify.http.messages import Authenticate
    from trionotify.settings import Settings

__all__ = ["WebHub"]

#: Bytes of a message that changes filters, beside the filters themselves.
_ENVELOPE: Final = 1 << 14


class WebHub(Hub):
    """A hub that serves HTTP. Made by `open_hub`, which passes the functions that serve connections."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        session: Session,
        authenticate: Authenticate | None,
        *,
        allow_origin: Iterable[str] = (),
        allow_params: str | Iterable[str] | None = None,
        page: bool = True,
        secret: Secret | None = None,
        trusted_proxy: Iterable[str] = (),
        subprotocol: Iterable[str] = (),
        handle: Callable[[WebHub, trio.abc.Stream], Awaitable[None]],
        attach: Callable[[WebHub, AcceptedWebSocket, Client | None], Awaitable[None]],
    ) -> None:
        super().__init__(settings, log)
        self.session = session
        self.origins: Origins = Origins(allow_origin)
        #: The application's query keys, if no others are allowed.
        self.allow_params: frozenset[str] | None = allowed_params(allow_params)
        #: Whether to serve the page at `/`.
        self.page = page
        self.authenticate = authenticate
        #: `authenticate`, if it is a `Tokens`.
        self.tokens: Tokens | None = authenticate if isinstance(authenticate, Tokens) else None
        #: The store of their tickets. It is with the log, if the log is shared and the application gives
        #: no other.
        self.tickets: TicketStore | None = None
        if self.tokens is not None:
            shelf = None if self.tokens.has_ticket_store else log.shelf
            self.tickets = self.tokens.tickets if shelf is None else SharedTickets(shelf)
        #: The secret allows everything. Clients without it need a query that was signed with it.
        self.secret = secret
        self.proxies: Proxies = Proxies(trusted_proxy)
        #: Subprotocols that clients may offer besides that of events. Such clients are served in the raw
        #: format.
        self.subprotocols: tuple[str, ...] = served(subprotocol)
        self.formats: dict[str, Format] = {
            format.name: format for format in (RawFormat(), CloudEventsFormat(self.broadcast.cursor))
        }
        self._stream_formats = stream_formats(self.broadcast.cursor)
        #: The stream formats for HTTP/1.0.
        self._unchunked_formats = stream_formats(self.broadcast.cursor, unchunked)
        #: The formats of clients that have agreed to compression.
        threshold, counts = settings.compression_threshold, self.broadcast.counts.compression
        self._deflated_formats = {
            (name, bits): compressed(format, deflater(bits, threshold), bytes, counts)
            for name, format in self.formats.items()
            for bits in WINDOWS
        }
        self._zipped_formats = {
            name: compressed(format, zipper(threshold), stored_chunk, counts)
            for name, format in self._unchunked_formats.items()
        }
        #: The longest message of a subscriber, which may only change its filters.
        self._longest = min(settings.max_message_bytes, settings.max_filter_bytes + _ENVELOPE)
        self._handle = handle
        self._attach = attach

    async def handle(self, stream: trio.abc.Stream) -> None:
        if not hasattr(stream, "receive_some"):
            raise TypeError(f"stream: must be a trio.abc.Stream, not {type(stream).__name__}")
        await self._handle(self, stream)

    async def attach(self, websocket: AcceptedWebSocket, client: Client | None = None) -> None:
        if not hasattr(websocket, "get_message"):
            kind = type(websocket).__name__
            raise TypeError(f"websocket: must be a trio_websocket.WebSocketConnection, not {kind}")
        if client is not None and not isinstance(client, Client):
            raise TypeError(f"client: must be a Client, not {type(client).__name__}")
        await self._attach(self, websocket, client)

    def fetch_keys(self) -> None:
        """Start the tasks that fetch the keys of tokens, in the hub's nursery."""
        for keys in () if self.tokens is None else self.tokens.remote:
            self.start_soon(keys.run, name=f"trionotify: keys at {keys.url}")

    def reread(self) -> list[Reread]:
        """Read the files of the secret and of tokens again. Raises ValueError for an invalid one."""
        return [file for one in (self.tokens, self.secret) if one is not None for file in one.reread()]

    async def renew(self, key: int, client: Client, token: str) -> None:
        if self.tokens is None:
            await super().renew(key, client, token)
            return
        grant = await self.tokens.renew(client, token)
        if key in self.connections:
            client.renew(grant.allowed, grant.expires_at)
            if client.expires_at is not None:
                self.expiry.add(key, client.expires_at)

    @property
    def open_to(self) -> str:
        """A description of the clients that are accepted, for the log."""
        doors = {"signed queries": self.secret, "tokens": self.tokens}
        found = [name for name, door in doors.items() if door is not None]
        return " and ".join(found) or "everyone who can reach it"

    def checks(self) -> dict[str, str]:
        if self.tokens is None:
            return super().checks()
        keys = "ok" if self.tokens.usable else self.tokens.problem or "there are none"
        return {**super().checks(), "keys": keys}

    def format(self, name: str, deflate: Deflate | None) -> Format:
        """Return the format `name` of a WebSocket that has agreed to `deflate`, or to none."""
        return self._deflated_formats[name, deflate.window_bits] if deflate else self.formats[name]

    def stream_formats(self, *, chunked: bool, zipped: bool) -> Mapping[tuple[str, str], Format]:
        """Return the formats of streams, by the names of the transport and of the format."""
        if zipped:
            return self._zipped_formats
        return self._stream_formats if chunked else self._unchunked_formats

    def longest_message(self, client: Client) -> int:
        """Return the maximum length of a client's messages, in bytes. It is lower for subscribers."""
        if client.role == "subscriber" and self.session is publishing_session:
            return self._longest
        return self.settings.max_message_bytes
