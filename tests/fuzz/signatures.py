"""Signed queries, respelled and changed; and who must be let in, by the docs, not by our code."""

from __future__ import annotations

import hashlib
import hmac
from random import Random
from urllib.parse import quote, unquote_to_bytes

from tests.fuzz.inputs import Ask, Burst, Input, Scene
from tests.fuzz.mutation import ODD_TEXTS, chance, odd_text, respelled, spoil, word
from tests.kernel import upgrade

__all__ = ["is_signed", "signature_input"]

#: What docs/security.md lets the bearer choose.
_FREE = ("since", "last_event_id", "lag", "format", "echo", "narrow")
_NAMES = ("id", "team", "exact.type", "prefix.subject", "subject", "type", "a~b*c", "é")
_LET_IN, _REFUSED = frozenset({200}), frozenset({400, 401, 403, 404, 431})
_HOST = "Host: localhost"


def _text(pairs: dict[str, str]) -> str:
    """The text that is signed: percent-encoded, sorted, joined."""
    encoded = [
        f"{quote(name, safe='-._~')}={quote(value, safe='-._~')}"
        for name, value in pairs.items()
        if name != "sig"
    ]
    return "&".join(sorted(encoded))


def _mac(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def _bound(params: dict[str, str]) -> dict[str, str]:
    bound = {name: value for name, value in params.items() if name not in _FREE}
    if bound.get("role") == "subscriber":
        del bound["role"]
    return bound


def _decoded(query: str) -> dict[str, str] | None:
    """The parameters of a query; None for one that can't be read, or says one of them twice."""
    params: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        try:
            name, value = (unquote_to_bytes(text.replace("+", " ")).decode() for text in (name, value))
        except UnicodeDecodeError:
            return None
        if name in params:
            return None
        if part:
            params[name] = value
    return params


def is_signed(query: str, scene: Scene) -> bool:
    """Whether this query is signed with the scene's secret, and not over."""
    params = _decoded(query)
    if params is None or "sig" not in params:
        return False
    variants = [_bound(params)]
    if params.get("role", "subscriber") in ("subscriber", "publisher", "both"):
        variants.append({**_bound(params), "role": "both"})
    macs = {_mac(scene.secret, _text(variant)) for variant in variants}
    until = params.get("exp", "")
    good = until.isascii() and until.isdigit() and len(until) < 15 and int(until) > scene.now
    return params["sig"] in macs and good


def _signed(random: Random, scene: Scene, role: str | None) -> dict[str, str]:
    """A query that a backend has signed."""
    params = {}
    for name in random.sample(_NAMES, random.choice((0, 1, 2, 4))):
        plain = name in ("id", "type", "subject") or "." in name
        text = (
            random.choice(("a", "o'ps (1)", "a b", "é+~*", "100%", "a&b=c"))
            if plain
            else odd_text(random)
        )
        params[name] = text + word(random)
    if role is not None:
        params["role"] = role
    params["exp"] = str(scene.now + 86_400)
    params["sig"] = _mac(scene.secret, _text(_bound(params)))
    return params


def _free(random: Random) -> dict[str, str]:
    choices = {"since": "start", "lag": "latest", "echo": "0", "narrow": '{"exact": {"type": "a"}}'}
    return {name: choices[name] for name in random.sample(list(choices), random.choice((0, 1, 2)))}


def signature_input(random: Random, scene: Scene) -> Input:
    """A query that was signed: as it is, spelled in another way, or changed."""
    if chance(random, 15):
        return _bearer(random, scene)
    publishes = chance(random, 40)
    role = (
        random.choice(("both", "publisher"))
        if publishes
        else random.choice((None, "subscriber", "both"))
    )
    params = _signed(random, scene, role)
    if role == "both" and chance(random, 40):
        params["role"] = "publisher" if publishes else random.choice(("subscriber", "publisher"))
    if chance(random, 50):
        params |= {name: value for name, value in _free(random).items() if name not in params}
    respelling = chance(random, 50)
    if not respelling:
        _change(random, scene, params)
    pairs = list(params.items())
    if chance(random, 70):
        random.shuffle(pairs)
    query = "&".join(f"{respelled(random, name)}={respelled(random, value)}" for name, value in pairs)
    if not respelling and chance(random, 40):
        query = "".join(c for c in spoil(random, query.encode()).decode("latin-1") if "!" <= c <= "~")
        query = query.replace("#", "%23")
    return _sent(random, query, publishes, scene, respelling)


def _sent(random: Random, query: str, publishes: bool, scene: Scene, respelling: bool) -> Input:
    good = is_signed(query, scene)
    assert good or not respelling, f"the oracle refuses what was signed: {query}"
    due = _LET_IN if respelling else _LET_IN | _REFUSED if good else _REFUSED
    if publishes:
        return Ask(
            f"POST /events?{query} HTTP/1.1\r\n{_HOST}\r\nContent-Length: 1\r\n\r\nx".encode(),
            "POST",
            due,
        )
    if chance(random, 10):
        due = due | {101} if good else due
        handshake = upgrade(f"/?{query}").replace(b"Host: test", _HOST.encode())
        return Burst((handshake,), (due - {200} if good else due,))
    return Ask(f"HEAD /events?{query} HTTP/1.1\r\n{_HOST}\r\n\r\n".encode(), "HEAD", due)


def _change(random: Random, scene: Scene, params: dict[str, str]) -> None:
    """Change what the query means, mostly."""
    name = random.choice(list(params))
    match random.randrange(9):
        case 0:
            params[name] += random.choice(("a", " ", "\x00", "&", "%"))
        case 1:
            params[random.choice((*_NAMES, "role", "x"))] = random.choice(ODD_TEXTS)
        case 2:
            del params[name]
        case 3:
            params["exp"] = str(int(params["exp"]) + 1) if "exp" in params else "1"
        case 4:
            over = (str(scene.now - 60), "-1", "0", "1e99", "", "9" * 20, " 9", "٣" * 10)
            params["exp"] = random.choice(over)
            if chance(random, 50):  # signed, and over
                params["sig"] = _mac(scene.secret, _text(_bound(params)))
        case 5:
            sig = params["sig"]
            params["sig"] = random.choice(
                (sig.upper(), sig[:-1], sig + "0", f" {sig}", "", sig[::-1], "é")
            )
        case 6:
            params["role"] = random.choice(("publisher", "both", "subscriber", "admin", ""))
        case 7:
            params["sig"] = _mac(random.choice(("", scene.secret[:-1], "x")), _text(_bound(params)))
        case 8:  # one value's end is another one's beginning
            params["id"] = params.get("id", "") + "&role=both"


def _bearer(random: Random, scene: Scene) -> Ask:
    """The secret itself, or nearly."""
    good = (f"Bearer {scene.secret}", f"bearer {scene.secret}", f"BEARER  {scene.secret} ")
    bad = (
        *(
            "Bearer",
            "Bearer ",
            f"Basic {scene.secret}",
            scene.secret,
            f"Bearer {scene.secret[:-1]}",
            "Bearer é",
        ),
        *(
            f"Bearer {scene.secret}x",
            f"Bearer {scene.secret.upper()}",
            f"Bearer,{scene.secret}",
            "Bearer x, y",
        ),
        f"Bearer {scene.secret}\r\nAuthorization: Bearer x",
    )
    right = chance(random, 40)
    field = random.choice(good if right else bad)
    method, target = random.choice(
        (("GET", "/clients?limit=1"), ("HEAD", "/metrics"), ("HEAD", "/events"))
    )
    data = f"{method} {target} HTTP/1.1\r\n{_HOST}\r\nAuthorization: {field}\r\n\r\n".encode()
    return Ask(data, method, _LET_IN if right else _REFUSED)
