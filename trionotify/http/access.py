"""Admission: identifying the client of a request, and checking its rights.

The secret decides first, where there is one. Then `authenticate` is asked, which may raise anything;
that concerns one request alone. If a server has both tokens and a secret, a client needs only one of
them.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING

from trionotify.delivery.admission import unavailable
from trionotify.delivery.clients import Client
from trionotify.delivery.faults import log_fault
from trionotify.delivery.turns import Turn
from trionotify.errors import Refused, StoreError
from trionotify.http.messages import client_of
from trionotify.http.secret import bearer_of
from trionotify.model.addresses import site_of

if TYPE_CHECKING:
    from trionotify.http.messages import Authenticate, Request
    from trionotify.http.web_hub import WebHub
    from trionotify.model.notification import Notification
    from trionotify.model.query import Query

__all__ = ["admit", "admit_operator", "check_publish", "check_rate"]

logger: logging.Logger = logging.getLogger("trionotify")


async def _read_filters(hub: WebHub, request: Request) -> None:
    """Parse long filters, one request at a time, and keep them on the request."""
    async with hub.slow_lane.one_of(site_of(request.remote)):
        request.read_filters()


async def _known(hub: WebHub, request: Request, client: Client) -> tuple[Client, Query]:
    if request.has_long_filters:
        await _read_filters(hub, request)
    query = request.query(client.id)
    client.bound()
    client.come_from(request.remote)
    return client, await hub.locate(query)


async def _identify(hub: WebHub, request: Request) -> tuple[Client, Query]:
    """Return the request's client and query. Raises `Refused`, or what `authenticate` raises."""
    until, authenticate = None, hub.authenticate
    operator = hub.secret is not None and hub.secret.is_borne_by(request)
    signed = hub.secret is not None and not operator
    if hub.tokens is not None:
        signed = signed and "sig" in request.params
        by_token = not (operator or signed)
        ask = partial(hub.tokens.client, origins=hub.origins, tickets=hub.tickets)
        authenticate = ask if by_token else None
    if hub.secret is not None and signed:
        if "sig" not in request.params and bearer_of(request) is not None:
            hub.secret.check_bearer(request, "a query without a signature")
        until = hub.secret.check(request.params)
    if request.has_long_filters:
        await _read_filters(hub, request)
    if authenticate is None:
        query = request.query()
        client = client_of(request, query)
    else:
        client = await _authenticated(authenticate, request)
        client.come_from(request.remote)
        known = () if client.rights is None else client.params
        query = request.query(client.id, known)
        client.bound()
    if query.filter is not None:
        client.choose(query.filter)
    if operator:
        client.exempt = True
    if until is not None:
        client.bound(signed=True)
        client.expire(until)
    if query.narrow is not None:
        client.narrow(query.narrow)
    return client, await hub.locate(query)


class _Misuse(Exception):
    """An `authenticate` has returned a wrong value. The text is ours, so the log may show it."""


async def _authenticated(authenticate: Authenticate, request: Request) -> Client:
    found = authenticate(request)
    client = await found if isawaitable(found) else found
    if not isinstance(client, Client):
        raise _Misuse(
            f"authenticate: must return a Client, not {type(client).__name__}; return"
            " request.client('the id'), or raise Refused(401, 'why')"
        )
    if client.position:
        raise _Misuse("authenticate: must return a new Client for each request, but this one is in use")
    return client


async def admit(hub: WebHub, request: Request, client: Client | None = None) -> tuple[Client, Query]:
    """Return the request's client and query. Raises only `Refused`.

    An application that has identified the client already passes it as `client`.
    """
    try:
        found = await (_identify(hub, request) if client is None else _known(hub, request, client))
        _check_expiry(found[0])
        return found
    except Refused:
        raise
    except StoreError as error:
        logger.error(
            "%s: the request failed: %s",
            request.remote,
            error,
            extra={"event": "request_failed", "remote": request.remote, "reason": str(error)},
        )
        raise unavailable(
            "the log can't be read at the moment; try again later", logged="the log can't be read"
        ) from None
    except Exception as error:
        # If it left a nursery of the application, it is in a group.
        if isinstance(error, ExceptionGroup) and (group := error.subgroup(Refused)):
            raise group.exceptions[0] from None
        _log_failure(error, request)
        raise Refused(500, "the server failed; see its log", logged="the server failed") from None
    except BaseExceptionGroup as group:
        errors, rest = group.split(Exception)
        if errors is not None:
            _log_failure(errors, request)
        assert rest is not None  # else it were an ExceptionGroup
        raise rest from None


def _check_expiry(client: Client) -> None:
    """Raise `Refused` (401) for a client whose time is over, perhaps since it was identified."""
    if client.expires_at is not None and time.time() >= client.expires_at:
        raise Refused(
            401, "expires_at: the client's authorization has expired; get a new one", logged="expires_at"
        )


def check_rate(hub: WebHub, request: Request) -> None:
    """Count a connection of the request's address, or raise `Refused` (429).

    This comes before the client is identified, so that guesses count, too. A request with the secret has
    no limits.
    """
    if hub.rates.of_connecting and not (hub.secret is not None and hub.secret.is_borne_by(request)):
        hub.rates.check_connection(request.remote)


async def admit_operator(hub: WebHub, request: Request) -> None:
    """Return if the request has an operator's rights; raises `Refused` otherwise.

    Without a secret and without tokens, every request has them.
    """
    if hub.secret is not None and (hub.tokens is None or hub.secret.is_borne_by(request)):
        hub.secret.check_bearer(request, request.path)
    elif hub.tokens is not None:
        grant = await hub.tokens.grant(request, hub.origins, hub.tickets)
        if grant is None:
            raise hub.tokens.missing()
        if not grant.allowed.admin:
            raise hub.tokens.without_right("admin")


async def check_publish(hub: WebHub, client: Client, notifications: list[Notification]) -> None:
    """Return if the request's `client` may publish all of these now.

    Raises `Refused`: 401 if its time ended while the body arrived, 403 or 429. A checkpoint whenever it
    takes more than a turn.
    """
    _check_expiry(client)
    if client.rights is not None:
        turn = Turn(partial(hub.crowd.turn, site_of(client.remote)))
        for notification in notifications:
            if turn.over:
                await turn.pass_on()
            try:
                client.rights.check_publish(notification)
            except Refused as refused:
                raise refused if hub.tokens is None else hub.tokens.challenged(refused) from None
    if hub.rates.of_publishing:
        hub.rates.check_publish(client, len(notifications))


def _log_failure(error: Exception, request: Request) -> None:
    log_fault(
        error,
        "%s: the request failed%s",
        request.remote,
        f": {error}" if isinstance(error, _Misuse) else "",
        event="request_failed",
        remote=request.remote,
        reason=type(error).__name__,
    )
