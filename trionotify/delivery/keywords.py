"""The keywords of `hub.publish`, for editors and type checkers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trionotify.model.keywords import CoreAttributes

if TYPE_CHECKING:
    from collections.abc import Callable

    from trionotify.delivery.clients import Client

__all__ = ["Attributes"]


class Attributes(CoreAttributes, total=False):
    """The keywords of `publish`, beside the data. None means "not given"."""

    #: A predicate over the client's query, or any callable of the `Client`.
    audience: Callable[[Client], object] | None
