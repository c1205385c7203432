"""The URL of a log on Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

from trionotify.storage.redis_address import RedisAddress


@pytest.mark.parametrize(
    ("url", "expected", "shown"),
    [
        ("redis://host", RedisAddress("redis", (("host", 6379),)), "redis://host:6379"),
        ("redis://host:1/2", RedisAddress("redis", (("host", 1),), db=2), "redis://host:1"),
        ("redis://host?db=3", RedisAddress("redis", (("host", 6379),), db=3), "redis://host:6379"),
        ("redis://[::1]:5", RedisAddress("redis", (("::1", 5),)), "redis://[::1]:5"),
        ("rediss://h/?hub=a", RedisAddress("rediss", (("h", 6379),), hub="a"), "rediss://h:6379"),
        (
            "unix:///run/r.sock?db=1",
            RedisAddress("unix", path="/run/r.sock", db=1),
            "unix:///run/r.sock",
        ),
        ("unix:///a%20b", RedisAddress("unix", path="/a b"), "unix:///a b"),
        (
            "redis+sentinel://a,b:2/main?replicas=2",
            RedisAddress("redis+sentinel", (("a", 26379), ("b", 2)), service="main", replicas=2),
            "redis+sentinel://a:26379,b:2/main",
        ),
        (
            "redis+sentinel://a/main/4",
            RedisAddress("redis+sentinel", (("a", 26379),), service="main", db=4),
            "redis+sentinel://a:26379/main",
        ),
    ],
)
def test_urls(url: str, expected: RedisAddress, shown: str) -> None:
    """All forms."""
    assert RedisAddress.parse(url) == expected
    assert str(RedisAddress.parse(url)) == shown


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        ("redis://me:geheim@h", "me", "geheim"),
        ("redis://:geheim@h", None, "geheim"),
        ("rediss://m%40e:ge%2Fheim@h:1/2", "m@e", "ge/heim"),
        ("redis+sentinel://me:geheim@h,i/s", "me", "geheim"),
        ("unix://me:geheim@/run/r", "me", "geheim"),
    ],
)
def test_credentials_are_read_and_not_shown(url: str, user: str | None, password: str) -> None:
    """Neither as text nor in a traceback."""
    address = RedisAddress.parse(url)
    assert (address.username, address.password) == (user, password)
    for text in (str(address), repr(address)):
        assert "geheim" not in text
        assert password not in text


def test_a_password_in_a_file(tmp_path: Path) -> None:
    """Its first line."""
    file = tmp_path / "password"
    file.write_text("geheim\n")
    address = RedisAddress.parse(f"redis://me@h?password_file={file}&sentinel_password_file={file}")
    assert (address.username, address.password, address.sentinel_password) == ("me", "geheim", "geheim")
    with pytest.raises(
        ValueError, match=r"^store: password_file: .*missing can't be read: No such file"
    ):
        RedisAddress.parse(f"redis://h?password_file={tmp_path}/missing")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://", "HOST or HOST:PORT"),
        ("redis://h:geheim", "HOST or HOST:PORT"),
        ("redis://u:geheim@h:99999", "HOST or HOST:PORT"),
        ("redis://u:geheim@[h", "must be redis:"),
        ("redis://u:geh#eim@h", "%23"),
        ("redis://u:geh/eim@h", "%2F"),
        ("redis://u:geh?eim@h", "%3F"),
        ("redis://u:a@b?geh=eim@h", "%3F"),
        ("redis://u:geheim@h/x", "db: must be a whole number"),
        ("redis://u:geheim@h?hbu=x", "unknown key 'hbu'"),
        ("redis://u:geheim@h?hub=a/b", "hub: "),
        ("redis://u:geheim@h?replicas=-1", "replicas: "),
        ("redis://u:geheim@h?replicas=0", "replicas: must be 1 or more"),
        ("redis://u:geheim@h:0", "HOST or HOST:PORT"),
        ("redis+sentinel://u:geheim@h,h:0/s", "HOST or HOST:PORT"),
        ("redis+sentinel://u:geheim@h", "must name the service"),
        ("unix://u:geheim@run/r", "absolute path"),
        ("unix:", "absolute path"),
    ],
)
def test_what_is_no_such_url(url: str, reason: str) -> None:
    """It says what is wrong, and repeats no part that may be a password."""
    with pytest.raises(ValueError, match=reason) as error:
        RedisAddress.parse(url)
    assert "geheim" not in str(error.value)
    assert "geh" not in str(error.value)


def test_what_a_server_repeats() -> None:
    """Neither the user nor a password is shown, in whatever it stands."""
    address = RedisAddress.parse("redis://me:ge%22heim@h")
    said = "NOPERM User me has no permissions for 'get' some, with ge\"heim!"
    assert address.without_secrets(said) == "NOPERM User … has no permissions for 'get' some, with …!"
    assert RedisAddress.parse("redis://h").without_secrets("ERR x") == "ERR x"
