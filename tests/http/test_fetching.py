"""One document over https: the answers that are accepted, and those that are refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.connection.test_tls import client_context
from tests.provider import Provider
from trionotify.http.fetching import check_https, fetch


@asynccontextmanager
async def online() -> AsyncIterator[Provider]:
    provider = Provider()
    with trio.fail_after(300):
        async with trio.open_nursery() as nursery:
            await nursery.start(provider.serve)
            yield provider
            nursery.cancel_scope.cancel()


async def ask(url: str, max_bytes: int = 10_000, timeout: float = 120) -> bytes:  # noqa: ASYNC109 - fetch's own
    found = await fetch(
        url,
        accept="application/json",
        max_bytes=max_bytes,
        timeout=timeout,
        ssl_context=client_context(),
    )
    return found.body


async def test_a_document() -> None:
    """And the headers that say for how long it is good."""
    async with online() as provider:
        found = await fetch(
            provider.url, accept="x/y", max_bytes=10_000, timeout=120, ssl_context=client_context()
        )
        assert json.loads(found.body)["keys"][0]["kty"] == "EC"
        assert found.headers["cache-control"] == "max-age=600"
        provider.headers = {"Cache-Control": "no-cache", "cache-control": "max-age=900"}
        found = await fetch(
            provider.url, accept="x/y", max_bytes=10_000, timeout=120, ssl_context=client_context()
        )
        assert found.headers["cache-control"] == "no-cache, max-age=900"


@pytest.mark.parametrize("status", [301, 302, 307, 308, 404, 500, 204])
async def test_only_a_200(status: int) -> None:
    """A redirect isn't followed, because the operator configured that URL and no other."""
    async with online() as provider:
        provider.status, provider.headers = status, {"Location": f"{provider.url}/x"}
        with pytest.raises(ValueError, match=f"^the server answered {status}"):
            await ask(provider.url)
        assert provider.fetches == 1


async def test_not_more_than_so_much() -> None:
    """And not longer than so long."""
    async with online() as provider:
        with pytest.raises(ValueError, match=r"^the answer has more than 50 bytes"):
            await ask(provider.url, max_bytes=50)
        provider.gate = trio.Event()
        with pytest.raises(TimeoutError, match=r"^no answer within 0.2 seconds"):
            await ask(provider.url, timeout=0.2)


async def test_a_certificate_of_nobody() -> None:
    """The default context doesn't know the test's authority."""
    async with online() as provider:
        with pytest.raises(OSError, match=r"the connection failed: .*CERTIFICATE_VERIFY_FAILED"):
            await fetch(provider.url, accept="*/*", max_bytes=1, timeout=120)


async def test_nobody_there() -> None:
    """Nothing listens, or what listens speaks something else."""
    with pytest.raises(OSError, match="localhost"):
        await ask("https://localhost:1/")
    async with online() as provider:
        provider.headers = {"Bad header": "x"}
        with pytest.raises(ValueError, match=r"^the answer is not HTTP: "):
            await ask(provider.url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/keys",
        "https://",
        "https://user:secret@example.org/",
        "https://example.org/#x",
        "https://example.org:port/",
        "file:///etc/passwd",
        "https://example.org/a b",
        "https://example.org/keys?a b",
        "https://example.org/keys\x7f",
        "https://example.org/keys\n",
        "https://example.org/é",
        "https://exämple.org/",
    ],
)
def test_what_is_not_fetched(url: str) -> None:
    """Only https, and nothing in the URL that isn't sent."""
    with pytest.raises(ValueError, match=r"\w"):
        check_https(url)
