"""Options from a TOML file, and from environment variables.

The command line comes first, then the environment, then the file, then the default.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator
from datetime import date, time
from typing import Any, Final

import click
from click.core import ParameterSource

from trionotify.cli.stdio import Mistake
from trionotify.durations import duration_of
from trionotify.errors import did_you_mean
from trionotify.model.text import decoded

__all__ = [
    "DURATION",
    "FILE",
    "NUMBER",
    "Duration",
    "config_option",
    "in_one_line",
    "misspelt_variables",
    "name_variables",
    "with_its_place",
]

_PREFIX: Final = "TRIONOTIFY_"
#: The beginning of an option that turns another one off, such as --no-page, which has no variable.
_NEGATION: Final = "NO_"
#: The key of the file's path in a context's `meta`.
_PATH: Final = "trionotify.config"
#: The similarity from which a variable counts as a misspelt option.
_LIKE: Final = 0.75


class Duration(click.ParamType[float]):
    """A duration in any form that `duration_of` reads, of at least `least` seconds, and more than 0."""

    name = "duration"

    def __init__(self, least: float = 0.0) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> float:
        try:
            seconds = duration_of(value)
        except (TypeError, ValueError) as error:
            self.fail(str(error), param, context)
        if not 0 < seconds >= self._least:
            bound = f"at least {self._least:g}" if self._least else "greater than 0"
            self.fail(f"must be {bound}, not {value}", param, context)
        return seconds


class _File(click.Path):
    """A path, which is not empty, as one from a shell's variable that isn't set would be.

    A number from a file isn't one either, because it would mean a file descriptor.
    """

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        if value == "":
            self.fail("must not be empty", param, ctx)
        if not isinstance(value, str | os.PathLike):
            self.fail(f"must be a path in quotes, not {value!r}", param, ctx)
        if "\0" in os.fsdecode(value):
            self.fail("must not contain the character '\\x00'", param, ctx)
        return super().convert(value, param, ctx)


DURATION: Final = Duration()
#: The path of a file that the program itself opens, and whose errors it reports.
FILE: Final = _File(readable=False)
NUMBER: Final = click.FloatRange(0, min_open=True)
NUMBER.name = "number"


def name_variables(group: click.Group) -> None:
    """Give every option of every command the environment variable TRIONOTIFY_OPTION."""
    for option in _options(group):
        option.envvar = _variables(option)


def _variables(option: click.Option) -> list[str]:
    """Return a variable for each name of the option, those of old names last."""
    names = [name.removeprefix("--") for name in option.opts if name.startswith("--")]
    return [_PREFIX + name.replace("-", "_").upper() for name in names]


def misspelt_variables(group: click.Group) -> Iterator[str]:
    """Yield a line about each variable that is probably a misspelt option.

    Others are ignored. Kubernetes sets some for a service of our name, like TRIONOTIFY_SERVICE_HOST.
    """
    known = [name.removeprefix(_PREFIX) for option in _options(group) for name in _variables(option)]
    for name in sorted(os.environ):
        if name.startswith(_PREFIX) and (rest := name.removeprefix(_PREFIX)) not in known:
            positive = rest.removeprefix(_NEGATION)
            if positive != rest and positive in known:
                yield f"{name}: unknown option; set {_PREFIX}{positive}=false"
                continue
            for near in difflib.get_close_matches(rest, known, 1, _LIKE):
                yield f"{name}: unknown option; did you mean {_PREFIX}{near}?"


def _options(group: click.Group) -> Iterator[click.Option]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from _options(command)
        for option in command.params:
            if isinstance(option, click.Option) and option.opts[0].startswith("--"):
                yield option


def in_one_line(error: click.UsageError) -> str:
    """Return the message about a mistake on the command line, or in a variable, which it names."""
    option = error.param if isinstance(error, click.BadParameter) else None
    if not isinstance(option, click.Option) or isinstance(error, click.MissingParameter):
        where = f" See '{error.ctx.command_path} --help'." if error.ctx else ""
        message = " ".join(error.format_message().split())
        return message + ("" if message.endswith((".", "?", "?)")) else ".") + where
    if _source(error.ctx, option.name) is not ParameterSource.ENVIRONMENT:
        return f"{option.opts[0]}: {error.message}"
    variables = _variables(option)
    variable = next((name for name in variables if os.environ.get(name)), variables[0])
    linked = os.environ.get(variable, "").startswith("tcp://")
    hint = " Kubernetes sets it for a service of this name; set enableServiceLinks: false." * linked
    return f"{variable}: {error.message}{hint}"


def with_its_place(message: str) -> str:
    """Add the source of the value to a message that begins with an option's name."""
    context = click.get_current_context()
    word = re.match(r"\w*", message)
    name = word[0] if word else ""
    source = _source(context, name)
    if source is ParameterSource.ENVIRONMENT:
        return f"{_PREFIX}{name.upper()}{message.removeprefix(name)}"
    if source is ParameterSource.DEFAULT_MAP:
        return f"{context.meta[_PATH]}: {message}"
    return message


def _source(context: click.Context | None, name: str | None) -> ParameterSource | None:
    return None if context is None or name is None else context.get_parameter_source(name)


def config_option(command: Any) -> Any:
    """Add `--config FILE`, whose keys are the command's options with `_` for `-`."""
    return click.option(
        "--config",
        type=FILE,
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="TOML file with options. Its keys are the names of the options, with _ for -."
        "  [default: none]",
    )(command)


def _read(context: click.Context, _: click.Parameter, path: str | None) -> None:
    """Check the file's values, and make them the defaults."""
    if path is None:
        return
    try:
        with open(path, "rb") as file:
            found = tomllib.loads(decoded(file.read()))
    except OSError as error:
        raise Mistake(with_its_place(f"config: {path} can't be read: {error.strerror}")) from None
    except ValueError as error:  # of TOML, or of UTF-8
        raise Mistake(f"{path}: {error}") from None
    known = {
        param.name: param
        for param in context.command.params
        if isinstance(param, click.Option) and param.name not in (None, "config", "help")
    }
    for key, value in found.items():
        if key not in known:
            if isinstance(value, dict):
                raise Mistake(f"{path}: unknown option {key!r}; write the options without [{key}]")
            hint = did_you_mean(key, [name for name in known if name])
            raise Mistake(f"{path}: unknown option {key!r}{hint}")
        # A single value of a repeatable option needs no brackets.
        found[key] = [value] if known[key].multiple and isinstance(value, str) else value
        _check(context, known[key], path, key, found[key])
    context.default_map, context.meta[_PATH] = found, path


def _check(context: click.Context, option: click.Option, path: str, key: str, value: Any) -> None:
    """Raise `Mistake` if the option can't have this value, before other code reads it."""
    if isinstance(value, bool) != option.is_flag or isinstance(value, date | time):
        needed = "must be true or false" if option.is_flag else "must be text or a number"
        raise Mistake(f"{path}: {key}: {needed}, not {value!r}")
    strings = isinstance(value, list) and all(isinstance(item, str) for item in value)
    several = isinstance(value, dict | list) and not getattr(option.type, "takes_tables", False)
    if not strings if option.multiple else several:
        needed = "an array of strings" if option.multiple else "a single value"
        raise Mistake(f"{path}: {key}: must be {needed}, not {value!r}")
    if isinstance(value, float) and isinstance(option.type, click.IntRange) and not value.is_integer():
        raise Mistake(f"{path}: {key}: must be a whole number, not {value!r}")  # click cuts it off
    try:
        option.type_cast_value(context, value)
    except click.BadParameter as error:
        raise Mistake(f"{path}: {key}: {error.message}") from None
