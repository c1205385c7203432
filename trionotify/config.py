"""Options from elsewhere than the command line: a TOML file, and environment variables.

The command line comes first, then the environment, then the file, then the default.
"""

from __future__ import annotations

import difflib
import tomllib
from typing import Any

import click

__all__ = ["Mistake", "config_option", "name_variables"]


class Mistake(click.ClickException):
    """What is told in one line, and ends the process with 2: like a mistake in the options."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"trionotify: {self.message}", file=file, err=file is None)


def name_variables(group: click.Group) -> None:
    """Let every option of every command also be the environment variable TRIONOTIFY_OPTION."""
    for command in group.commands.values():
        if isinstance(command, click.Group):
            name_variables(command)
        for option in command.params:
            if isinstance(option, click.Option) and option.opts[0].startswith("--"):
                name = option.opts[0].removeprefix("--").replace("-", "_").upper()
                option.envvar = f"TRIONOTIFY_{name}"


def config_option(command: Any) -> Any:
    """`--config FILE`, whose keys are the command's options with `_` for `-`."""
    return click.option(
        "--config",
        type=click.Path(),
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="Take options from a TOML file, keys with _ for -.",
    )(command)


def _read(context: click.Context, _: click.Parameter, path: str | None) -> None:
    """Make the file's values the defaults, once they are checked."""
    if path is None:
        return
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise Mistake(f"config: {path} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Mistake(f"{path}: {error}") from None
    known = {
        param.name: param
        for param in context.command.params
        if isinstance(param, click.Option) and param.name not in (None, "config", "help")
    }
    for key, value in found.items():
        if key not in known:
            near = difflib.get_close_matches(key, [name for name in known if name], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise Mistake(f"{path}: there is no option {key!r}{hint}")
        _check(context, known[key], path, key, value)
    context.default_map = found


def _check(context: click.Context, option: click.Option, path: str, key: str, value: Any) -> None:
    """Raise `Mistake` if the option can't have this value, before anything else looks at it."""
    if isinstance(value, bool) != option.is_flag:
        needed = "true or false is needed" if option.is_flag else "true and false are no values here"
        raise Mistake(f"{path}: {key}: {needed}, not {value!r}")
    if isinstance(value, dict) or isinstance(value, list) != option.multiple:
        needed = "an array of strings" if option.multiple else "a single value"
        raise Mistake(f"{path}: {key}: {needed} is needed, not {value!r}")
    try:
        option.type_cast_value(context, value)
    except click.BadParameter as error:
        raise Mistake(f"{path}: {key}: {error.message}") from None
