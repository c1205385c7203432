"""Runs the command lines that it reads from stdin, each in a fork, and writes down what they say.

A fork has imported everything already, and that is most of what a process costs. There are no threads.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

from trionotify.cli.main import main


def run(words: list[str], variables: dict[str, str]) -> tuple[int, str]:
    """The exit code of a command line, and what it wrote to stdout and stderr."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            for number in (1, 2):
                os.dup2(output.fileno(), number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.environ.update(variables)
            if "LISTEN_PID" in variables:
                os.environ["LISTEN_PID"] = str(os.getpid())
                os.closerange(3, 100)
            code = 1
            try:
                main(words, prog_name="trionotify")
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read().decode()


if __name__ == "__main__":
    print(json.dumps([run(words, variables) for words, variables in json.load(sys.stdin)]))
