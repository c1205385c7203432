"""Tokens by options, and `[[issuer]]` in a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cli.test_main import run, running
from tests.conftest import raw_client
from tests.provider import AUDIENCE, ISSUER, SECRET, Provider
from trionotify.cli.tokens import tokens_of


def test_nothing_about_tokens() -> None:
    """There are none."""
    options: dict[str, Any] = {"port": 1, "issuer": None, "audience": (), "jwks": None}
    assert tokens_of(options) is None
    assert options == {"port": 1}


def test_one_by_options(tmp_path: Path) -> None:
    """Options that are left out have their defaults."""
    path = tmp_path / "keys"
    path.write_bytes(Provider().key_set)
    tokens = tokens_of({"issuer": [{"issuer": ISSUER}], "audience": (AUDIENCE,), "jwks": str(path)})
    assert tokens is not None
    (issuer,) = tokens.issuers
    assert (issuer.audience, issuer.typ) == ((AUDIENCE,), ("at+jwt",))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"audience": ("x",)}, "audience: needs issuer"),
        ({"issuer": [{"issuer": "https://i"}]}, "issuer: needs audience"),
        (
            {"issuer": [{"issuer": "https://i"}], "audience": ("x",)},
            "issuer: jwks and secret: must be given one of them",
        ),
        (
            {"issuer": [{"issuer": "https://i"}], "audience": ("x",), "jwks": "http://i/keys"},
            "jwks: must be a URL like https://example.org/keys, not 'http://i/keys'",
        ),
        (
            {"issuer": [{"issuer": "a", "audience": "x"}, {"issuer": "b", "audience": "x"}]},
            "issuer: number 1: jwks and secret: must be given one of them",
        ),
        (
            {"issuer": [{"issuer": "a"}, {"issuer": "b"}], "jwks": "x"},
            "jwks: must be set in each [[issuer]] table",
        ),
    ],
)
def test_mistakes(options: dict[str, Any], words: str) -> None:
    """The option at fault comes first."""
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        tokens_of(options)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("issuer = 7", "issuer: must be a URL, or [[issuer]] tables"),
        ('[[issuer]]\nissuers = "https://i"', "issuer: unknown key 'issuers'; did you mean"),
        ('issuer = "https://i"\naudience = "x"\njwks = "none"', "jwks: none can't be read"),
    ],
)
def test_mistakes_in_a_file(text: str, words: str, tmp_path: Path) -> None:
    """One line, which says where."""
    path = tmp_path / "trionotify.toml"
    path.write_text(text)
    done = run("serve", "--port=0", "--config", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"trionotify: {path}: {words}"), done.stderr
    assert done.stderr.count("\n") == 1


async def test_tables_in_a_file(tmp_path: Path) -> None:
    """A server with two issuers, one of them with a secret; the file of keys is read again."""
    provider = Provider()
    keys, secret, path = tmp_path / "keys", tmp_path / "secret", tmp_path / "trionotify.toml"
    keys.write_bytes(provider.key_set)
    secret.write_bytes(SECRET)
    path.write_text(
        f"""
        [[issuer]]
        issuer = "{ISSUER}"
        audience = ["{AUDIENCE}"]
        jwks = "{keys}"
        algorithms = ["ES256"]
        id = "email"
        params = {{ team = "org.team" }}
        leeway = "10s"
        rights = {{ subscribe = [] }}

        [[issuer]]
        issuer = "https://backend.example.org"
        audience = "{AUDIENCE}"
        secret = "{secret}"
        typ = ["JWT"]
        """
    )
    token = provider.token(email="al@example.org", org={"team": "ops"}, scope=None)
    with running("--port=0", "--config", str(path)) as (process, url):
        port = int(url.rpartition(":")[2])
        with trio.fail_after(120):
            for fields, status in (((), 401), ((f"Authorization: Bearer {token}",), 101)):
                async with raw_client(port, "/events?team=ops", *fields) as client:
                    assert client.peer.status == status
        process.terminate()
        assert process.wait(120) == 0
        assert process.stderr is not None
        assert "eyJ" not in process.stderr.read()
