"""Options from a file and from the environment."""

from __future__ import annotations

import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import attrs
import click
import pytest

from tests.cli.test_main import run, running
from trionotify.cli.main import main
from trionotify.cli.serve import serve
from trionotify.settings import Settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", "unknown option 'prot'; did you mean 'port'?"),
        ("max-log-age = 1", "unknown option 'max-log-age'; did you mean 'max_log_age'?"),
        ("config = 'x'", "unknown option 'config'"),
        ("[serve]\nport = 1", "unknown option 'serve'"),
        ("port = 'x'", "port: 'x' is not a valid integer"),
        ("port = 99999", "port: 99999 is not in the range 0<=x<=65535"),
        ("port = 1.5", "port: must be a whole number, not 1.5"),
        ("max_log_entries = inf", "max_log_entries: must be a whole number, not inf"),
        ("unix = ''", "unix: must not be empty"),
        ("port = true", "port: must be text or a number, not True"),
        ("port = [1]", "port: must be a single value, not [1]"),
        ("page = 'no'", "page: must be true or false, not 'no'"),
        ("allow_origin = 1", "allow_origin: must be an array of strings, not 1"),
        ("host = [1, {}]", "host: must be an array of strings, not [1, {}]"),
        (
            "allow_origin = 'nowhere'",
            "allow_origin: 'nowhere' can't be the origin of a page: it has no scheme and host",
        ),
        ("durability = 'some'", "durability: 'some' is not one of 'full', 'normal'"),
        ("ping_interval = 0", "ping_interval: must be greater than 0, not 0"),
        (
            "max_log_age = '1x'",
            "max_log_age: must be a duration in seconds, like 90, or a text like 15m or 1h30m",
        ),
        ("secret = 'nowhere'", "trionotify.toml: secret: nowhere can't be read: No such file"),
        ("tls_key = 'nowhere'", "trionotify.toml: tls_key: needs tls_cert"),
        ("port = ", "Invalid value (at line 1, column 8)"),
        ("# \xff", "trionotify.toml: line 1 is not UTF-8; save the file as UTF-8"),
        ("max_log_age = 1\r\nunix = '\xe9'", "trionotify.toml: line 2 is not UTF-8"),
        (
            "\xff\xfep\x00",
            "trionotify.toml: starts with the byte order mark of UTF-16; save it as UTF-8",
        ),
        ("page = true\npage = true", "trionotify.toml: Cannot overwrite a value (at line 2, column 12)"),
        ("[unix]\n[unix]", "trionotify.toml: Cannot declare ('unix',) twice (at line 2, column 6)"),
        ("[unix]\nx = 1", "unix: must be a single value, not {'x': 1}"),
        ("[[allow_origin]]", "allow_origin: must be an array of strings, not [{}]"),
        ("port = 2026-01-01", "port: must be text or a number, not datetime.date(2026, 1, 1)"),
        ("max_batch = 12:00:00", "max_batch: must be text or a number, not datetime.time(12, 0)"),
        ("unix = 1", "unix: must be a path in quotes, not 1"),
        ("secret = 1.5", "secret: must be a path in quotes, not 1.5"),
        ('tls_cert = "\\u0000x"', "tls_cert: must not contain the character '\\x00'"),
        ("no_page = true", "unknown option 'no_page'; did you mean 'page'?"),
    ],
)
def test_a_mistake_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    """Which names it, before anything listens."""
    path = tmp_path / "trionotify.toml"
    path.write_bytes(f"{text}\n".encode("latin-1"))
    done = run("--config", str(path), "--port=0") if "port" not in text else run("--config", str(path))
    assert done.returncode == (1 if "nowhere" in text else 2)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("trionotify: ")
    assert words in line


