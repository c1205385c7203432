"""Build the documentation site and check its links: `python docs/build.py`.

Sphinx's warnings are errors. Links and anchors between the pages are checked twice: by Sphinx in the
Markdown, and here in what it has made, where nothing may be loaded from another host either.

The diagrams are drawn by Mermaid, in the reader's browser. npm fetches it once. Where it can't, pages
show the text that the diagrams are made of.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

DOCS = Path(__file__).parent
SITE = DOCS / "_build" / "html"
MERMAID = DOCS / "_static" / "mermaid.min.js"
VERSION = "11.17.2"

_LINK = re.compile(r'<(\w+)[^>]* (?:href|src)="([^"]*)"')
_ID = re.compile(r' (?:id|name)="([^"]*)"')


def fetch_mermaid() -> None:
    """Take its one file out of the package, and not the hundred packages that it depends on."""
    with tempfile.TemporaryDirectory() as place:
        command = ["npm", "pack", "--silent", f"mermaid@{VERSION}", "--pack-destination", place]
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return
        with tarfile.open(Path(place, f"mermaid-{VERSION}.tgz")) as package:
            file = package.extractfile("package/dist/mermaid.min.js")
            assert file is not None
            MERMAID.write_bytes(file.read())


def faults() -> list[str]:
    """The links that lead nowhere, and what comes from another host."""
    found = []
    pages = {page: page.read_text() for page in SITE.rglob("*.html")}
    ids = {page: {unescape(name) for name in _ID.findall(text)} for page, text in pages.items()}
    for page, text in pages.items():
        for tag, link in _LINK.findall(text):
            scheme, host, path, _, anchor = urlsplit(unescape(link))
            if scheme or host:
                if tag in ("script", "link", "img"):
                    found.append(f"{page.relative_to(SITE)}: {link} is loaded from another host")
                continue
            target = (page.parent / unquote(path)).resolve() if path else page
            if not target.exists() or (anchor and unquote(anchor) not in ids.get(target, ())):
                found.append(f"{page.relative_to(SITE)}: {link} leads nowhere")
    return found


def main() -> int:
    if not MERMAID.exists() and shutil.which("npm"):
        fetch_mermaid()
    if not MERMAID.exists():
        print("npm couldn't fetch Mermaid, so the diagrams won't be drawn", file=sys.stderr)
    # From scratch: else pages that haven't changed would keep the old titles of others.
    shutil.rmtree(SITE.parent, ignore_errors=True)
    command = ["-W", "--keep-going", "-n", "-q", "-b", "html", str(DOCS), str(SITE)]
    done = subprocess.run([sys.executable, "-m", "sphinx", *command], check=False)
    found = [] if done.returncode else faults()
    print(*found, sep="\n", end="\n" if found else "")
    if not done.returncode and not found:
        print("the site is at", SITE / "index.html")
    return done.returncode or bool(found)


if __name__ == "__main__":
    sys.exit(main())
