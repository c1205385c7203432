"""Origins: whose web pages may use the server, and what a browser must be told for it.

A browser says in `Origin` from which site a page is that connects or publishes, whatever the page wants.
So no site's page can use, in the name of the person who looks at it, a server on that person's machine
or intranet. Clients other than browsers don't send the header, and aren't asked for it.

An origin is a scheme, a host and a port (RFC 6454), and is compared as that, never as text: each side
may name its scheme's own port, and the operator may write a host in any script, where a browser says
its ASCII form (IDNA). What is no origin is not allowed, `*` or not, and never repeated in an answer.

A page may have a name of its own site lead to that machine, once it is loaded (DNS rebinding): then the
server seems to be of the page's own host, and many requests have no `Origin` at all. What gives it away
is the host that a request is for. A server that accepts every client, because only its own machine can
reach it, asks for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NoReturn

import attrs
import idna

from trionotify.errors import Refused, is_token
from trionotify.http.authorities import Authority, parse_authority

if TYPE_CHECKING:
    from trionotify.http.messages import Request

__all__ = ["Origin", "Origins", "parse_origin"]

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)
#: What a page of another origin may send, and see of the answer.
_METHODS: Final = "GET, HEAD, POST"
_FIELDS: Final = ("Authorization", "Content-Type", "Last-Event-ID")
_EXPOSED: Final = "Retry-After, Trionotify-Id, Trionotify-Cursor, Trionotify-Recovered"
#: Seconds for which a browser needn't ask again.
_MAX_AGE: Final = "7200"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
#: A WebSocket's origin is that of its page.
_PAGES_OF: Final = {"ws": "http", "wss": "https"}
_NULL: Final = "null"
_ANY: Final = "*"


@attrs.frozen
class Origin:
    """The site of a page. Without a port it is the scheme's own one."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def of(cls, scheme: str, authority: Authority) -> Origin:
        """The same in normal form."""
        port = authority.port
        return cls(scheme, authority.host, None if port == _DEFAULT_PORTS.get(scheme) else port)


def parse_origin(text: str) -> Origin | None:
    """Read an origin as a browser writes it, which may be `null`; None for what is no origin."""
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
    """Those that are allowed, besides the server's own.

    `*` allows all, `null` pages that have no origin, such as files. `https://*.example.org` allows every
    host below example.org, not itself. Raises TypeError or ValueError for what no page's origin can ever
    be, with the reason, and what to write.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        if isinstance(allowed, str):
            allowed = (allowed,)
        self._any = False
        self._named: set[Origin] = set()
        #: The origins of all hosts that end like this one's.
        self._below: list[Origin] = []
        for text in allowed:
            if not isinstance(text, str):
                raise TypeError(f"allow_origin must be str, not {type(text).__name__}")
            if text == _ANY:
                self._any = True
            elif "://*." in text:
                self._below.append(_written(text, text.replace("://*.", "://", 1), below=True))
            else:
                self._named.add(_written(text, text))

    def check(self, request: Request) -> None:
        """Return if the page that asks may do so; else raise `Refused` (403)."""
        text = request.header("origin")
        if text is None or self.allows(text, request.authority):
            return
        if parse_origin(text) is None:
            raise Refused(
                403,
                "origin: the header is no origin: a browser sends SCHEME://HOST[:PORT], or null",
            )
        raise Refused(
            403,
            f"origin: pages of {text} may not use this server; it lets them if it is started with"
            f" --allow-origin {text}",
            logged=f"origin: start the server with --allow-origin {text}",
        )

    def allows(self, origin: str, authority: str) -> bool:
        """Whether this origin is allowed, or the server's own, when it is asked for at `authority`."""
        found = parse_origin(origin)
        if found is None:
            return False
        return self._any or self._names(found) or _is_at(found, authority)

    def _names(self, origin: Origin) -> bool:
        """Whether it is allowed by name, and not only because all are."""
        return origin in self._named or any(
            (origin.scheme, origin.port) == (below.scheme, below.port)
            and origin.host.endswith(f".{below.host}")
            for below in self._below
        )

    def check_host(self, request: Request) -> None:
        """Return if the request is for a name that this machine can have; else raise `Refused` (403).

        That is an address, `localhost`, a name without a dot, or the host of an origin that is allowed.
        """
        authority = parse_authority(request.authority)
        name = authority.host.removesuffix(".")
        if "." not in name or name.endswith(".localhost") or Authority(name).address is not None:
            return
        if self._any or any(self._names(Origin.of(scheme, authority)) for scheme in _DEFAULT_PORTS):
            return
        raise Refused(
            403,
            f"host: this server is for its own machine, and doesn't know it as {authority.host}; start"
            f" it with --allow-origin http://{authority}, with --trusted-proxy for the proxy that passes"
            " it on, with --secret, or with --insecure",
        )

    def fields(self, request: Request) -> tuple[tuple[str, str], ...]:
        """The header fields that let an allowed page read the answer; without a page there are none."""
        return self.fields_for(request.header("origin"), request.authority)

    def fields_for(self, origin: str | None, authority: str) -> tuple[tuple[str, str], ...]:
        """The same for the headers `Origin` and `Host` of a request that may be no good otherwise.

        Raises nothing, whatever they are.
        """
        if origin is None:
            return ()
        found, vary = parse_origin(origin), ("Vary", "Origin")
        if found is None or not self.allows(origin, authority):
            return (vary,)
        # Any page can be without an origin, in a sandboxed frame, so `null` names none.
        trusted = found.scheme != _NULL and self._names(found)
        return (
            ("Access-Control-Allow-Origin", origin),
            *([("Access-Control-Allow-Credentials", "true")] if trusted else []),
            ("Access-Control-Expose-Headers", _EXPOSED),
            vary,
        )

    def preflight(self, request: Request) -> tuple[tuple[str, str], ...]:
        """The further fields that answer an allowed page's question whether it may make a request.

        It may send every header that it asks for: tracing adds some to whatever a page fetches, and a
        CloudEvent in binary mode has one for each attribute.
        """
        origin = request.header("origin")
        if origin is None or not self.allows(origin, request.authority):
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