def test_there_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and which variable names it."""
    done = run("--config", "nowhere.toml")
    assert done.stderr == "trionotify: config: nowhere.toml can't be read: No such file or directory\n"
    assert done.returncode == 2
    done = run("--config", str(tmp_path))
    assert done.stderr == f"trionotify: config: {tmp_path} can't be read: Is a directory\n"
    monkeypatch.setenv("TRIONOTIFY_CONFIG", "nowhere.toml")
    done = run("serve")
    words = "trionotify: TRIONOTIFY_CONFIG: nowhere.toml can't be read: No such file or directory\n"
    assert (done.returncode, done.stderr) == (2, words)


def test_what_comes_first(tmp_path: Path) -> None:
    """The command line, then the environment, then the file, then the default."""
    path = tmp_path / "trionotify.toml"
    texts = [
        f'unix = "{tmp_path}/file"',
        "max_connections = 7",
        "trusted_proxy = ['unix', '10.0.0.0/8']",
    ]
    # The byte order mark is an editor's.
    path.write_text("\ufeff" + "\n".join(texts))
    with running("--config", str(path)) as (_, url):
        assert url == f"unix:{tmp_path}/file"
    # One of what may be several, and a whole number with a point.
    path.write_text('host = "localhost"\nport = 0.0\n')
    with running("--config", str(path)) as (_, url):
        assert url.startswith("http://")
    path.write_text("\n".join(texts))
    variables = {"TRIONOTIFY_CONFIG": str(path), "TRIONOTIFY_UNIX": f"{tmp_path}/environment"}
    with running(**variables) as (_, url):
        assert url == f"unix:{tmp_path}/environment"
    with running("--unix", f"{tmp_path}/line", **variables) as (_, url):
        assert url == f"unix:{tmp_path}/line"


@pytest.mark.parametrize("where", ["line", "environment", "file", "none"])
def test_allow_params_from_anywhere(where: str, tmp_path: Path) -> None:
    """With commas on the command line, with spaces in a variable, as an array in a file; or empty."""
    path = tmp_path / "trionotify.toml"
    path.write_text("allow_params = ['room', 'team']\n" if where == "file" else "port = 0\n")
    arguments = ["--allow-params=room,team"] if where == "line" else []
    arguments = ["--allow-params="] if where == "none" else arguments
    variables = {"TRIONOTIFY_ALLOW_PARAMS": "room team"} if where == "environment" else {}
    with running("--port=0", "--config", str(path), *arguments, **variables) as (_, url):
        codes = []
        for key in ("id", "room", "team", "user"):
            request = urllib.request.Request(f"{url}/events?{key}=x", method="HEAD")
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    codes.append(answer.status)
            except urllib.error.HTTPError as error:
                codes.append(error.code)
                error.close()
    assert codes == ([200, 400, 400, 400] if where == "none" else [200, 200, 200, 400])


def test_every_option_may_be_in_the_file() -> None:
    """With what TOML has for it."""
    context = click.Context(serve)
    written = {
        "port": "1", "allow_origin": "['*']", "page": "false", "max_log_age": "2.5", "secret": "'f'",
        **{field.name: "3" for field in attrs.fields(Settings)}, "compression": "false",
    }  # fmt: skip
    found = tomllib.loads("\n".join(f"{key} = {value}" for key, value in written.items()))
    known = {param.name: param for param in serve.params}
    for key, value in found.items():
        assert known[key].type_cast_value(context, value) in (
            value,
            tuple(value) if key == "allow_origin" else None,
        )


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90", 90.0), ("2.5", 2.5), ("'90'", 90.0), ("'15m'", 900.0), ("'1h30m'", 5400.0)],
)
def test_durations_in_the_file(written: str, seconds: float) -> None:
    """Numbers are seconds; texts say a unit, or are seconds, too. All such settings take both."""
    value = tomllib.loads(f"value = {written}")["value"]
    options = {param.name: param for param in serve.params}
    durations = [field.name for field in attrs.fields(Settings) if isinstance(field.default, float)]
    assert len(durations) == 11
    for name in durations:
        found = options[name].type_cast_value(click.Context(serve), value)
        assert found == getattr(Settings(**{name: value}), name) == seconds


def test_every_option_is_a_variable() -> None:
    """For every command."""
    commands = dict(main.commands)
    for group in main.commands.values():
        commands |= group.commands if isinstance(group, click.Group) else {}
    for name, command in commands.items():
        for option in command.params:
            if isinstance(option, click.Option):
                # One for each spelling.
                expected = [f"TRIONOTIFY_{opt[2:].replace('-', '_').upper()}" for opt in option.opts]
                envvar = [option.envvar] if isinstance(option.envvar, str) else option.envvar
                assert envvar == expected, name
