"""Tokens of an OpenID provider that others have written, whose keys change while many are connected."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
import httpx2
import oidc_provider_mock
import pytest
import trio
import werkzeug.serving

from tests.connection.test_tls import client_context, server_context
from trionotify import CloseCode, Issuer, Tokens, connect, open_server
from trionotify.http import jwks

CLIENTS, USERS = 500, 20
#: At the provider, the client is the web app. Its ID tokens are for it.
APP = "app"
BACK = "https://app.example.org/back"


@attrs.define
class Provider:
    """Its port, and how often its keys were fetched."""

    port: int
    fetches: int = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it in a thread. Each time it has a new key, and has forgotten the old one."""
        app = oidc_provider_mock.app()

        def counted(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            self.fetches += environ["PATH_INFO"] == "/jwks"
            return app(environ, start_response)

        server = werkzeug.serving.make_server(
            "127.0.0.1", self.port, counted, threaded=True, ssl_context=server_context()
        )
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    async def sign_in(self) -> dict[str, str]:
        """Sign in all users, by the authorization code flow. Return their ID tokens."""
        tokens = {}
        async with httpx2.AsyncClient(base_url=self.url, verify=client_context(), timeout=300) as client:
            for user in [f"user {number}" for number in range(USERS)]:
                asked = {"client_id": APP, "redirect_uri": BACK, "response_type": "code"}
                answer = await client.post(
                    "/oauth2/authorize", params={**asked, "scope": "openid"}, data={"sub": user}
                )
                (code,) = parse_qs(urlsplit(answer.headers["location"]).query)["code"]
                given = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK}
                answer = await client.post("/oauth2/token", data=given, auth=(APP, "secret"))
                tokens[user] = answer.json()["id_token"]
        return tokens


@pytest.mark.filterwarnings("ignore:get_jwt_config:DeprecationWarning")
async def test_a_rotation_while_many_are_connected(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, closed_port: int
) -> None:
    """All come back with tokens of the new key, at few fetches."""
    monkeypatch.setattr(jwks, "_INTERVAL", 0.0)
    monkeypatch.setattr(jwks, "_TIMEOUT", 120.0)
    caplog.set_level(logging.DEBUG, "trionotify")
    provider, heard = Provider(closed_port), Counter[Any]()
    tokens: dict[str, str] = {}

    async def stay(url: str, user: str, task_status: trio.TaskStatus[None]) -> None:
        # Hundreds in one process: it may be long before each has its turn.
        options: dict[str, Any] = {"role": "subscriber", "connect_timeout": 300, "ping_timeout": 300}
        async with connect(url, token=lambda: tokens[user], **options) as client:
            heard[(await anext(client)).data] += 1
            task_status.started()
            heard[(await anext(client)).data] += 1

    with trio.fail_after(600), ExitStack() as stack:
        stack.enter_context(provider.running())
        tokens |= await provider.sign_in()
        issuer = Issuer(
            provider.url,
            audience=APP,
            jwks=f"{provider.url}/jwks",
            typ="JWT",
            rights={"subscribe": []},
            ssl_context=client_context(),
        )
        patient: dict[str, Any] = {"head_timeout": 300, "request_timeout": 300, "ping_timeout": 300}
        async with open_server(port=0, authenticate=Tokens(issuer), **patient) as server:
            await server.hub.publish("before")
            async with trio.open_nursery() as clients:
                async with trio.open_nursery() as starting:
                    for number in range(CLIENTS):
                        user = f"user {number % USERS}"
                        starting.start_soon(clients.start, stay, f"{server.url}?since=start", user)
                assert {client.id for client in server.hub.clients} == tokens.keys()
                stack.close()
                stack.enter_context(provider.running())
                tokens |= await provider.sign_in()
                for client in server.hub.clients:
                    client.close(CloseCode.SERVICE_RESTART)
                await server.hub.publish("after")
    assert heard == {"before": CLIENTS, "after": CLIENTS}
    assert provider.fetches <= 3
    assert server.hub.broadcast.counts.refused == {}
    assert "eyJ" not in caplog.text
