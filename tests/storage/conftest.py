"""Fixtures of the tests of logs on Redis."""

from __future__ import annotations

import pytest

from trionotify.storage import redis_link, redis_log, redis_store


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node waits for Redis, and for what it reads, however busy the machine is."""
    for name in ("CONNECT_TIMEOUT", "ANSWER_TIMEOUT"):
        monkeypatch.setattr(redis_store, name, 120.0)
    for name in ("_PATIENCE", "_CONFIRMING"):
        monkeypatch.setattr(redis_log, name, 120.0)


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats come often."""
    monkeypatch.setattr(redis_link, "BEAT", 0.05)
    monkeypatch.setattr(redis_link, "_PAUSE", 0.02)
