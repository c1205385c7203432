"""The hub on the web: a hub as requests see it, with what they need besides.

Who may come (the secret, `authenticate`, origins, trusted proxies, keys of a query), in which formats
and subprotocols connections speak, and what a session does with what a client says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from trionotify.connection.formats import CloudEventsFormat, Format, RawFormat, served
from trionotify.connection.session import Session, publishing_session
from trionotify.connection.sse import stream_formats, unchunked
from trionotify.delivery.hub import Hub
from trionotify.http.origins import Origins
from trionotify.http.secret import Secret
from trionotify.model.addresses import Proxies
from trionotify.model.keys import allowed_params

if TYPE_CHECKING:
    import trio

    from trionotify.delivery.clients import Client
    from trionotify.delivery.hub import AcceptedWebSocket
    from trionotify.delivery.log import Log
    from trionotify.http.messages import Authenticate
    from trionotify.settings import Settings

__all__ = ["WebHub"]

#: Bytes of a message beside the filters in it, of a client that can say nothing else.
_ENVELOPE: Final = 1 << 14


class WebHub(Hub):
    """Made by `open_hub`, which gives it the functions that serve a stream, and a WebSocket."""

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
        #: The application's keys of a query, if it may have no others.
        self.allow_params: frozenset[str] | None = allowed_params(allow_params)
        #: Whether there is a page for people.
        self.page = page
        self.authenticate = authenticate
        #: Who has it may do everything; others need a query that was signed with it.
        self.secret = secret
        self.proxies: Proxies = Proxies(trusted_proxy)
        #: Names that clients may offer besides that of events, and get: they are served as raw.
        self.subprotocols: tuple[str, ...] = served(subprotocol)
        self.formats: dict[str, Format] = {
            format.name: format for format in (RawFormat(), CloudEventsFormat(log.epoch))
        }
        self._stream_formats = stream_formats(log.epoch)
        #: For HTTP/1.0.
        self._unchunked_formats = stream_formats(log.epoch, unchunked)
        self._handle = handle
        self._attach = attach

    async def handle(self, stream: trio.abc.Stream) -> None:
        await self._handle(self, stream)

    async def attach(self, websocket: AcceptedWebSocket, client: Client | None = None) -> None:
        await self._attach(self, websocket, client)

    def stream_formats(self, *, chunked: bool) -> Mapping[tuple[str, str], Format]:
        """The formats of streams, by the name of the transport and of the format."""
        return self._stream_formats if chunked else self._unchunked_formats

    def longest_message(self, client: Client) -> int:
        """How long this client's messages may be. One that may not publish has nothing long to say."""
        most = self.settings.max_message_bytes
        if client.role == "subscriber" and self.session is publishing_session:
            return min(most, self.settings.max_filter_bytes + _ENVELOPE)
        return most
