"""Validators for the fields of a client's record."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from trionotify.errors import quoted
from trionotify.model.query import ROLES
from trionotify.model.text import check_id, check_seconds

__all__ = ["check_identity", "check_moment", "check_params", "check_role", "copied"]


def check_identity(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name}: must be str, not {type(value).__name__}")
    # It appears in headers (percent-encoded), in logs (escaped), and in the `source` of what the client
    # publishes.
    check_id(attribute.name, value)


def check_moment(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{attribute.name}: must be a number or None, not {type(value).__name__}")
    check_seconds(attribute.name, value)


def check_role(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value not in ROLES:
        raise ValueError(f"{attribute.name}: must be one of {', '.join(ROLES)}, not {quoted(value)}")


def check_params(_: object, attribute: attrs.Attribute[Any], value: Mapping[str, str]) -> None:
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(
                f"{attribute.name}: must map str to str, not {quoted(name)} to {quoted(text)}"
            )


def copied(params: Mapping[str, str]) -> Mapping[str, str]:
    """Return a read-only copy that only the record has. The registry indexes clients by it.

    A mapping that is read-only already, such as a request's parameters, is taken as it is. A copy would
    add a fifth of a KiB to each connection.
    """
    if type(params) is MappingProxyType:
        return params
    try:
        return MappingProxyType(dict(params))
    except (TypeError, ValueError):
        kind = type(params).__name__
        raise TypeError(f"params: must be a mapping of str to str, not {kind}") from None
