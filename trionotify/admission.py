"""Admission: `authenticate` is asked, which may raise anything; that concerns one request alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from trionotify.errors import Refused, StoreError

if TYPE_CHECKING:
    from trionotify.clients import Client
    from trionotify.http import Request
    from trionotify.hub import Hub
    from trionotify.query import Query

__all__ = ["admit"]

logger = logging.getLogger("trionotify")


async def admit(hub: Hub, request: Request) -> tuple[Client, Query]:
    """The client whose request this is, and what its query says; raises `Refused`, nothing else."""
    try:
        return await hub.admit(request)
    except Refused:
        raise
    except StoreError as error:
        logger.error("%s: the request failed: %s", request.remote, error)
        raise Refused(503, "the log can't be read at the moment; try again later") from None
    except Exception as error:
        # Out of a nursery of the application's it comes in a group.
        if isinstance(error, ExceptionGroup) and (group := error.subgroup(Refused)):
            raise group.exceptions[0] from None
        logger.exception("%s: the request failed", request.remote)
        raise Refused(500, "the server failed; its log says how") from None
    except BaseExceptionGroup as group:
        errors, rest = group.split(Exception)
        logger.error("%s: the request failed", request.remote, exc_info=errors)
        assert rest is not None  # else it were an ExceptionGroup
        raise rest from None
