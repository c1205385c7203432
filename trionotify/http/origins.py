"""Origins: the sites whose pages may use the server, and the CORS headers for their browsers.

A browser says in `Origin` from which site a page is that connects or publishes, whatever the page wants.
So no site's page can use, in the name of the person who looks at it, a server on that person's machine
or intranet. Clients other than browsers don't send the header, and aren't asked for it.

An origin is a scheme, a host and a port (RFC 6454), and is compared as these, never as text. Each side
may name its scheme's own port, and the operator may write a host in any script, while a browser sends
its ASCII form (IDNA). An invalid origin is not allowed, even with `*`, and never repeated in an answer.

After it was loaded, a page may make a name of its own site lead to that machine (DNS rebinding). Then
the server seems to be on the page's own host, and many requests have no `Origin` at all. The host of its
requests reveals it. A server that accepts every client, because only its own machine can reach it, asks
for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NoReturn

import attrs
import idna

from trionotify.errors import Refused, is_token
from trionotify.http.authorities import Authority, parse_authority
from trionotify.model.text import texts_of

if TYPE_CHECKING:
    from trionotify.http.messages import Request

__all__ = ["Origin", "Origins", "parse_origin"]

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)
#: The headers that a page of another origin may send, and see in the response.
_METHODS: Final = "GET, HEAD, POST, DELETE"
_FIELDS: Final = ("Authorization", "Content-Type", "Last-Event-ID")
_EXPOSED: Final = "Retry-After, Trionotify-Id, Trionotify-Cursor, Trionotify-Recovered"
#: Seconds for which a browser needn't ask again.
_MAX_AGE: Final = "7200"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
#: A WebSocket's origin is that of its page.
_PAGES_OF: Final = {"ws": "http", "wss": "https"}
_SECURE: Final = "https"
_NULL: Final = "null"
_ANY: Final = "*"


@attrs.frozen
class Origin:
    """The origin of a page. Without a port, the scheme's default port applies."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def of(cls, scheme: str, authority: Authority) -> Origin:
        """Return the origin in normal form, without the scheme's default port."""
        port = authority.port
        return cls(scheme, authority.host, None if port == _DEFAULT_PORTS.get(scheme) else port)


def parse_origin(text: str) -> Origin | None:
    """Parse a browser's `Origin`, which may be `null`; return None if it is invalid."""
    if text == _NULL:
        return Origin(_NULL, "", None)
    scheme, mark, rest = text.partition("://")
    if not mark or not _SCHEME.fullmatch(scheme):
        return None
    try:
        authority = parse_authority(rest)
    except ValueError:
        return None
    if not authority.host and (scheme.lower() in _DEFAULT_PORTS or authority.port is not None):
        return None
    return Origin.of(scheme.lower(), authority)


#: Headers that a page may ask for. A request has a limit of its own, which is not higher.
_ASKED: Final = 100


