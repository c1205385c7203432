"""Checks of the keywords of `open_hub`, `open_server` and `serve`, before anything runs.

Each error names the keyword, says what is wrong with it, and what to write. Some keywords are checked
in their own modules: limits in `settings`, hosts and sockets in `listeners`, certificates in
`certificates`.
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

#: Options of the command line that don't exist in Python, and what to use instead.
_COMMAND: Final[Mapping[str, str]] = {
    "log_level": "set the level of logging.getLogger('trionotify')",
    "log_format": "add a handler to logging.getLogger('trionotify')",
    "config": "read the file with tomllib, and pass its keys as keywords",
}


def check_hub(hub: object) -> WebHub:
    """Return the hub if `open_hub` made it; otherwise raise TypeError."""
    if not isinstance(hub, WebHub):
        raise TypeError(f"hub: must come from open_hub, not {type(hub).__name__}")
    return hub


def check_names(
    given: Iterable[str], takes: Iterable[Callable[..., Any]], others: Callable[..., Any] | None = None
) -> None:
    """Raise TypeError for a keyword that neither these functions nor `Settings` have.

    The error names the nearest keyword, or says that `others` or the command line has this one.
    """
    settings = [field.name for field in attrs.fields(Settings)]
    known = settings + [name for function in takes for name in _keywords(function)]
    for name in given:
        if name in known:
            continue
        if others is not None and name in _keywords(others):
            raise TypeError(f"{name}: an option of serve and open_server, because a hub doesn't listen")
        if hint := _COMMAND.get(name):
            raise TypeError(f"{name}: an option of the command line only; {hint}")
        raise TypeError(f"{name}: unknown option{did_you_mean(name, known)}")


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
    _check_kind("store", store, (str,), "'memory:', 'sqlite:PATH' or 'redis://HOST'")


def check_listening(
    port: object, admin_port: object, insecure: object, ssl_context: object, reuse_port: object
) -> None:
    """Check those keywords of `serve` that have no module of their own."""
    _check_port("port", port)
    if admin_port is not None:
        _check_port("admin_port", admin_port)
    _check_flag("insecure", insecure)
    _check_flag("reuse_port", reuse_port)
    if ssl_context is not None:
        _check_kind("ssl_context", ssl_context, (ssl.SSLContext,), "an ssl.SSLContext")


def check_paths(**paths: Any) -> None:
    """Raise TypeError for a value that is neither None nor a path, ValueError for one of no file."""
    for name, path in paths.items():
        if path is not None:
            _check_kind(name, path, (str, os.PathLike), "a path")
            if path == "":
                raise ValueError(f"{name}: must not be empty")
            if "\0" in os.fsdecode(path):
                raise ValueError(f"{name}: must not contain the character {chr(0)!r}")


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
    """Raise TypeError for a function with other parameters, or one that isn't async but must be."""
    if function is None:
        return
    if not callable(function):
        raise TypeError(f"{name}: must be a function, not {type(function).__name__}; write {form}")
    try:
        inspect.signature(function).bind(*arguments)
    except ValueError:
        pass  # a built-in function without a signature
    except TypeError as error:
        given = " and ".join(arguments)
        raise TypeError(f"{name}: must accept {given}: {error}; write {form}") from None
    if inspect.isasyncgenfunction(function) or (form.startswith("async") and _is_plain(function)):
        raise TypeError(f"{name}: must be an async function without a yield; write {form}")


def _is_plain(function: Any) -> bool:
    """Return whether it was defined with `def`. Other callables may still return an awaitable."""
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    if inspect.isclass(function):
        return True
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code is not None and code.co_name != "<lambda>" and not code.co_flags & inspect.CO_COROUTINE
