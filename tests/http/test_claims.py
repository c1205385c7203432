"""Claims: the rights and parameters that they give."""

from __future__ import annotations

from typing import Any

import pytest

from trionotify import EVERYTHING, NOTHING, AnyOf, Exact, Notification, Prefix
from trionotify.http.claims import Grant, claim_at, grants_of, rights_of
from trionotify.http.jws import BadToken

A = [{"prefix": {"type": "a."}}]
B = [{"prefix": {"type": "b."}}]
BOTH = "trionotify:subscribe trionotify:publish"


@pytest.mark.parametrize(
    ("claims", "subscribe", "publish"),
    [
        ({}, NOTHING, NOTHING),
        ({"scope": BOTH}, EVERYTHING, EVERYTHING),
        ({"scope": "openid trionotify:publish"}, NOTHING, EVERYTHING),
        ({"scp": ["trionotify:subscribe"]}, EVERYTHING, NOTHING),
        ({"scope": 7}, NOTHING, NOTHING),
        ({"trionotify": {}, "scope": BOTH}, NOTHING, NOTHING),
        ({"trionotify": {"subscribe": []}}, EVERYTHING, NOTHING),
        ({"trionotify": {"subscribe": A}, "scope": BOTH}, Prefix(type="a."), NOTHING),
        ({"trionotify": {"subscribe": A + B}}, Prefix(type="a.") & Prefix(type="b."), NOTHING),
        (
            {"authorization_details": [{"type": "trionotify", "subscribe": A, "actions": ["x"]}]},
            Prefix(type="a."),
            NOTHING,
        ),
        ({"authorization_details": [{"type": "payment", "subscribe": A}, 7]}, NOTHING, NOTHING),
        ({"authorization_details": "trionotify"}, NOTHING, NOTHING),
        (
            {
                "trionotify": {"subscribe": A},
                "authorization_details": [{"type": "trionotify", "subscribe": B, "publish": A}],
            },
            AnyOf([Prefix(type="a."), Prefix(type="b.")]),
            Prefix(type="a."),
        ),
    ],
)
def test_rights(claims: dict[str, Any], subscribe: Any, publish: Any) -> None:
    """Each grant allows what it says, all of its filters together; scopes count where there is none."""
    found = rights_of(grants_of(claims, None)[0])
    assert (found.subscribe, found.publish, found.admin) == (subscribe, publish, False)


def test_a_token_without_any_right() -> None:
    """It gets what the configuration gives to all."""
    otherwise = {"subscribe": A, "params": {"tier": "free"}}
    text, params = grants_of({"scope": "openid"}, otherwise)
    assert (rights_of(text).subscribe, params) == (Prefix(type="a."), {"tier": "free"})
    assert rights_of(grants_of({"scope": BOTH}, otherwise)[0]).subscribe is EVERYTHING


def test_operators() -> None:
    """Theirs is a scope, whatever else there is, and nothing more."""
    found = rights_of(grants_of({"scope": "trionotify:admin"}, None)[0])
    assert (found.admin, found.subscribe, found.publish) == (True, NOTHING, NOTHING)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"trionotify": []}, "must be an object with no other members than params, publish, subscribe"),
        ({"trionotify": {"subscribe": {}}}, "subscribe must be an array of filters"),
        ({"trionotify": {"subscribe": [{"x": 1}]}}, "trionotify: filters"),
        ({"trionotify": {"params": []}}, "params must be an object of strings"),
        ({"trionotify": {"params": {"a": 1}}}, "params must be an object of strings"),
        (
            {
                "trionotify": {"params": {"team": "a"}},
                "authorization_details": [{"type": "trionotify", "params": {"team": "b"}}],
            },
            "its grants have different values for 'team'",
        ),
    ],
)
def test_what_is_no_grant(claims: dict[str, Any], words: str) -> None:
    """Such a token is refused: who made it meant something."""
    with pytest.raises(BadToken, match=words):
        grants_of(claims, None)


def test_the_same_right_is_the_same_value() -> None:
    """However many tokens say it."""
    one, two = (rights_of(grants_of({"trionotify": {"subscribe": A}}, None)[0]) for _ in range(2))
    assert one is two
    assert one.restrict(EVERYTHING) is one.subscribe
    assert one.restrict(NOTHING) is NOTHING
    assert one.restrict(Exact(subject="s")) == Prefix(type="a.") & Exact(subject="s")


def test_a_grant_in_a_ticket() -> None:
    """It comes back as it was."""
    claims = {"trionotify": {"publish": A, "params": {"team": "ü", "name": "cut \ud83d"}}}
    text, params = grants_of(claims, None, "https://i")
    grant = Grant("https://i", "al", params, text, 1e9)
    assert Grant.from_json(grant.to_json()) == grant
    grant.allowed.check_publish(Notification(type="a.b"))
    assert grant.allowed.issuer == "https://i"


def test_where_a_claim_is() -> None:
    """By its name, whatever that is, or by a path."""
    claims = {"org": {"team": "ops", "x.y": 1}, "https://example.org/team": "hr", "a.b": "c"}
    paths = ("org.team", "https://example.org/team", "a.b", "org.no", "no.team", "a.b.c")
    assert [claim_at(claims, path) for path in paths] == ["ops", "hr", "c", None, None, None]
