"""Making good inputs bad: bytes and texts, spoilt by a `Random`."""

from __future__ import annotations

from random import Random
from urllib.parse import quote

__all__ = [
    "ODD_BYTES",
    "ODD_TEXTS",
    "chance",
    "cut",
    "odd_text",
    "query_of",
    "respelled",
    "spoil",
    "word",
]

ODD_BYTES = (
    *(b"\x00", b"\xff", b"\xc3", b"\xc3\xa9", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x1b", b"\x7f"),
    *(
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"%",
        b"%00",
        b"%zz",
        b"?",
        b"#",
    ),
    *(b"{", b"}", b"[", b"]", b'"', b"\\", b"'", b"\\ud800", b"null", b"true", b"-1", b"0", b"1e999"),
    *(b"2147483648", b"18446744073709551616", b"NaN", b"chunked", b"HTTP/1.1", b"\xef\xbb\xbf"),
)
ODD_TEXTS = (
    *(
        "",
        " ",
        "\x00",
        "\x1b[2J",
        "\x7f",
        "\x85",
        "\u2028",
        "é",
        "日本",
        "💥",
        "\ufeff",
        "\uffff",
        "ﬀ",
        "K",
    ),
    *(
        "\r\n",
        "\n",
        "\t",
        "'",
        '"',
        "\\",
        "%",
        "%00",
        "%2F",
        "&",
        "=",
        "+",
        "../..",
        "<b>",
        "*",
        "?",
        "#",
    ),
    *("null", "true", "0", "-1", "1e9", "2147483648", "NaN", "[]", "{}", "trionotify.x", "trionotify."),
    *(
        "a" * 300,
        "é" * 200,
        "[" * 200,
        "9" * 40,
        "2026-01-31T10:00:00Z",
        "10m",
        "start",
        "x:1",
        ":",
        ",",
    ),
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def chance(random: Random, percent: float) -> bool:
    return random.random() * 100 < percent


def word(random: Random) -> str:
    """A name as attributes have it."""
    return "".join(random.choices(_LETTERS, k=random.randint(1, 8)))


def odd_text(random: Random) -> str:
    """Some text: plain, odd, or any characters at all."""
    match random.randrange(4):
        case 0:
            return word(random)
        case 1 | 2:
            return random.choice(ODD_TEXTS)
    codes = [
        random.randrange(random.choice((0x80, 0x800, 0xD800))) for _ in range(random.randint(1, 12))
    ]
    return "".join(map(chr, codes))


def spoil(random: Random, data: bytes) -> bytes:
    """Change some bytes: a few times one of six things."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        at = random.randrange(len(data) + 1)
        end = min(len(data), at + random.choice((1, 1, 2, 5, 20)))
        match random.randrange(6):
            case 0:
                data = data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
            case 1 | 2:
                data = data[:at] + random.choice(ODD_BYTES) + data[at:]
            case 3:
                data = data[:at] + data[end:]
            case 4:
                data = data[:end] + data[at:end] * random.choice((1, 1, 9)) + data[end:]
            case 5:
                data = data[:at] + random.choice(ODD_BYTES) + data[end:]
    return data


def cut(random: Random, data: bytes) -> tuple[bytes, ...]:
    """The same bytes in a few pieces; mostly in one."""
    if len(data) < 2 or chance(random, 80):
        return (data,)
    places = sorted({random.randrange(1, len(data)) for _ in range(random.choice((1, 1, 2, 5)))})
    return tuple(data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True))


def respelled(random: Random, text: str, plus: bool = True) -> str:
    """The same text in another spelling of a query: more percent signs than are needed, or a plus."""
    spelled = []
    for character in text:
        if character == " " and plus and chance(random, 50):
            spelled.append("+")
        elif character.isascii() and character.isalnum() and chance(random, 85):
            spelled.append(character)
        else:
            encoded = "".join(f"%{byte:02X}" for byte in character.encode())
            spelled.append(encoded.lower() if chance(random, 30) else encoded)
    return "".join(spelled)


def query_of(pairs: list[tuple[str, str]]) -> str:
    """A query, spelled as usual."""
    return "&".join(f"{quote(name, safe='.')}={quote(value, safe='')}" for name, value in pairs)
