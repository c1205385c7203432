"""Sequences of WebSocket frames: legal ones, cut and mixed in every legal way, and others."""

from __future__ import annotations

from random import Random

from tests.fuzz.inputs import Heard, Input, Scene, Talk, client_frame
from tests.fuzz.mutation import ODD_BYTES, chance, cut, spoil

__all__ = ["frame_input"]

_RAW = "/?role=publisher&id=p&type=f"
_EVENTS = "/?format=cloudevents&role=both&id=q&exact.type=none"
_SIZES = (0, 1, 5, 125, 126, 127, 300, 3000, 65_535, 65_536)


def frame_input(random: Random, scene: Scene) -> Input:
    """A few messages and control frames; a third of the time something is wrong with them."""
    target = random.choice((_RAW, _RAW, _EVENTS))
    legal = chance(random, 65)
    data = b"".join(_message(random, target) for _ in range(random.choice((1, 1, 2, 5))))
    if legal:
        return Talk(target, cut(random, data))
    match random.randrange(5):
        case 0:
            data += _bad_frame(random)
        case 1:
            data = b"".join(random.choices((data, _bad_frame(random)), k=4))
        case 2:
            return Talk(target, cut(random, data + _close(random)), clean=False, check=_answers_close)
        case 3:  # a legal frame, unfinished
            data = data[: random.randrange(len(data))] if data else b"\x81"
        case 4:
            data = spoil(random, data)
    return Talk(target, cut(random, data), clean=False)


def _answers_close(heard: Heard) -> str | None:
    return "its Close frame had no answer" if heard.code is None else None


def _key(random: Random) -> bytes:
    return random.choice((bytes(4), b"\xff\xff\xff\xff", random.randbytes(4)))


def _message(random: Random, target: str) -> bytes:
    """A legal message, maybe in fragments with control frames between them; or a control frame."""
    if chance(random, 20):
        return _control(random)
    text = target == _EVENTS or chance(random, 60)
    size = random.choice(_SIZES if chance(random, 10) else _SIZES[:6])
    payload = random.randbytes(size)
    if text:
        payload = "".join(random.choices('aé日💥\x00 {}"', k=size // 3)).encode()
    count = random.choice((1, 1, 1, 2, 3, 9))
    places = sorted(random.randrange(len(payload) + 1) for _ in range(count - 1))
    parts = [payload[a:b] for a, b in zip([0, *places], [*places, len(payload)], strict=True)]
    frames = []
    for at, part in enumerate(parts):
        opcode = 0x0 if at else 0x1 if text else 0x2
        frames.append(client_frame(part, opcode, fin=at == len(parts) - 1, key=_key(random)))
        if at < len(parts) - 1 and chance(random, 30):
            frames.append(_control(random))
    return b"".join(frames)


def _control(random: Random) -> bytes:
    return client_frame(
        random.randbytes(random.choice((0, 1, 125))), random.choice((0x9, 0xA)), key=_key(random)
    )


def _close(random: Random) -> bytes:
    """A legal Close frame."""
    code = random.choice((1000, 1001, 1002, 1003, 1007, 3000, 4999))
    reason = "".join(random.choices("aé日", k=random.randrange(40))).encode()
    payload = random.choice((b"", code.to_bytes(2), code.to_bytes(2) + reason))
    return client_frame(payload, 0x8, key=_key(random))


def _bad_frame(random: Random) -> bytes:  # noqa: PLR0911 - a table
    """Against RFC 6455 in one way, or above the server's limit."""
    match random.randrange(10):
        case 0:  # a reserved bit, a reserved opcode
            frame = client_frame(b"x", random.choice((0x3, 0x7, 0xB, 0xF)))
            return bytes([frame[0] ^ random.choice((0x40, 0x20, 0x10, 0))]) + frame[1:]
        case 1:  # not masked
            return bytes([0x81, random.choice((0, 1, 5))]) + b"abcde"
        case 2:  # a control frame in fragments, or too long
            return random.choice((client_frame(b"x", 0x9, fin=False), client_frame(b"x" * 126, 0x9)))
        case 3:  # a length that isn't minimal
            return (
                random.choice((b"\x81\xfe\x00\x05", b"\x81\xff" + (5).to_bytes(8))) + bytes(4) + b"abcde"
            )
        case 4:  # impossible lengths
            return (
                b"\x82\xff"
                + random.choice((1 << 63, (1 << 64) - 1, 1 << 40, 70_000)).to_bytes(8)
                + bytes(9)
            )
        case 5:  # text that isn't UTF-8, whole or in its first fragment
            return client_frame(random.choice(ODD_BYTES[:8]) + b"\xff", 0x1, fin=chance(random, 50))
        case 6:  # a continuation of nothing, a message inside a message
            return random.choice((client_frame(b"x", 0x0), client_frame(b"x", 0x1, fin=False) * 2))
        case 7:  # Close frames
            codes = random.choice(
                (b"\x03", b"\x00\x00", b"\x03\xed", b"\x03\xee", b"\x13\x88", b"\x03\xe8\xff")
            )
            return client_frame(codes, 0x8)
        case 8:  # data behind a Close frame
            return client_frame(b"\x03\xe8", 0x8) + client_frame(b"late")
    return client_frame(b"x" * random.choice((65_537, 70_000)), random.choice((0x1, 0x2)))
