"""What `open_hub`, `open_server` and `serve` check of their keywords, before anything runs.

Each error names the keyword, says what is wrong with it, and what to write. What has a module of its own
is checked there: limits in `settings`, hosts and sockets in `listeners`, certificates in `certificates`.
"""

from __future__ import annotations

import inspect
import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

import attrs

from trionotify.errors import did_you_mean
from trionotify.http.web_hub import WebHub
from trionotify.settings import Settings

__all__ = ["check_hub", "check_listening", "check_names", "check_paths", "check_serving"]

#: Options of the command line that are none in Python, and what there is in their place.
_COMMAND: Final[Mapping[str, str]] = {
    "log_level": "set the level of logging.getLogger('trionotify')",
    "log_format": "add a handler to logging.getLogger('trionotify')",
    "config": "read the file with tomllib, and give its keys as keywords",
}


def check_hub(hub: object) -> WebHub:
    """Return the hub, if `open_hub` made it; else raise TypeError."""
    if not isinstance(hub, WebHub):
        raise TypeError(f"hub: it must be what open_hub gives, not {type(hub).__name__}")
    return hub


def check_names(
    given: Iterable[str], takes: Iterable[Callable[..., Any]], others: Callable[..., Any] | None = None
) -> None:
    """Raise TypeError for a keyword that neither these functions nor `Settings` have.

    It names the nearest one, or says that it is one of `others` or of the command line.
    """
    settings = [field.name for field in attrs.fields(Settings)]
    known = settings + [name for function in takes for name in _keywords(function)]
    for name in given:
        if name in known:
            continue
        if others is not None and name in _keywords(others):
            raise TypeError(f"{name}: this is an option of serve and open_server: a hub doesn't listen")
        if hint := _COMMAND.get(name):
            raise TypeError(
                f"there is no option {name!r} in Python: it is one of the command line; {hint}"
            )
        raise TypeError(f"there is no option {name!r}{did_you_mean(name, known)}")


def _keywords(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]


def check_serving(
    session: object, handler: object, authenticate: object, *, page: object, store: object
) -> None:
    """Check those keywords of `open_hub` that have no module of their own."""
    _check_function("session", session, "async def session(client)", ["client"])
    _check_function("handler", handler, "async def handler(client, message)", ["client", "message"])
    _check_function("authenticate", authenticate, "def authenticate(request)", ["request"])
    _check_flag("page", page)
    _check_kind("store", store, (str,), "'memory:' or 'sqlite:PATH'")


def check_listening(port: object, admin_port: object, insecure: object, ssl_context: object) -> None:
    """Check those keywords of `serve` that have no module of their own."""
    _check_port("port", port)
    if admin_port is not None:
        _check_port("admin_port", admin_port)
    _check_flag("insecure", insecure)
    if ssl_context is not None:
        _check_kind("ssl_context", ssl_context, (ssl.SSLContext,), "an ssl.SSLContext")


def check_paths(**paths: object) -> None:
    """Raise TypeError for what is neither None nor a path."""
    for name, path in paths.items():
        if path is not None:
            _check_kind(name, path, (str, os.PathLike), "a path")


def _check_kind(name: str, value: object, kinds: tuple[type, ...], needed: str) -> None:
    if not isinstance(value, kinds):
        raise TypeError(f"{name}: must be {needed}, not {type(value).__name__}")


def _check_flag(name: str, value: object) -> None:
    _check_kind(name, value, (bool,), "True or False")


def _check_port(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        hint = f"; write {int(value)}" if isinstance(value, str) and value.isdecimal() else ""
        raise TypeError(f"{name}: must be a whole number, not {type(value).__name__}{hint}")
    if not 0 <= value <= 65535:
        raise ValueError(f"{name}: must be from 0 to 65535, not {value}")


def _check_function(name: str, function: Any, form: str, arguments: list[str]) -> None:
    """Raise TypeError for what can't be called like this, or doesn't have to be awaited as it must."""
    if function is None:
        return
    if not callable(function):
        raise TypeError(f"{name}: must be a function, not {type(function).__name__}; write {form}")
    try:
        inspect.signature(function).bind(*arguments)
    except ValueError:
        pass  # a built-in function, which doesn't say
    except TypeError as error:
        given = " and ".join(arguments)
        raise TypeError(
            f"{name}: it is called with {given}, and can't be: {error}; write {form}"
        ) from None
    if inspect.isasyncgenfunction(function) or (form.startswith("async") and _is_plain(function)):
        raise TypeError(f"{name}: must be an async function without a yield; write {form}")


def _is_plain(function: Any) -> bool:
    """Whether it was defined by `def`. What is made in another way may well return an awaitable."""
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    if inspect.isclass(function):
        return True
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code is not None and code.co_name != "<lambda>" and not code.co_flags & inspect.CO_COROUTINE
