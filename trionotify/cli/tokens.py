"""Options for tokens: one issuer on the command line, or several as `[[issuer]]` tables in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import click

from trionotify.cli.config import with_its_place
from trionotify.cli.stdio import Mistake
from trionotify.errors import did_you_mean
from trionotify.http.issuers import Issuer
from trionotify.http.tokens import Tokens

__all__ = ["take_tokens", "tokens_of", "tokens_options"]

#: The keys of a table. A TLS context can only be given in Python.
_KEYS: Final = [
    field.name for field in attrs.fields(Issuer) if field.init and field.name != "ssl_context"
]
#: The keys that are also options, for a single issuer.
_OPTIONS: Final = ("audience", "jwks", "algorithms")


class _Issuers(click.ParamType[list[dict[str, Any]]]):
    """An issuer's URL on the command line, or tables with all keys in a file."""

    name = "URL"
    #: See `config`.
    takes_tables = True

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> list[dict[str, Any]]:
        if isinstance(value, str):
            return [{"issuer": value}]
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            self.fail("must be a URL, or [[issuer]] tables", param, context)
        for table in value:
            for key in table:
                if key not in _KEYS:
                    self.fail(f"unknown key {key!r}{did_you_mean(key, _KEYS)}", param, context)
        return value


def tokens_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for tokens. All but the first are rare, and hidden from `--help`."""
    for option in reversed(
        (
            click.option(
                "--issuer",
                type=_Issuers(),
                metavar="URL",
                help="Accept tokens (JWT) of this identity provider. Needs --audience and --jwks. The"
                " file of --config may have several, as [[issuer]] tables.  [default: none]",
            ),
            click.option(
                "--audience",
                multiple=True,
                metavar="NAME",
                hidden=True,
                help="Accept tokens for this audience (the claim aud) only. May be given several times.",
            ),
            click.option(
                "--jwks",
                metavar="URL|FILE",
                hidden=True,
                help="File with the issuer's public keys, or their https URL.",
            ),
            click.option(
                "--algorithms",
                multiple=True,
                metavar="NAME",
                hidden=True,
                help="Accept this signature algorithm. May be given several times.  [default: RS256,"
                " PS256, ES256, EdDSA]",
            ),
            click.option(
                "--token-cookie",
                metavar="NAME",
                hidden=True,
                help="Accept a token from the cookie of this name as well.  [default: none]",
            ),
            click.option(
                "--resource",
                metavar="URL",
                hidden=True,
                help="URL by which the identity provider knows this server (RFC 9728).  [default: none]",
            ),
        )
    ):
        command = option(command)
    return command


def take_tokens(options: dict[str, Any]) -> None:
    """Replace the options for tokens by the `authenticate` that they describe.

    Raises `Mistake` that names the option at fault, and where it was given.
    """
    try:
        tokens = tokens_of(options)
    except (TypeError, ValueError) as error:
        raise Mistake(with_its_place(str(error))) from None
    if tokens is not None:
        options["authenticate"] = tokens


def tokens_of(options: dict[str, Any]) -> Tokens | None:
    """Remove the options for tokens; return their `Tokens`, or None without an issuer.

    Raises TypeError or ValueError that begins with the option at fault.
    """
    tables = options.pop("issuer", None)
    single = {name: value for name in _OPTIONS if (value := options.pop(name, None))}
    cookie, resource = options.pop("token_cookie", None), options.pop("resource", None)
    if not tables:
        for name, value in {**single, "token_cookie": cookie, "resource": resource}.items():
            if value:
                raise ValueError(f"{name}: needs issuer")
        return None
    if single and len(tables) > 1:
        raise ValueError(f"{next(iter(single))}: must be set in each [[issuer]] table, if several")
    made = [_issuer({**single, **table}, at, len(tables)) for at, table in enumerate(tables, 1)]
    return Tokens(*made, cookie=cookie, resource=resource)


def _issuer(table: Mapping[str, Any], number: int, count: int) -> Issuer:
    where = f"issuer: number {number}: " if count > 1 else ""
    given = dict(table)
    for name in ("issuer", "audience"):
        if name not in given:
            raise ValueError(f"{where or 'issuer: '}needs {name}")
    if "secret" in given:
        given["secret"] = Path(str(given["secret"]))
    try:
        return Issuer(given.pop("issuer"), **given)
    except (TypeError, ValueError) as error:
        # An option is named by itself, a table by its number.
        single = str(error).partition(":")[0] in _OPTIONS and count == 1
        raise type(error)(f"{error}" if single else f"{where or 'issuer: '}{error}") from None
