"""Sphinx's configuration of the documentation site; `docs/build.py` builds it.

The pages are Markdown that GitHub shows as well, so links are plain relative links, to pages and to
files of the repository. Nothing is fetched while Sphinx runs. The inventories of Python's and Trio's
documentation are in `_inventories`; Mermaid, which draws the diagrams, is in `_static`, where
`docs/build.py` puts it.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.roles import XRefRole
from sphinx.transforms import SphinxTransform

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

import trionotify  # noqa: E402 - the package beside these pages, not one installed

project = "trionotify"
author = "The trionotify maintainers"
release = version = trionotify.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinxcontrib_trio",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "_static"]
nitpicky = True

# --- Markdown ---

#: Headings that links can lead to, by the names that GitHub gives them.
myst_heading_anchors = 4
#: Pygments knows no lexer for these.
suppress_warnings = ["misc.highlighting_failure"]
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

# --- the Python interface ---

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
#: In docstrings, single backquotes: see `Name`.
default_role = "name"
nitpick_ignore_regex = [
    ("py:obj", r"[\w.]+"),  # classes inside of the package
    # Types of parameters that the text beside them explains: aliases, and classes inside of the package.
    (
        "py:class",
        r"\w*(Data|Duration|Message|Moment|Since|Wanted|Role|Lag|AskParams|AskToken|Then|Otherwise|TicketStore|OpenStream|Durability)",
    ),
    ("py:class", r"(ExtensionValue|Link|Log|Position|Broadcast|datetime|timedelta)"),
    ("py:class", r"trionotify\.(cesql|client|delivery|http|model|server|settings|storage)\..*"),
]
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", "_inventories/python.inv"),
    "trio": ("https://trio.readthedocs.io/en/stable", "_inventories/trio.inv"),
}

# --- how it looks ---

html_theme = "furo"
html_title = "trionotify"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [
    *(["mermaid.min.js"] if (DOCS / "_static" / "mermaid.min.js").exists() else []),
    "diagrams.js",
]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
pygments_style = "default"
pygments_dark_style = "github-dark"

# --- names in docstrings ---


class Name(XRefRole):
    """A link if it is a class, something in one, or a function of this package; else just code.

    Most of what docstrings have in single backquotes are parameters and values. Some of these, such as
    `json`, are also the names of something else.
    """

    _LINKED = re.compile(rf"[A-Z]\w*(\.\w+)*|trio\.[\w.]+|{'|'.join(trionotify.__all__)}")

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        if self._LINKED.fullmatch(self.text):
            self.refdomain, self.reftype, self.classes = "py", "obj", ["xref", "py", "py-obj"]
            return self.create_xref_node()
        return [nodes.literal("", self.text, classes=["code"])], []


# --- links to files of the repository ---

#: The pages that show these files.
SOURCES = "source"


class LinksToSources(SphinxTransform):
    """Lead links to files outside of the docs to a page that shows the file, not to a download."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        here = Path(self.env.doc2path(self.env.docname)).parent
        for link in list(self.document.findall(addnodes.download_reference)):
            file = (here / link["reftarget"]).resolve()
            if file.suffix in (".py", ".js", ".mjs", ".ts", ".html", ".md") or file.is_dir():
                path = file.relative_to(ROOT).as_posix()
                found: set[str] = self.env.metadata.setdefault("", {}).setdefault("sources", set())
                found.add(path)
                up = "../" * self.env.docname.count("/")
                reference = nodes.reference("", "", refuri=f"{up}{SOURCES}/{path}.html", internal=True)
                reference += link.children
                link.replace_self(reference)


def pages_of_sources(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file that is linked to."""
    for path in sorted(app.env.metadata.get("", {}).get("sources", ())):
        file = ROOT / path
        if file.is_dir():
            text, language = "\n".join(sorted(child.name for child in file.iterdir())), "text"
        else:
            text = file.read_text()
            language = {".py": "python", ".html": "html", ".md": "md"}.get(file.suffix, "js")
        code = app.builder.highlighter.highlight_block(text, language)  # type: ignore[attr-defined] # an HTML builder has one
        body = f"<h1>{path}</h1>\n{code}"
        yield f"{SOURCES}/{path}", {"title": path, "body": body, "parents": []}, "page.html"


def describe_settings(*event: Any) -> None:
    """Settings have their descriptions where `--help` finds them, too."""
    *_, name, _, _, lines = event
    field = getattr(attrs.fields(trionotify.Settings), name.rpartition(".")[2], None)
    if name.startswith("trionotify.Settings.") and field is not None:
        lines[:] = [field.metadata["help"]]


def entered(*event: Any) -> tuple[str, str] | None:
    """A function that is entered with `async with` is shown with what it gives, as `async with` says."""
    *_, signature, returned = event
    given = re.fullmatch(r".*AsyncIterator\[(.*)\]", returned or "")
    return (signature, given[1]) if given else None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", entered)
    app.add_role("name", Name())
    app.connect("autodoc-process-docstring", describe_settings)
    app.add_transform(LinksToSources)
    app.connect("html-collect-pages", pages_of_sources)
