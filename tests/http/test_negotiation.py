"""Negotiation: the form of an answer follows the weights of the request's headers, by the letter."""

from __future__ import annotations

import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Room
from tests.web import Web, get
from trionotify import Request
from trionotify.http.negotiation import has_already, preferred, takes_gzip

Clock = trio.testing.MockClock


def request(name: str, value: str | None) -> Request:
    """A request with one header, or with none."""
    headers = () if value is None else ((name, value),)
    return Request("GET", "/", {}, headers, "test")


@pytest.mark.parametrize(
    ("accepted", "zipped"),
    [
        (None, False),
        ("", False),
        (" , ,", False),
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("gzip;q=1.0, identity;q=0.5", True),
        # A tie is for the server to decide.
        ("gzip, identity", True),
        ("identity;q=0.5, gzip;q=0.5", True),
        ("identity, gzip;q=0.5", False),
        ("gzip;q=0.5,identity;q=0.501", False),
        ("gzip ; Q = 0.5", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("gzip;q=0.001", True),
        # What isn't listed, except that a star means it as well.
        ("br", False),
        ("deflate, br;q=0.1", False),
        ("*", True),
        ("br, *;q=0.1", True),
        ("*;q=0", False),
        ("gzip, *;q=0", True),
        ("*;q=0, gzip", True),
        ("identity, *;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip;q=0.5, *", False),
        ("gzip;q=0.5, *;q=0.4", True),
        # The plain answer is refused.
        ("identity;q=0", True),
        ("identity;q=0, gzip;q=0.1", True),
        ("identity;q=0, gzip;q=0", False),
        ("identity;q=0, *;q=0", False),
        # An invalid weight makes its item count as not listed.
        ("gzip;q=high", False),
        ("gzip;q=", False),
        ("gzip;q=2", False),
        ("gzip;q=-1", False),
        ("gzip;q=nan", False),
        ("gzip;q=1e-3", False),
        ("gzip;q=\u0660.5", False),
        ("identity;q=x, gzip;q=0.1", True),
        # Some clients write them in a way of their own.
        ("gzip;q=.5", True),
        ("gzip;q=0.12345", True),
        ("gzip;q=1.", True),
        ("gzip;level=9;q=0", False),
        ('br;x="gzip, *"', False),
    ],
)
def test_gzip(accepted: str | None, zipped: bool) -> None:
    """RFC 9110, section 12.5.3."""
    assert takes_gzip(request("accept-encoding", accepted)) is zipped


OFFERED = ("text/plain", "text/html")
PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"


@pytest.mark.parametrize(
    ("accepted", "kind"),
    [
        (None, "text/plain"),
        ("", "text/plain"),
        ("text/html", "text/html"),
        ("TEXT/HTML", "text/html"),
        ("text/*", "text/plain"),
        ("*/*", "text/plain"),
        ("*", "text/plain"),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "text/html"),
        ("text/html;q=0.5, text/plain;q=0.4", "text/html"),
        ("text/html;q=0.5, text/plain;q=0.5", "text/plain"),
        # The most specific item counts, wherever it is.
        ("text/plain;q=0, */*", "text/html"),
        ("*/*, text/plain;q=0", "text/html"),
        ("text/*;q=0.1, text/html;q=0, */*", "text/plain"),
        ("text/*;q=0, */*", None),
        ("*/*;q=0", None),
        ("image/png", None),
        ("text/html;q=high", None),
        ("text/html;q=high, text/plain;q=0.1", "text/plain"),
        ("text/html;level=1;q=0.3, text/plain;q=0.2", "text/html"),
        ('image/png;x=", text/html, ";q=0.5, text/plain;q=0.1', "text/plain"),
        ('image/png;x="\\", text/html, ', None),
        (PROMETHEUS, "text/plain"),
    ],
)
def test_media_types(accepted: str | None, kind: str | None) -> None:
    """RFC 9110, section 12.5.1."""
    assert preferred(accepted, OFFERED) == kind


def test_only_the_first_items_count() -> None:
    """So a long list costs no more than a hundred items."""
    items = ["image/png"] * 100
    assert preferred(",".join([*items[1:], "text/html"]), OFFERED) == "text/html"
    assert preferred(",".join([*items, "text/html"]), OFFERED) is None


@given(st.text(st.sampled_from('gzip,;q=01.*/" \t\\"x-identity')))
def test_any_text(text: str) -> None:
    """Never an error, and one of the answers that there are."""
    assert takes_gzip(request("accept-encoding", text)) in (True, False)
    assert preferred(text, OFFERED) in (*OFFERED, None)
    assert has_already(request("if-none-match", text), 'W/"tag"') in (True, False)


@pytest.mark.parametrize(
    ("tags", "has"),
    [
        (None, False),
        ("", False),
        ("*", True),
        ('W/"tag"', True),
        ('"tag"', True),
        ('"other", "tag"', True),
        ('"other" ,W/"tag" , "third"', True),
        ('"other,tag"', False),
        ('w/"tag"', False),
        ("tag", False),
        ('"TAG"', False),
        ('W/"tag', False),
    ],
)
def test_entity_tags(tags: str | None, has: bool) -> None:
    """They are compared weakly (RFC 9110, section 13.1.2), whichever kind the server's own is."""
    for own in ('W/"tag"', '"tag"'):
        assert has_already(request("if-none-match", tags), own) is has


@pytest.mark.parametrize("path", ["/trionotify.js", "/page.css", "/"])
async def test_it_is_asked_everywhere(path: str, room: Room, autojump_clock: Clock) -> None:
    """For files and for the page, whose answers say by which headers they were chosen."""
    web, html = Web(room), "Accept: text/html"
    plain = await web.ask(get(path, html, "Accept-Encoding: identity, gzip;q=0.5"))
    assert "content-encoding" not in plain.headers
    zipped = await web.ask(get(path, html, "Accept-Encoding: gzip;q=0.5"))
    assert zipped.headers["content-encoding"] == "gzip"
    assert zipped.headers["vary"] == ("Accept, Accept-Encoding" if path == "/" else "Accept-Encoding")
    for tags in ("*", plain.headers["etag"].removeprefix("W/")):
        assert (await web.ask(get(path, html, f"If-None-Match: {tags}"))).status == 304
