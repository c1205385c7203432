"""Files of the package, as they are served: whole, compressed, or "you have it already"."""

from __future__ import annotations

import gzip
import re
import shutil
import tomllib
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock as Clock

from tests.conftest import Room, open_room
from tests.test_peers import need
from tests.web import Web, get
from trionotify.http.files import FILES, PAGE, joined

WEB = Path(str(files("trionotify").joinpath("web")))


@pytest.mark.parametrize("path", FILES)
async def test_a_file(path: str, room: Room, autojump_clock: Clock) -> None:
    """It comes with its type, as it is in the package unless it is joined; HEAD has the same head."""
    answer = await Web(room).ask(get(path))
    assert answer.status == 200
    whole = path in ("/trionotify.js", "/page.js")
    assert answer.body == (joined(path[1:]).encode() if whole else (WEB / path[1:]).read_bytes())
    kinds = {".js": "text/javascript", ".css": "text/css", ".ts": "text/plain"}
    assert answer.headers["content-type"] == f"{kinds[Path(path).suffix]}; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    head = await Web(room).ask(get(path, method="HEAD"), "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert {**head.headers, "date": ""} == {**answer.headers, "date": ""}


async def test_a_browser_that_has_it(room: Room, autojump_clock: Clock) -> None:
    """It is told so without a body, whichever form it has, and goes on with the same connection."""
    web = Web(room)
    tag = (await web.ask(get("/trionotify.js"))).headers["etag"]
    for tags in (tag, f'"other", {tag}'):
        again = await web.ask(get("/trionotify.js", f"If-None-Match: {tags}", "Accept-Encoding: gzip"))
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        assert "content-length" not in again.headers
    old = await web.ask(get("/trionotify.js", 'If-None-Match: W/"0123456789abcdef"'))
    assert old.status == 200


@pytest.mark.parametrize(
    ("accepted", "zipped"),
    [
        ("gzip, deflate, br", True),
        ("br;q=1.0, gzip;q=0.2", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
    ],
)
async def test_compressed(accepted: str, zipped: bool, room: Room, autojump_clock: Clock) -> None:
    """Where the browser takes gzip. A cache keeps both forms apart."""
    answer = await Web(room).ask(get("/trionotify.js", f"Accept-Encoding: {accepted}"))
    assert (answer.headers.get("content-encoding") == "gzip") == zipped
    assert answer.headers["vary"] == "Accept-Encoding"
    body = gzip.decompress(answer.body) if zipped else answer.body
    assert body == joined("trionotify.js").encode()


async def test_to_another_site(autojump_clock: Clock) -> None:
    """A page that is allowed may import the client, from any path that a proxy puts in front of it."""
    async with open_room(allow_origin=["https://app.example"]) as room:
        answer = await Web(room).ask(get("/trionotify.js", "Origin: https://app.example"))
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert not re.search(r'^import .* from "/', answer.body.decode(), re.MULTILINE)


@pytest.mark.parametrize("entry", ["trionotify.js", "page.js"])
def test_joined(entry: str) -> None:
    """Every module is in it once, behind those that it needs. Only the client stays an import."""
    text = joined(entry)
    names = re.findall(r"^// (\S+\.js)$", text, re.MULTILINE)
    folder = entry.removesuffix(".js")
    assert sorted(names) == sorted(
        [entry, *(f"{folder}/{one.name}" for one in (WEB / folder).glob("*.js"))]
    )
    for name in names:
        for target in re.findall(
            r'^import \{.*\} from "\./(\S+)";$', (WEB / name).read_text(), re.MULTILINE
        ):
            path = f"{folder}/{target}" if "/" in name else target
            assert path == "trionotify.js" or names.index(path) < names.index(name), (name, path)
    left = re.findall(r'^import .*? from "(.*)";$', text, re.MULTILINE)
    assert left == ([] if entry == "trionotify.js" else ["./trionotify.js"])
    declared = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", text, re.MULTILINE)
    assert [name for name, times in Counter(declared).items() if times > 1] == []


async def test_joined_is_the_same_module() -> None:
    """Saved as one file it exports what the modules do, and works in Node without the rest."""
    node = shutil.which("node")
    need(node, "no Node.js is installed")
    script = f"""
        import * as apart from {(WEB / "trionotify.js").as_uri()!r};
        import {{ readFileSync }} from "node:fs";
        const text = readFileSync(0, "utf8");
        const whole = await import(`data:text/javascript,${{encodeURIComponent(text)}}`);
        const names = (module) => Object.keys(module).sort().join();
        const client = new whole.Trionotify("http://127.0.0.1:1/", {{ transport: "sse" }});
        client.close();
        console.log(names(apart) === names(whole), names(whole), client.state);
    """
    command = [str(node), "--input-type=module", "--eval", script]
    done = await trio.run_process(command, stdin=joined("trionotify.js").encode(), capture_stdout=True)
    assert done.stdout.decode() == "true Closed,Notification,Problem,Trionotify closed\n"


def test_the_modules_are_short() -> None:
    """One noun each, in at most 350 lines, and each opens with a theory of operation."""
    for path in [*WEB.glob("*.js"), *WEB.glob("trionotify/*.js"), *WEB.glob("page/*.js")]:
        lines = path.read_text().splitlines()
        assert len(lines) <= 350, path
        assert lines[0] == "/**", path
        assert len(lines[1]) > 30, path


async def test_the_page(room: Room, autojump_clock: Clock) -> None:
    """At `/`, for a browser; with a tag, too."""
    answer = await Web(room).ask(get("/", "Accept: text/html"))
    assert answer.body == (WEB / PAGE.name).read_bytes()
    assert answer.headers["etag"].startswith('W/"')


def test_the_page_links_to_the_documentation() -> None:
    """At the address that the project has for it."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert f'href="{project["urls"]["Documentation"]}"' in (WEB / "page.html").read_text()
