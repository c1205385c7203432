"""The command line's messages: the help of each command, and the answers to mistakes."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from click.testing import CliRunner

from tests.catalogue.provoke import settled
from trionotify.cli.main import main

__all__ = ["answers", "helps", "life"]

#: Command lines, each with the variables that are set for it.
LINES: Final = r"""
nonsense
serve extra
serve --prot 80
serve --port x
serve --max-log-age -1
serve --max-log-age soon
serve --max-filter-depth 101
serve --unix DIR/s --port 1
serve --host=
serve --host 0.0.0.0
serve --port 0 --admin-port 0 --tls-key DIR/key.pem
serve --secret=
serve --secret DIR/missing
serve --secret DIR/empty
serve --store sqlite:DIR/missing/log.db
serve --allow-origin example.org
serve --config DIR/missing.toml
serve --config DIR/utf16.toml
serve --config DIR/latin1.toml
serve --config DIR/path.toml
serve --config DIR/no.toml
serve --config DIR/option.toml
serve --config DIR/table.toml
serve --config DIR/flag.toml
serve --config DIR/true.toml
serve --config DIR/array.toml
serve --config DIR/single.toml
serve --config DIR/value.toml
serve --config DIR/fraction.toml
serve --config DIR/origin.toml
TRIONOTIFY_PORT=tcp://10.0.0.1:80 serve
TRIONOTIFY_ALLOW_ORIGIN=nowhere serve --port 0
TRIONOTIFY_PROT=1 TRIONOTIFY_NO_PAGE=1 serve --port 0 --host=
LISTEN_PID=PID LISTEN_FDS=x serve --port 0
LISTEN_PID=PID LISTEN_FDS=1 serve --port 0
publish --url nowhere x
publish --url localhost:8000 x
publish --url http://localhost:port x
publish --url http:///events x
publish --url http://user@localhost x
publish --url http://localhost/#top x
publish --url http://no.such.host.invalid x
publish --url http://127.0.0.1:1 x
publish --url unix:DIR/missing x
publish --attribute x
publish --attribute type=x
publish --attribute a=1 --attribute a=2
publish --attribute user_id=x x
publish --attribute id=1
publish --audience 5 x
publish --audience [ x
publish --subject= x
publish --secret DIR/missing x
publish --id= x
subscribe --filters [
subscribe --sql type=
subscribe --since yesterday
subscribe --url http://127.0.0.1:1
top --interval 0
top --url http://127.0.0.1:1
sign --secret DIR/missing id=a
sign --secret DIR/secret role=admin
sign --secret DIR/secret id=a exp=1
sign --secret DIR/secret --expires 0 id=a
sign --secret DIR/secret alice
sign id=a
explain DIR/missing.json
explain DIR/event.json
explain --sql "type = 'u'" DIR/event.json
explain --filters '[{"prefix":{"subject":"x"}}]' DIR/event.json
explain DIR/empty
store check sqlite:DIR/missing.db
store check redis://user:password@host
store check sqlite:DIR/empty
store check sqlite:DIR/text
store check sqlite:DIR/log.db
store backup sqlite:DIR/log.db DIR
store backup sqlite:DIR/log.db DIR/empty
store backup --force sqlite:DIR/log.db DIR/log.db
store backup sqlite:DIR/log.db DIR/copy.db
store repair sqlite:DIR/missing.db
store new-epoch sqlite:DIR/missing.db
completion
completion csh
"""
_TIME: Final = re.compile(r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2},\d{3} ")
#: Those that need no process of their own, because they run no tasks and configure nothing.
_QUICK: Final = ("sign", "explain", "store", "completion", "nonsense")
#: Characters of a line of help.
_WIDTH: Final = 100


def helps() -> Iterator[str]:
    """The `--help` of each command."""
    yield from _help(main, "trionotify")


def _help(command: click.Command, name: str) -> Iterator[str]:
    words = name.split()[1:]
    shown = CliRunner().invoke(
        main, [*words, "--help"], prog_name="trionotify", max_content_width=_WIDTH, terminal_width=_WIDTH
    )
    yield f"{name} --help"
    yield from (f"    {line}".rstrip() for line in shown.output.splitlines())
    hidden = [one for one in command.params if isinstance(one, click.Option) and one.hidden]
    if hidden:
        yield f"{name}, the options that --help leaves out"
    for option in hidden:
        option.hidden = False
        record = option.get_help_record(click.Context(command))
        option.hidden = True
        assert record is not None
        yield f"    {record[0]}\n        {record[1]}"
    if isinstance(command, click.Group):
        for inner in sorted(command.commands):
            yield from _help(command.commands[inner], f"{name} {inner}")


def answers(directory: Path) -> Iterator[str]:
    """Each command line, and what it says."""
    found = []
    for line in LINES.strip().splitlines():
        words = [word.replace("DIR", str(directory)) for word in shlex.split(line)]
        variables = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
        found.append((words[len(variables) :], variables))
    slow = [one for one in found if one[0][0] not in _QUICK]
    said_slowly = iter(_in_processes(slow))
    for line, (words, _) in zip(LINES.strip().splitlines(), found, strict=True):
        code, said = _quickly(words) if words[0] in _QUICK else next(said_slowly)
        yield line
        for text in said.splitlines():
            yield f"    {settled(_TIME.sub('', text), str(directory))}".rstrip()
        yield f"    exit code {code}"


def _quickly(words: list[str]) -> tuple[int, str]:
    done = CliRunner().invoke(main, words, prog_name="trionotify")
    return done.exit_code, done.output


def _in_processes(lines: list[tuple[list[str], dict[str, str]]]) -> list[tuple[int, str]]:
    """The exit code and the output of each of these, in a fork of a process that has imported all."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.catalogue.forks"],
        check=True,
        input=json.dumps(lines),
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    return [(code, said) for code, said in json.loads(done.stdout)]


def life(directory: Path) -> Iterator[str]:
    """A server's output from its start to its end, with a secret that is read again in between."""
    secret = directory / "reloaded"
    secret.write_text("0123456789abcdef0123456789abcdef")
    command = [sys.executable, "-m", "trionotify", "--port=0", "--admin-port=0", f"--secret={secret}"]
    command.append("--max-connections=100000000")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        said = []

        def until(words: str) -> None:
            for line in lines:
                said.append(line)
                if words in line:
                    return
            raise AssertionError(f"it has ended: {said}")

        try:
            until("open files")
            process.send_signal(signal.SIGHUP)
            until("SIGHUP")
            secret.write_text("")
            process.send_signal(signal.SIGHUP)
            until("SIGHUP")
            process.send_signal(signal.SIGTERM)
            said.extend(lines)
        finally:
            process.kill()
    yield "serve --port=0 --admin-port=0 --secret=DIR/reloaded --max-connections=100000000"
    for line in said:
        text = settled(_TIME.sub("", line.rstrip()), str(directory))
        yield "    " + re.sub(r"process may have \d+", "process may have N", text)