class Origins:
    """The allowed origins, besides the server's own.

    `*` allows all, `null` pages that have no origin, such as files. `https://*.example.org` allows every
    host below example.org, but not example.org itself. Raises TypeError or ValueError for a text that
    can't be an origin, with the reason and the fix.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._any = False
        self._named: set[Origin] = set()
        #: Origins that stand for all hosts below theirs.
        self._below: list[Origin] = []
        for text in texts_of("allow_origin", allowed):
            if text == _ANY:
                self._any = True
            elif "://*." in text:
                self._below.append(_written(text, text.replace("://*.", "://", 1), below=True))
            else:
                self._named.add(_written(text, text))

    def check(self, request: Request) -> None:
        """Raise `Refused` (403) if the page that sends the request isn't allowed."""
        text = request.header("origin")
        if text is None or self.allows(text, request.authority, request.secure):
            return
        if parse_origin(text) is None:
            raise Refused(
                403,
                "Origin: must be SCHEME://HOST[:PORT] or null",
                logged="Origin",
            )
        raise Refused(
            403,
            f"Origin: pages of {text} may not use this server; to allow them, start it with"
            f" --allow-origin {text}",
            logged=f"Origin: start the server with --allow-origin {text}",
        )

    def allows(self, origin: str, authority: str, secure: bool = False) -> bool:
        """Return whether this origin is allowed, or is the server's own at `authority`.

        With `secure`, the server's own origin is that of https.
        """
        found = parse_origin(origin)
        if found is None:
            return False
        return self._any or self._names(found) or _is_at(found, authority, secure)

    def trusts(self, origin: str, authority: str, secure: bool = False) -> bool:
        """Return whether this origin may send credentials: the server's own, or allowed by name."""
        found = parse_origin(origin)
        return found is not None and (self._trusts(found) or _is_at(found, authority, secure))

    def _trusts(self, origin: Origin) -> bool:
        """Return whether it is one site's, and allowed by name."""
        # Any page can be without an origin, in a sandboxed frame, so `null` names none.
        return origin.scheme != _NULL and self._names(origin)

    def _names(self, origin: Origin) -> bool:
        """Return whether it is allowed by name, and not only by `*`."""
        return origin in self._named or any(
            (origin.scheme, origin.port) == (below.scheme, below.port)
            and origin.host.endswith(f".{below.host}")
            for below in self._below
        )

    def check_host(self, request: Request) -> None:
        """Raise `Refused` (403) if the request is for a host that this machine can't be.

        It can be an address, `localhost`, a name without a dot, or the host of an allowed origin.
        """
        authority = parse_authority(request.authority)
        name = authority.host.removesuffix(".")
        if "." not in name or name.endswith(".localhost") or Authority(name).address is not None:
            return
        if self._any or any(self._names(Origin.of(scheme, authority)) for scheme in _DEFAULT_PORTS):
            return
        raise Refused(
            403,
            "Host: a server without a secret only answers to names of its own machine, not to"
            f" {authority.host}; start it with --allow-origin http://{authority}, with"
            " --trusted-proxy for the proxy in front of it, with --secret, or with --insecure",
            logged="Host",
        )

    def fields(self, request: Request) -> tuple[tuple[str, str], ...]:
        """Return the headers that let an allowed page read the answer; none for other clients."""
        return self.fields_for(request.header("origin"), request.authority, request.secure)

    def fields_for(
        self, origin: str | None, authority: str, secure: bool = False
    ) -> tuple[tuple[str, str], ...]:
        """Return the headers of `fields` for an `Origin` and `Host`, even if the request is invalid.

        Raises nothing for any text.
        """
        if origin is None:
            return ()
        found, vary = parse_origin(origin), ("Vary", "Origin")
        if found is None or not self.allows(origin, authority, secure):
            return (vary,)
        return (
            ("Access-Control-Allow-Origin", origin),
            *([("Access-Control-Allow-Credentials", "true")] if self._trusts(found) else []),
            ("Access-Control-Expose-Headers", _EXPOSED),
            vary,
        )

    def preflight(self, request: Request) -> tuple[tuple[str, str], ...]:
        """Return the additional headers that answer an allowed page's preflight request.

        It may send every header that it asks for: tracing adds some to whatever a page fetches, and a
        CloudEvent in binary mode has one for each attribute.
        """
        origin = request.header("origin")
        if origin is None or not self.allows(origin, request.authority, request.secure):
            return ()
        asked = request.tokens("access-control-request-headers")[:_ASKED]
        asked = [name for name in asked if is_token(name)]
        names = {name.lower(): name for name in (*asked, *_FIELDS)}
        # A page of the public web that asks for a server in a private network (Private Network Access).
        private = (request.header("access-control-request-private-network") or "").lower() == "true"
        return (
            ("Access-Control-Allow-Methods", _METHODS),
            ("Access-Control-Allow-Headers", ", ".join(sorted(names.values(), key=str.lower))),
            *([("Access-Control-Allow-Private-Network", "true")] if private else []),
            ("Access-Control-Max-Age", _MAX_AGE),
        )


