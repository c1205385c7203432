"""Admission: whose request this is, and what it may have.

The secret decides first, where there is one. Then `authenticate` is asked, which may raise anything;
that concerns one request alone.
"""

from __future__ import annotations

import logging
from inspect import isawaitable
from typing import TYPE_CHECKING

from trionotify.connection.failures import log_fault
from trionotify.delivery.clients import Client
from trionotify.errors import Refused, StoreError
from trionotify.http.messages import client_of
from trionotify.model.addresses import site_of

if TYPE_CHECKING:
    from trionotify.http.messages import Authenticate, Request
    from trionotify.http.web_hub import WebHub
    from trionotify.model.query import Query


__all__ = ["admit"]

logger: logging.Logger = logging.getLogger("trionotify")


async def _read_filters(hub: WebHub, request: Request) -> None:
    """Parse long filters, one request's at a time. After that the request knows them."""
    if request.has_long_filters:
        async with hub.slow_lane.one_of(site_of(request.remote)):
            request.read_filters()


async def _known(hub: WebHub, request: Request, client: Client) -> tuple[Client, Query]:
    await _read_filters(hub, request)
    query = request.query(client.id)
    client.bound()
    client.come_from(request.remote)
    return client, await hub.locate(query)


async def _identify(hub: WebHub, request: Request) -> tuple[Client, Query]:
    """The client whose request this is; raises `Refused`, or whatever `authenticate` raises."""
    until = None
    if hub.secret is not None and not hub.secret.is_borne_by(request):
        until = hub.secret.check(request.params)
    await _read_filters(hub, request)
    if hub.authenticate is None:
        query = request.query()
        client = client_of(request, query)
    else:
        client = await _authenticated(hub.authenticate, request)
        client.come_from(request.remote)
        query = request.query(client.id)
        if not client.made_of_query:
            client.bound()
            if query.filter is not None:
                client.choose(query.filter)
    if until is not None:
        client.bound(signed=True)
        client.expire(until)
    if query.narrow is not None:
        client.narrow(query.narrow)
    return client, await hub.locate(query)


async def _authenticated(authenticate: Authenticate, request: Request) -> Client:
    found = authenticate(request)
    client = await found if isawaitable(found) else found
    if not isinstance(client, Client):
        raise TypeError(
            f"authenticate must return a Client, not {type(client).__name__}: return"
            " request.client('the id'), or raise Refused(401, 'why')"
        )
    if client.position:
        raise ValueError("authenticate must make a new Client for each request: this one is in use")
    return client


async def admit(hub: WebHub, request: Request, client: Client | None = None) -> tuple[Client, Query]:
    """The client whose request this is, and what its query says; raises `Refused`, nothing else.

    An application that knows already who it is gives the `client`.
    """
    try:
        return await (_identify(hub, request) if client is None else _known(hub, request, client))
    except Refused:
        raise
    except StoreError as error:
        logger.error(
            "%s: the request failed: %s",
            request.remote,
            error,
            extra={"event": "request_failed", "remote": request.remote, "reason": str(error)},
        )
        raise Refused(503, "the log can't be read at the moment; try again later") from None
    except Exception as error:
        # Out of a nursery of the application's it comes in a group.
        if isinstance(error, ExceptionGroup) and (group := error.subgroup(Refused)):
            raise group.exceptions[0] from None
        _log_failure(error, request)
        raise Refused(500, "the server failed; its log says how") from None
    except BaseExceptionGroup as group:
        errors, rest = group.split(Exception)
        if errors is not None:
            _log_failure(errors, request)
        assert rest is not None  # else it were an ExceptionGroup
        raise rest from None


def _log_failure(error: Exception, request: Request) -> None:
    log_fault(
        error,
        request.params,
        "%s: the request failed",
        request.remote,
        event="request_failed",
        remote=request.remote,
        reason=type(error).__name__,
    )
