"""Access tokens of identity providers, as an `authenticate` for a hub or a server.

    tokens = Tokens(Issuer("https://id.example.org", audience="notifications", jwks="https://…/keys"))
    async with trionotify.open_server(authenticate=tokens) as server: ...

A token arrives in `Authorization: Bearer`, in a cookie if one is configured, or as a ticket, which
stands for a token in one request (`tickets`). It is parsed strictly (`jws`). Its issuer must be
configured, and verifies it (`issuers`) with its keys (`jwks`). Its claims become a `Grant` (`claims`),
from which the client is made. The token itself is not kept, but its digest is (`verified`).

In its query a client may set how it connects, its filters, and the keys of `allow_params`. All other
parameters must come from the token, because audiences select by them. If a client could choose them
freely, it could make itself a recipient of notifications for others.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from trionotify.delivery.clients import Client
from trionotify.errors import Refused, cut, quoted
from trionotify.http.claims import SCOPES, Grant
from trionotify.http.issuers import Issuer
from trionotify.http.jwks import RemoteKeys
from trionotify.http.jws import BadToken, Token
from trionotify.http.origins import Origins
from trionotify.http.secret import Reread, bearer_of
from trionotify.http.tickets import MemoryTickets, TicketStore, redeem
from trionotify.http.verified import VerifiedTokens, digest_of
from trionotify.model.keys import OURS, TICKET, is_filter
from trionotify.model.predicates import NOTHING
from trionotify.model.query import ROLES

if TYPE_CHECKING:
    from trionotify.http.messages import Request

__all__ = ["METADATA", "Tokens"]

#: The path of a protected resource's metadata (RFC 9728, section 3).
METADATA: Final = "/.well-known/oauth-protected-resource"
#: Characters that an `error_description` must not have (RFC 6750, section 3).
_NOT_QUOTABLE: Final = re.compile(r"[^ -!#-\[\]-~]")
#: The URL of a resource (RFC 9728, section 1.2), which the challenge has in quotes.
_RESOURCE: Final = re.compile(r"https?://([!$-Z^-~]+|\[[0-9a-f:]+\][!$-Z^-~]*)", re.IGNORECASE)

#: Gets a request and the client made from its token. It may return another client, or refuse.
Then = Callable[["Request", Client], Client | Awaitable[Client]]
#: Gets a request without a token.
Otherwise = Callable[["Request"], Client | Awaitable[Client]]


class Tokens:
    """An `authenticate` for `open_server` and `open_hub` that accepts the tokens of these issuers.

    - `cookie` names a cookie that may hold the token. A page that sends it must belong to the server's
      own site, or to one that `allow_origin` names.
    - `then(request, client)`, sync or async, gets the client made from a token, and returns it or
      another one, or raises `Refused`. The token's rights and its expiry also limit another client.
    - `otherwise(request)`, sync or async, is called for requests without a token. Without it, these
      requests are refused with 401.
    - `tickets` keeps the tickets that stand for tokens in URLs. By default, this is the server's
      memory, or Redis if the log is there.
    - `resource` is the URL by which the identity provider knows the server (RFC 9728).

    An application's own function may also call `client = await tokens(request)`. The hub must still know
    the `Tokens`, because it runs the task that fetches keys. So pass the `Tokens` as `authenticate`, and
    that function as its `otherwise` or `then`.
    """

    def __init__(
        self,
        *issuers: Issuer,
        cookie: str | None = None,
        then: Then | None = None,
        otherwise: Otherwise | None = None,
        resource: str | None = None,
        tickets: TicketStore | None = None,
    ) -> None:
        if not issuers or not all(isinstance(one, Issuer) for one in issuers):
            raise TypeError("issuers: must be one or more Issuer objects; write Tokens(Issuer(...))")
        self._issuers = {one.issuer: one for one in issuers}
        if len(self._issuers) < len(issuers):
            raise ValueError("issuers: an issuer is given twice; give it once")
        for name, text in (("cookie", cookie), ("resource", resource)):
            if not isinstance(text, str | None):
                raise TypeError(f"{name}: must be str, not {type(text).__name__}")
        for name, function in (("then", then), ("otherwise", otherwise)):
            if function is not None and not callable(function):
                raise TypeError(f"{name}: must be a function, not {type(function).__name__}")
        if tickets is not None and not hasattr(tickets, "take"):
            raise TypeError(f"tickets: must be a TicketStore, not {type(tickets).__name__}")
        if resource is not None and not _RESOURCE.fullmatch(resource):
            raise ValueError(
                f"resource: must be a URL like https://push.example.org, not {quoted(resource)}"
            )
        self._cookie = cookie
        self._then = then
        self._otherwise = otherwise
        self.resource = resource
        split = urlsplit(resource or "")
        #: Where the metadata of the `resource` are: the path, and the whole URL (RFC 9728, section 3.1).
        self.metadata_path: str = METADATA + split.path.rstrip("/")
        self._metadata_url = f"{split.scheme}://{split.netloc}{self.metadata_path}"
        self._verified = VerifiedTokens()
        #: Where tickets are kept, and whether the application has said so.
        self.tickets: TicketStore = tickets if tickets is not None else MemoryTickets()
        self.has_ticket_store: bool = tickets is not None

    @property
    def issuers(self) -> tuple[Issuer, ...]:
        """The issuers whose tokens are accepted."""
        return tuple(self._issuers.values())

    @property
    def remote(self) -> list[RemoteKeys]:
        """The key sets behind URLs. The hub runs a task for each, which fetches it."""
        return [one.keys for one in self.issuers if isinstance(one.keys, RemoteKeys)]

    def reread(self) -> list[Reread]:
        """Read the files of keys and secrets again. Raises ValueError for an invalid one."""
        return [file for one in self.issuers for file in one.keys.reread()]

    @property
    def problem(self) -> str | None:
        """The fault of the keys, for the readiness check; None if there is none."""
        return "; ".join(filter(None, [one.keys.problem for one in self.issuers])) or None

    @property
    def usable(self) -> bool:
        """Whether each issuer's tokens can be verified."""
        return all(one.keys.usable for one in self.issuers)

    async def __call__(self, request: Request) -> Client:
        """Return the client whose request this is; raises `Refused`."""
        return await self.client(request, Origins())

    async def client(
        self, request: Request, origins: Origins, tickets: TicketStore | None = None
    ) -> Client:
        """Return the client. Pages of these `origins` may send the cookie. Raises `Refused`.

        `tickets` is where tickets are kept, by default in memory.
        """
        grant = await self.grant(request, origins, tickets)
        if grant is None and self._otherwise is not None:
            made = self._otherwise(request)
            return await made if isawaitable(made) else made
        if grant is None:
            raise self.missing()
        client = self._client_of(request, grant)
        if self._then is None:
            return client
        then = self._then(request, client)
        found = await then if isawaitable(then) else then
        if isinstance(found, Client) and found is not client:
            _restrict(found, client)
        return found

    async def grant(
        self, request: Request, origins: Origins, tickets: TicketStore | None = None
    ) -> Grant | None:
        """Return the grant of a request's token, or None if it has no token.

        Raises `Refused`: 401 for a token that isn't accepted, 400 for two tokens, and what `tickets`
        raises. A ticket is used up.
        """
        token, ticket = bearer_of(request), request.params.get(TICKET)
        if token is not None and ticket is not None:
            raise self._refused(
                400, "invalid_request", "token: given twice, in a header and as a ticket; give it once"
            )
        if ticket is not None:
            found = await redeem(self.tickets if tickets is None else tickets, ticket)
            if found is None or found.issuer not in self._issuers or not found.in_force:
                raise self._unauthorized("ticket", "ticket: unknown, expired or used; get a new one")
            return found
        if token is None and self._cookie is not None:
            cookies = _cookies_of(request, self._cookie)
            if cookies:
                self._check_origin(request, origins)
            if len(cookies) > 1:
                raise self._refused(
                    400,
                    "invalid_request",
                    "cookie: given with different values, and another page may have set one; delete the"
                    " cookies of this site, and give the cookie a name that starts with __Host-",
                )
            token = next(iter(cookies), None)
        return None if token is None else await self.check(token)

    async def check(self, text: str) -> Grant:
        """Return the grant of a token. Raises `Refused`: 401 with the reason, or 503 without keys."""
        digest = digest_of(text)
        if (known := self._verified.get(digest)) is not None:
            return known
        try:
            token = Token.read(text)
            name = token.claims.get("iss")
            issuer = self._issuers.get(name) if isinstance(name, str) else None
            if issuer is None:
                raise BadToken("issuer", "iss: not an issuer whose tokens this server accepts")
            grant = await issuer.grant(token)
        except BadToken as error:
            raise self._unauthorized(error.counted, f"token: {error}") from None
        self._verified.add(digest, grant, issuer.keys)
        return grant

    async def renew(self, client: Client, text: str) -> Grant:
        """Return the grant of a token that replaces the one of `client`, which is connected.

        Raises `Refused` also for a token with another client's id, or with other parameters.
        """
        grant = await self.check(text)
        rights, granted = client.rights, client.granted or {}
        if rights is None or (rights.issuer, granted.get("id")) != (grant.issuer, grant.id):
            raise self._forbidden("token: names another client; open a new connection with it")
        if granted != {**grant.params, "id": grant.id}:
            raise self._forbidden("token: has other parameters; open a new connection with it")
        return grant

    def missing(self) -> Refused:
        """The answer to a request without a token."""
        refused = self._refused(
            401,
            None,
            "Authorization: missing; send Authorization: Bearer TOKEN, or a ticket in the URL",
        )
        refused.counted, refused.logged = "token_missing", "token: missing"
        return refused

    def without_right(self, what: str, fix: str = "") -> Refused:
        """The answer to a request to `subscribe`, `publish` or `admin` that the token doesn't grant."""
        about = "this, which needs the scope trionotify:admin" if what == "admin" else what
        return self._forbidden(f"token: grants no right to {about}{fix}", f"trionotify:{what}")

    def challenged(self, refused: Refused) -> Refused:
        """The answer to a request whose token grants a right to publish, but not this."""
        return self._forbidden(refused.detail, "trionotify:publish", refused.logged)

    @property
    def metadata(self) -> dict[str, object]:
        """The metadata that tell clients where to get a token (RFC 9728), without the `resource`."""
        return {
            "authorization_servers": [one.issuer for one in self.issuers if one.secret is None],
            "bearer_methods_supported": ["header"],
            "scopes_supported": list(SCOPES),
            "authorization_details_types_supported": ["trionotify"],
            "resource_name": "trionotify",
        }

    def _check_origin(self, request: Request, origins: Origins) -> None:
        """Refuse a cookie from another site's page, because a browser sends it whatever page asks.

        Browsers name the page's origin in WebSocket handshakes and in requests that change something.
        In a GET they may omit it, but then they at least say whether the page belongs to this site.
        """
        origin = request.header("origin")
        reads = request.method in ("GET", "HEAD") and request.header("upgrade") is None
        if origin is None and reads:
            good = request.header("sec-fetch-site") in (None, "same-origin", "none")
        else:
            good = origin is not None and origins.trusts(origin, request.authority, request.secure)
        if not good:
            other = "; this request has no Origin, so send Authorization" if origin is None else ""
            refused = self._forbidden(
                "cookie: a token in a cookie is accepted only from pages of this server's own site, or"
                f" of one that --allow-origin names{other}"
            )
            refused.counted = "cookie_origin"
            raise refused

    def _client_of(self, request: Request, grant: Grant) -> Client:
        """Return the client that this grant names. Raises `Refused` (403)."""
        posts, rights = request.method == "POST", grant.allowed
        role = request.params.get("role", "publisher" if posts else "subscriber")
        if (posts or role in ("publisher", "both")) and rights.publish is NOTHING:
            raise self.without_right("publish", "; connect with role=subscriber" * (role == "both"))
        if role != "publisher" and not posts and rights.subscribe is NOTHING:
            raise self.without_right("subscribe", "; connect with role=publisher" * (role == "both"))
        params = {}
        for name, text in request.params.items():
            given = grant.id if name == "id" else grant.params.get(name)
            if given is not None and given != text:
                raise self._forbidden(
                    f"{cut(name)}: must be what the token says; leave it out", logged="a key"
                )
            if given is None and not (name in OURS or is_filter(name) or request.lists(name)):
                raise self._forbidden(
                    f"{cut(name)}: must come from the token; add it to the token's claims, or to the"
                    " server's allow_params",
                    logged="a key",
                )
            if name != TICKET:
                params[name] = text
        granted = {**grant.params, "id": grant.id}
        params |= granted
        # An invalid role is refused when the query is read.
        client = Client(
            grant.id,
            params,
            role if role in ROLES else "subscriber",
            request.remote,
            expires_at=grant.expires_at,
        )
        client.rights, client.granted = rights, granted
        return client

    def _unauthorized(self, counted: str, detail: str) -> Refused:
        refused = self._refused(401, "invalid_token", detail)
        refused.counted = f"token_{counted}"
        refused.logged = f"token: {counted}"
        return refused

    def _forbidden(self, detail: str, scope: str | None = None, logged: str | None = None) -> Refused:
        refused = self._refused(403, "insufficient_scope", detail, scope)
        refused.counted = "right"
        refused.logged = logged or "token: no right"
        return refused

    def _refused(self, status: int, error: str | None, detail: str, scope: str | None = None) -> Refused:
        """Add the challenge of RFC 6750, section 3."""
        said = {"realm": "trionotify", "error": error, "scope": scope}
        if error is not None:
            said["error_description"] = _NOT_QUOTABLE.sub(" ", detail)[:200]
        if self.resource is not None:
            said["resource_metadata"] = self._metadata_url
        parts = ", ".join(f'{name}="{text}"' for name, text in said.items() if text is not None)
        return Refused(status, detail, headers=(("WWW-Authenticate", f"Bearer {parts}"),))


def _restrict(client: Client, before: Client) -> None:
    """Limit the application's own client as `before`, which its token made, unless it has limits."""
    if client.rights is None:
        client.rights, client.granted = before.rights, before.granted
    client.keeps_expiry = client.expires_at is not None
    if client.expires_at is None and before.expires_at is not None:
        client.expire(before.expires_at)


def _cookies_of(request: Request, name: str) -> set[str]:
    """The values of the cookies with this name (RFC 6265, section 5.4), without empty ones.

    A logout may leave an empty one. Browsers say nothing about the page that has set a cookie, and sort
    the cookies of one name by what it chose. So if there are several, none of them can be trusted.
    """
    found = set()
    for pair in (request.header("cookie") or "").split(";"):
        key, mark, value = pair.strip().partition("=")
        if mark and key == name:
            found.add(value.strip('"'))
    return found - {""}
