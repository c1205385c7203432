"""Files of the package that the server serves: the browser client, its types, and the page at `/`.

`/trionotify.js` and `/page.js` are each one file with several modules joined, put together when it is
first read. There is no build step. Joining only drops import lines and the word `export`, because the
modules import by name, never rename, and no two have a top-level name in common. One file has three
advantages. A page makes one request instead of one for each level of imports. During an upgrade no cache
can mix the modules of two versions. And the client can be saved as one file, which is how Node gets it.
The modules themselves are served as they are in the folders beside it.

Browsers ask each time whether a file is still good (`no-cache`, `ETag`), so a new version is seen at
once, and an unchanged file costs an answer without a body. Nothing here blocks after `load_files`.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import posixpath
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import attrs

from trionotify.http.messages import Answer, ReadBody, Request
from trionotify.http.negotiation import has_already, takes_gzip

if TYPE_CHECKING:
    from trionotify.http.web_hub import WebHub

__all__ = ["FILES", "PAGE", "File", "joined", "load_files"]

_WEB: Final = files("trionotify").joinpath("web")
#: Modules that are served joined with those that they import.
_JOINED: Final = ("trionotify.js", "page.js")
#: A module's references to others: `import { a } from "./b.js";`, or `export { a } from …`. One line
#: each.
_FROM: Final = re.compile(r'^(import|export) (\{[^}]*\}) from "([^"]+)";\n', re.MULTILINE)
_EXPORTED: Final = re.compile(r"^export (?=(?:async )?function|class|const)", re.MULTILINE)


def joined(entry: str) -> str:
    """Return `entry` and all modules that it imports, joined as one with the exports of `entry`.

    A module that is served joined itself stays an import. Blocks.
    """
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        if name in parts:
            return
        parts[name] = ""  # so that a circle ends
        text, kept = _WEB.joinpath(name).read_text("utf-8"), ""
        for kind, names, target in _FROM.findall(text):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
            if path in _JOINED:
                kept += f'import {names} from "./{path}";\n'
                continue
            add(path)
            if kind == "export":
                kept += f"export {names};\n"
        own = _FROM.sub("", text)
        # Last, because the modules that it needs stand in front of it.
        del parts[name]
        parts[name] = f"// {name}\n{_EXPORTED.sub('', own).strip()}\n{kept}"

    add(entry)
    return "\n".join(parts.values())


@attrs.frozen
class _Contents:
    """A file in memory, plain and compressed. Both share one tag, so it is a weak one."""

    plain: bytes
    compressed: bytes
    tag: str


@functools.cache
def _contents(name: str) -> _Contents:
    plain = joined(name).encode() if name in _JOINED else _WEB.joinpath(name).read_bytes()
    compressed = gzip.compress(plain, mtime=0)
    return _Contents(plain, compressed, f'W/"{hashlib.sha256(plain).hexdigest()[:16]}"')


#: The page loads everything from this server, and runs no other scripts.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    ("Cache-Control", "no-cache"),
    ("Content-Security-Policy", _POLICY),
    ("Referrer-Policy", "no-referrer"),
)


@attrs.frozen
class File:
    """A handler that serves a file of the package, with 304 if the browser has it already."""

    name: str
    content_type: str
    #: The request's headers by which the answer is chosen.
    vary: tuple[str, ...] = ("Accept-Encoding",)

    def __call__(self, hub: WebHub, request: Request, _: ReadBody) -> Answer:
        found = _contents(self.name)
        headers = (("ETag", found.tag), *_HEADERS, ("Vary", ", ".join(self.vary)))
        if has_already(request, found.tag):
            return Answer(304, headers=headers)
        if takes_gzip(request):
            zipped = (("Content-Encoding", "gzip"), *headers)
            return Answer(200, found.compressed, self.content_type, zipped)
        return Answer(200, found.plain, self.content_type, headers)


def load_files() -> None:
    """Read all files, while the process still has file descriptors. Blocks."""
    for file in (PAGE, *FILES.values()):
        _contents(file.name)


def _modules() -> list[str]:
    return sorted(
        f"{folder}/{one.name}"
        for folder in ("trionotify", "page")
        for one in _WEB.joinpath(folder).iterdir()
        if one.name.endswith(".js")
    )


_SCRIPT: Final = "text/javascript; charset=utf-8"
PAGE: Final = File("page.html", "text/html; charset=utf-8", ("Accept", "Accept-Encoding"))
#: By path.
FILES: Final = {
    **{f"/{name}": File(name, _SCRIPT) for name in (*_JOINED, *_modules())},
    "/page.css": File("page.css", "text/css; charset=utf-8"),
    "/trionotify.d.ts": File("trionotify.d.ts", "text/plain; charset=utf-8"),
}
