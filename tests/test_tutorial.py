"""The tutorial, followed by a reader who does what it says, and sees what it shows.

Each of its code blocks is something to do or to see, and the words above it say which: `WAYS` has all
such words. Files are saved, and changed, in a directory; commands are typed into the terminal that is
named, and have to print what is shown; pages are opened in a real Chromium, and have to show what the
tutorial says that they do. A block with other words fails, and so does another number of blocks than
there was.

What this reader does otherwise than you:

- The first command isn't run whole: it has to be the README's, and from there on `.venv` is a directory
  with two scripts, which run the Python that runs the tests, and its pip.
- The port is a free one: in files and commands in place of 8765, and where that is a default, by
  TRIONOTIFY_PORT and TRIONOTIFY_URL.
- Output has no colours, and pip doesn't mention a newer pip.
- Pages that the tutorial closes stay open, except the server's own.
- What differs each time (times, the log's epoch) isn't compared, and `...` stands for any lines.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trio

from tests.chromium import CHROMIUM, Browser, Page, open_browser
from tests.fleet.server import free_port
from tests.test_peers import need

ROOT = Path(__file__).parent.parent
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
SETUP = re.compile(r"^(?:\$ )?(python3 -m venv .*) && (\.venv/bin/python -m trionotify)$", re.MULTILINE)

#: In seconds, for anything that a block says will happen. (The browser tries again after up to 30.)
PATIENCE = 120


@attrs.frozen
class Block:
    """One code block, and the paragraph above it."""

    said: str
    language: str
    text: str


_BLOCK = re.compile(r"^((?:[^`\n].*\n|`(?!``).*\n)+)\n```(\w+)\n((?:.*\n)*?)```$", re.MULTILINE)


def blocks(text: str) -> list[Block]:
    """All that have a paragraph above them."""
    return [Block(" ".join(said.split()), *rest) for said, *rest in _BLOCK.findall(text)]


# --- what is printed ---

_VARIES = {
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}": "TIME",
    r"\b[0-9a-f]{12}(?=:\d)": "EPOCH",
    r"(?<=drained in )\d+\.\d+": "SECONDS",
    # Of a test run. It would take longer if its clock didn't jump: one dish takes three seconds.
    r"(?<=passed in )[0-2]\.\d+(?=s)": "SECONDS",
}


def normal(text: str) -> list[str]:
    for pattern, word in _VARIES.items():
        text = re.sub(pattern, word, text)
    return text.splitlines()


def is_shown(shown: list[str], printed: list[str]) -> bool:
    """Whether these lines were printed and no others; `...` are any."""
    if not shown:
        return not printed
    if shown[0] == "...":
        return any(is_shown(shown[1:], printed[skip:]) for skip in range(len(printed) + 1))
    return bool(printed) and printed[0] == shown[0] and is_shown(shown[1:], printed[1:])


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "a b", False),
        ("a b", "a", False),
        ("... b", "b", True),
        ("... b", "x y b", True),
        ("... b", "b x", False),
        ("a ...", "a x y", True),
        ("a ... c ... d", "a x c c d", True),
        ("a ... c ... d", "a x d", False),
    ],
)
def test_output_is_compared(shown: str, printed: str, same: bool) -> None:
    """Line by line, to the last."""
    assert is_shown(shown.split(), printed.split()) == same


# --- who follows it ---


@attrs.define
class Terminal:
    """One of the reader's: a command at a time, until it ends."""

    directory: Path
    environment: dict[str, str]
    nursery: trio.Nursery
    _process: trio.Process | None = None
    _printed: bytes = b""
    _shown: list[str] = attrs.Factory(list)
    _more: trio.Event = attrs.Factory(trio.Event)

    async def run(self, command: str, shown: list[str]) -> None:
        """Type it, and wait until it has printed this; what it prints later is looked at in `ended`."""
        await self.ended()
        self._printed, self._shown = b"", shown
        ours, its = os.openpty()
        try:
            self._process = await trio.lowlevel.open_process(
                ["bash", "-c", command],
                cwd=self.directory,
                env=self.environment,
                stdin=its,
                stdout=its,
                stderr=its,
                start_new_session=True,
            )
        finally:
            os.close(its)
        self.nursery.start_soon(self._read, trio.lowlevel.FdStream(ours))
        with trio.move_on_after(PATIENCE):
            while self._process is not None and not self._has_shown():
                await self._more.wait()
        assert self._has_shown(), self._printed.decode()

    def _has_shown(self) -> bool:
        """Whether it has printed what is shown. What comes later may be here already."""
        lines = self._lines()
        return any(is_shown(self._shown, lines[:end]) for end in range(len(lines) + 1))

    async def interrupt(self, shown: list[str]) -> None:
        """Ctrl-C, for all that the command has started; until they have ended, this is printed."""
        assert self._process is not None
        self._printed, self._shown = b"", shown
        os.killpg(self._process.pid, signal.SIGINT)
        await self.ended()

    async def says(self, words: str) -> None:
        """Wait until it has printed this, among whatever else."""
        with trio.fail_after(PATIENCE):
            while words not in self._printed.decode():
                await self._more.wait()

    async def ended(self) -> None:
        """Wait for the command's end. By then it has printed what was shown, and nothing else."""
        with trio.move_on_after(PATIENCE):
            while self._process is not None:
                await self._more.wait()
        assert self._process is None, self._printed.decode()
        assert is_shown(self._shown, self._lines()), self._printed.decode()

    def kill(self) -> None:
        """Where a test fails, leave nothing behind. What is killed ends by itself."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _lines(self) -> list[str]:
        lines = normal(self._printed.decode().replace(self.environment["TRIONOTIFY_PORT"], "8765"))
        # It comes right behind the line that is waited for, or a moment later: the page leaves it out.
        return [line for line in lines if " INFO started: " not in line]

    async def _read(self, stream: trio.lowlevel.FdStream) -> None:
        """Read until no process can write any more, which a terminal reports as an error."""
        assert self._process is not None
        with trio.CancelScope(shield=True):
            async with stream:
                with suppress(trio.BrokenResourceError):
                    async for data in stream:
                        self._printed += data
                        self._tell()
            await self._process.wait()
        self._process = None
        self._tell()

    def _tell(self) -> None:
        self._more.set()
        self._more = trio.Event()


#: What a page shows: of the server's own page, its state; of the tutorial's, the list as well.
SHOWN = "[...document.querySelectorAll('#state, #list li')].map(({ innerText }) => innerText)"


@attrs.define
class Reader:
    """Does what the tutorial says, block by block."""

    directory: Path
    browser: Browser
    port: int
    terminals: dict[str, Terminal]
    _pages: dict[str, Page] = attrs.Factory(dict)

    async def save(self, block: Block, name: str) -> None:
        assert not (self.directory / name).exists()
        (self.directory / name).write_text(self._at_port(block.text))

    async def change(self, block: Block, name: str) -> None:
        """As `patch` would; the lines without + have to be there, once."""
        file = self.directory / name
        lines = block.text.splitlines(keepends=True)
        old, new = ("".join(line[1:] for line in lines if line[0] != but) for but in "+-")
        assert file.read_text().count(old) == 1
        file.write_text(file.read_text().replace(old, new))

    async def type(self, block: Block, name: str) -> None:
        """Commands begin with $, or are ^C; what follows is what they print."""
        assert block.language == "console"
        terminal = self.terminals[name]
        first, *typed = re.split(r"^(\$ .*|\^C)\n", block.text, flags=re.MULTILINE)
        assert first == ""
        for command, shown in zip(typed[::2], typed[1::2], strict=True):
            if command == "^C":
                await terminal.interrupt(normal(shown))
            else:
                setup = SETUP.fullmatch(command)
                words = setup[2] if setup else command.removeprefix("$ ")
                await terminal.run(self._at_port(words), normal(shown))
        # Whose commands end at once; in the others they go on.
        if name == "second":
            await terminal.ended()

    async def fill(self, block: Block, address: str) -> None:
        page = await self._page(address)
        assert await page.run("document.activeElement.tagName") == "INPUT"
        await page.write(block.text.strip())
        await page.press("Enter")

    async def see(self, block: Block, address: str) -> None:
        """Look at a page until it shows this; open it if it wasn't."""
        page, found = await self._page(address), []
        with trio.move_on_after(PATIENCE):
            while (found := await page.run(SHOWN)) != block.text.splitlines():
                await trio.lowlevel.checkpoint()
        assert found == block.text.splitlines(), address
        if address.startswith("http"):
            # The server's own: it would be counted.
            await self._pages.pop(address).close()
            await self.terminals["first"].says(" left after ")
            while await trio.to_thread.run_sync(self._clients):
                await trio.lowlevel.checkpoint()

    def _clients(self) -> object:
        """Those that are connected: the server's own page has several connections in its life."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/clients") as answer:
            return json.load(answer)["clients"]

    async def _page(self, address: str) -> Page:
        if address not in self._pages:
            name, _, query = address.partition("?")
            url = (
                self._at_port(address)
                if address.startswith("http")
                else f"{(self.directory / name).as_uri()}?{query}"
            )
            self._pages[address] = await self.browser.open(url)
        return self._pages[address]

    def _at_port(self, text: str) -> str:
        return text.replace("8765", str(self.port))


Way = Callable[[Reader, Block, str], Awaitable[None]]

#: By a block's language and the words above it, what to do with it; in () is the file, terminal or page.
WAYS: dict[tuple[str, str], Way] = {
    ("html|py", r"Save this as `(\w+\.\w+)`:"): Reader.save,
    ("diff", r"Change `(\w+\.\w+)` [^.]*:"): Reader.change,
    ("console", r"(first|second|third) terminal\b[^.]*:"): Reader.type,
    ("text", r"In `(\w+\.html[^` ]*)`, type this, and press Enter:"): Reader.fill,
    ("text", r"`((?:\w+\.html|http:)[^` ]*)`[^`]* shows:"): Reader.see,
}


def way(block: Block) -> tuple[Way, str]:
    """The action for a block, and its arguments. The last words of the paragraph count."""
    for (language, words), do in WAYS.items():
        found = re.search(rf"(?:.*\W)?{words}$", block.said)
        if found and re.fullmatch(language, block.language):
            return do, found[1]
    raise AssertionError(f"what is to be done with this? {block.said!r}")


def test_no_block_is_left_out() -> None:
    """Each has its words, and there are as many as there were."""
    counts = Counter(way(block)[0].__name__ for block in blocks(TUTORIAL))
    assert counts == {"save": 4, "change": 1, "type": 20, "fill": 1, "see": 19}
    assert 2 * counts.total() == len(re.findall("^ *```", TUTORIAL, re.MULTILINE))


@pytest.mark.parametrize(
    ("said", "language"), [("Save this:", "html"), ("Elsewhere:", "console"), ("It shows:", "text")]
)
def test_a_block_with_other_words_is_found(said: str, language: str) -> None:
    """Rather than not looked at."""
    (block,) = blocks(f"# Title\n\n{said}\n\n```{language}\nx\n```\n")
    with pytest.raises(AssertionError, match=said):
        way(block)


def test_it_begins_as_the_readme_does() -> None:
    """With the same command, of which the rest of this file runs the end."""
    readme, tutorial = (SETUP.findall(text) for text in ((ROOT / "README.md").read_text(), TUTORIAL))
    assert len(tutorial) == 1
    assert tutorial == readme


async def test_the_tutorial(tmp_path: Path) -> None:
    """All of it, from the first block to the last."""
    need(CHROMIUM, "no Chromium is installed")
    for tool in ("bash", "curl", "tail"):
        need(shutil.which(tool), f"no {tool} is installed")
    directory, port = tmp_path / "clone", free_port()
    make_venv(directory / ".venv" / "bin")
    environment = {
        **os.environ,
        "NO_COLOR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "TRIONOTIFY_PORT": str(port),
        "TRIONOTIFY_URL": f"http://127.0.0.1:{port}",
    }
    async with open_browser(tmp_path / "profile") as browser, trio.open_nursery() as nursery:
        terminals = {
            name: Terminal(directory, environment, nursery) for name in ("first", "second", "third")
        }
        reader = Reader(directory, browser, port, terminals)
        try:
            for block in blocks(TUTORIAL):
                do, name = way(block)
                await do(reader, block, name)
            # It has told its reader how to stop and remove everything that it made.
            for terminal in terminals.values():
                await terminal.ended()
            left = {path.name for path in directory.iterdir()}
            assert left <= {".venv", "__pycache__", ".pytest_cache"}
        finally:
            for terminal in terminals.values():
                terminal.kill()


def make_venv(directory: Path) -> None:
    """Where the tutorial has one: a Python and its pip, which are those that run the tests."""
    directory.mkdir(parents=True)
    for name, words in (("python", ""), ("pip", "-m pip ")):
        (directory / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        (directory / name).chmod(0o755)
