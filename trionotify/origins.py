"""Origins: whose web pages may use the server, and what a browser must be told for it.

A browser says in `Origin` from which site a page is that connects or publishes, whatever the page wants.
So nobody's page can use, in the name of whoever looks at it, a server on that person's machine or
intranet. Whoever is no browser doesn't send the header, and isn't asked for it.

A page may have a name of its own site lead to that machine, once it is loaded (DNS rebinding): then the
server seems to be of the page's own host, and many requests have no `Origin` at all. What gives it away
is `Host`. A server that lets in whoever reaches it, because only its own machine can, asks for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from trionotify.errors import Refused

if TYPE_CHECKING:
    from trionotify.http import Request

__all__ = ["Origins"]

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s,]+", re.IGNORECASE)
#: What a page of another origin may send, and see of the answer.
_METHODS: Final = "GET, HEAD, POST"
_FIELDS: Final = "Authorization, Content-Type, Last-Event-ID"
_EXPOSED: Final = "Retry-After, Trionotify-Id, Trionotify-Cursor, Trionotify-Recovered"
#: Seconds for which a browser needn't ask again.
_MAX_AGE: Final = "7200"
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class Origins:
    """Those that are allowed, besides the server's own. Raises ValueError for what is no origin.

    `*` allows all, `null` pages that have no origin, such as files. `https://*.example.org` allows every
    host below example.org, not itself.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        if isinstance(allowed, str):
            allowed = (allowed,)
        self._allowed: set[str] = set()
        self._below: list[tuple[str, str]] = []
        for origin in allowed:
            if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"allow_origin: {origin!r} is no origin: write https://example.org, without a path"
                )
            scheme, wildcard, host = origin.lower().partition("://*")
            if wildcard:
                self._below.append((f"{scheme}://", host))
            else:
                self._allowed.add(_normal(origin))

    def check(self, request: Request) -> None:
        """Return if the page that asks may do so; else raise `Refused` (403)."""
        origin = request.header("origin")
        if origin is not None and not self.allows(origin, request):
            raise Refused(
                403,
                f"origin: pages of {origin} may not use this server; it lets them if it is started with"
                f" --allow-origin {origin}",
            )

    def allows(self, origin: str, request: Request) -> bool:
        """Whether this origin is the server's own, or is allowed."""
        if "*" in self._allowed:
            return True
        normal = _normal(origin)
        if normal in self._allowed:
            return True
        if any(normal.startswith(scheme) and normal.endswith(host) for scheme, host in self._below):
            return True
        # The scheme may be that of a proxy in front of us: the host is what counts.
        scheme, _, authority = normal.partition("://")
        host = (request.header("host") or "").lower().removesuffix(_DEFAULT_PORTS.get(scheme, ""))
        return scheme in _DEFAULT_PORTS and authority == host

    def check_host(self, request: Request) -> None:
        """Return if `Host` is a name that this machine can have for itself; else raise `Refused` (403).

        An address, `localhost`, a name without a dot, or the host of an origin that is allowed.
        """
        authority = (request.header("host") or "").lower()
        host = authority if authority.endswith("]") else authority.rpartition(":")[0] or authority
        name = host.removesuffix(".")
        if "." not in name or name.endswith(".localhost") or _is_address(name):
            return
        if not {"*", f"http://{authority}", f"https://{authority}"}.isdisjoint(self._allowed):
            return
        raise Refused(
            403,
            f"host: this server is for its own machine, and doesn't know it as {host}; start it with"
            f" --allow-origin http://{authority}, with --trusted-proxy for the proxy that passes it on,"
            " with --secret, or with --insecure",
        )

    def fields(self, request: Request) -> tuple[tuple[str, str], ...]:
        """The header fields that let the page read the answer; none for who isn't let, or isn't one."""
        origin = request.header("origin")
        if origin is None or not self.allows(origin, request):
            return (("Vary", "Origin"),) if origin is not None else ()
        return (
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Expose-Headers", _EXPOSED),
            ("Vary", "Origin"),
        )

    @staticmethod
    def preflight(request: Request) -> tuple[tuple[str, str], ...]:
        """The further fields that answer the question whether a request may be made."""
        # A CloudEvent in binary mode has a field for each of its attributes.
        asked = request.tokens("access-control-request-headers")
        events = [name for name in asked if name.lower().startswith("ce-")]
        return (
            ("Access-Control-Allow-Methods", _METHODS),
            ("Access-Control-Allow-Headers", ", ".join([_FIELDS, *events])),
            ("Access-Control-Max-Age", _MAX_AGE),
        )


def _is_address(text: str) -> bool:
    try:
        ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True


def _normal(origin: str) -> str:
    """An origin as browsers write it: lower case, without its scheme's own port."""
    lowered = origin.lower()
    return lowered.removesuffix(_DEFAULT_PORTS.get(lowered.partition("://")[0], ""))