def _is_at(origin: Origin, authority: str, secure: bool) -> bool:
    """Return whether `authority` is the host and port of the page's origin.

    If the request is `secure`, the page must have come over TLS, too. Without TLS, anyone on the way can
    change the page and its cookies. Otherwise the scheme is ignored, because a proxy in front of the
    server may have TLS.
    """
    if origin.scheme not in _DEFAULT_PORTS or (secure and origin.scheme != _SECURE):
        return False
    try:
        return Origin.of(origin.scheme, parse_authority(authority)) == origin
    except ValueError:
        return False


def _written(text: str, plain: str, *, below: bool = False) -> Origin:
    """Parse an operator's origin; `plain` is without its wildcard. Raises ValueError."""
    scheme, mark, rest = plain.partition("://")
    scheme = scheme.lower()
    if plain == _NULL:
        return Origin(_NULL, "", None)
    if not text or re.search(r"[\s,]", text):
        _refuse(text, "give each origin by itself, without spaces and commas")
    if not mark:
        hint = {"file:": "file://", "null": _NULL, "about:blank": _NULL, "data:": _NULL}
        write = hint.get(text.lower(), "https://" + re.sub(r"^(https?:)?/*|/+$", "", text))
        _refuse(text, f"it has no scheme and host; write {write}")
    if not _SCHEME.fullmatch(scheme):
        _refuse(text, f"{scheme!r} is not a scheme; write https://{rest}")
    if scheme in _PAGES_OF:
        _refuse(text, f"a WebSocket has the origin of its page; write {_PAGES_OF[scheme]}://{rest}")
    if rest.startswith("*"):
        _refuse(text, "write * for all origins, or https://*.example.org for all hosts below one")
    host, *further = re.split(r"[/?#\\]", rest, maxsplit=1)
    if further:
        star = "*." if below else ""
        _refuse(text, f"an origin has no path; write {scheme}://{star}{host}")
    if "*" in host:
        _refuse(text, "a * may only stand in front of a host's first dot")
    try:
        origin = Origin.of(scheme, parse_authority(_in_ascii(host, scheme)))
    except ValueError as error:
        _refuse(text, str(error))
    _check_site(text, origin, below)
    return origin


def _check_site(text: str, origin: Origin, below: bool) -> None:
    """Raise ValueError if no page can have this origin."""
    if origin.port == 0:
        _refuse(text, "no server has the port 0")
    if not origin.host:
        if below or origin.scheme in _DEFAULT_PORTS or origin.port is not None:
            _refuse(text, f"it has no host; write {origin.scheme}://example.org")
        return
    address = Authority(origin.host).address
    if below and (address is not None or origin.host.startswith(".")):
        _refuse(text, "this host can't have hosts below it")
    if "%" in origin.host:
        _refuse(text, "a page's address can't have a zone")
    last = origin.host.removesuffix(".").rpartition(".")[2]
    if origin.scheme in _DEFAULT_PORTS and re.fullmatch(r"\d+|0x[0-9a-f]*", last) and address is None:
        _refuse(text, "write an IPv4 address with four decimal numbers, as a browser does")


def _in_ascii(authority: str, scheme: str) -> str:
    """Return a host in any script as a browser writes it (UTS 46, IDNA)."""
    if authority.isascii():
        return authority
    host, colon, port = authority.partition(":")
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"a host of {scheme}: must be written in ASCII")
    try:
        try:
            name = idna.encode(host, uts46=True).decode("ascii")
        except idna.InvalidCodepoint:
            # Such a name can't be registered, but browsers are less strict and accept symbols and `_`.
            name = ".".join(map(_label, idna.uts46_remap(host, std3_rules=False).split(".")))
    except idna.IDNAError as error:
        raise ValueError(f"{host!r} is not a valid host name: {error}") from None
    return name + colon + port


def _label(text: str) -> str:
    return text if text.isascii() else f"xn--{text.encode('punycode').decode('ascii')}"


def _refuse(text: str, why: str) -> NoReturn:
    raise ValueError(f"allow_origin: {text!r} can't be the origin of a page: {why}")