def _is_at(origin: Origin, authority: str) -> bool:
    """Whether a request that is for `authority` is for the host that the page is from.

    The scheme may be that of a proxy in front of the server: host and port are what counts.
    """
    if origin.scheme not in _DEFAULT_PORTS:
        return False
    try:
        return Origin.of(origin.scheme, parse_authority(authority)) == origin
    except ValueError:
        return False


def _written(text: str, plain: str, *, below: bool = False) -> Origin:
    """The origin that an operator wrote, `plain` is without its wildcard; raises ValueError."""
    scheme, mark, rest = plain.partition("://")
    scheme = scheme.lower()
    if plain == _NULL:
        return Origin(_NULL, "", None)
    if not text or re.search(r"[\s,]", text):
        _refuse(text, "give each origin by itself, without spaces and commas")
    if not mark:
        hint = {"file:": "file://", "null": _NULL, "about:blank": _NULL, "data:": _NULL}
        write = hint.get(text.lower(), "https://" + re.sub(r"^(https?:)?/*|/+$", "", text))
        _refuse(text, f"it has no scheme and host: write {write}")
    if not _SCHEME.fullmatch(scheme):
        _refuse(text, f"{scheme!r} is no scheme: write https://{rest}")
    if scheme in _PAGES_OF:
        _refuse(text, f"a WebSocket's origin is that of its page: write {_PAGES_OF[scheme]}://{rest}")
    if rest.startswith("*"):
        _refuse(text, "write * for all origins, or https://*.example.org for all below a host")
    host, *further = re.split(r"[/?#\\]", rest, maxsplit=1)
    if further:
        star = "*." if below else ""
        _refuse(text, f"an origin has no path: write {scheme}://{star}{host}")
    if "*" in host:
        _refuse(text, "a * stands for what is in front of a host's first dot, and nowhere else")
    try:
        origin = Origin.of(scheme, parse_authority(_in_ascii(host, scheme)))
    except ValueError as error:
        _refuse(text, str(error))
    _check_site(text, origin, below)
    return origin


def _check_site(text: str, origin: Origin, below: bool) -> None:
    """Return if pages can be of this site."""
    if origin.port == 0:
        _refuse(text, "no server has the port 0")
    if not origin.host:
        if below or origin.scheme in _DEFAULT_PORTS or origin.port is not None:
            _refuse(text, f"there is no host in it: write {origin.scheme}://example.org")
        return
    address = Authority(origin.host).address
    if below and (address is not None or origin.host.startswith(".")):
        _refuse(text, "there are no hosts below that one")
    if "%" in origin.host:
        _refuse(text, "an address with a zone is none that a page can be from")
    last = origin.host.removesuffix(".").rpartition(".")[2]
    if origin.scheme in _DEFAULT_PORTS and re.fullmatch(r"\d+|0x[0-9a-f]*", last) and address is None:
        _refuse(text, "an address must be written with four numbers, as a browser does")


def _in_ascii(authority: str, scheme: str) -> str:
    """A host in any script as a browser says it (UTS 46, IDNA)."""
    if authority.isascii():
        return authority
    host, colon, port = authority.partition(":")
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"a host of {scheme}: must be written in ASCII")
    try:
        try:
            name = idna.encode(host, uts46=True).decode("ascii")
        except idna.InvalidCodepoint:
            # Nobody can register it, but browsers are not so strict: they take symbols, and `_`.
            name = ".".join(map(_label, idna.uts46_remap(host, std3_rules=False).split(".")))
    except idna.IDNAError as error:
        raise ValueError(f"{host!r} can't be a host's name: {error}") from None
    return name + colon + port


def _label(text: str) -> str:
    return text if text.isascii() else f"xn--{text.encode('punycode').decode('ascii')}"


def _refuse(text: str, why: str) -> NoReturn:
    raise ValueError(f"allow_origin: {text!r} is no page's origin: {why}")
