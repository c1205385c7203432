"""Filters and expressions in CESQL, made at random: legal ones, and what nearly is."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tests.fuzz.inputs import Ask, Heard, Input, Scene, Talk, client_frame
from tests.fuzz.mutation import ODD_TEXTS, chance, odd_text, query_of, spoil, word
from trionotify import from_json

__all__ = ["NAMES", "TEXTS", "filter_input", "random_filter", "random_filters", "random_sql"]

NAMES = ("type", "subject", "source", "id", "to", "time", "n", "flag", "datacontenttype", "x1")
TEXTS = (
    *(
        "a",
        "ab",
        "abc",
        "b",
        "ba",
        "5",
        "05",
        "-5",
        "true",
        "TRUE",
        "false",
        "",
        "%",
        "_",
        "é",
        "💥",
        "A",
    ),
    *("2147483647", "a%b", "a_b", "aaaa", " ", "K", "\u017f", "x\u0301", "/shop", "order.paid"),
)
_FUNCTIONS = (
    *("LENGTH", "CONCAT", "CONCAT_WS", "LOWER", "UPPER", "TRIM", "LEFT", "RIGHT", "SUBSTRING", "ABS"),
    *("INT", "BOOL", "STRING", "NOSUCH"),
)
_ARGUMENTS = {
    "CONCAT": (0, 3),
    "CONCAT_WS": (1, 3),
    "LEFT": (2, 2),
    "RIGHT": (2, 2),
    "SUBSTRING": (2, 3),
}


def _text(random: Random, pattern: bool = False) -> str:
    text = random.choice(TEXTS)
    if pattern:
        text = "".join(
            random.choices(("%", "_", "a", "b", "\\%", "\\_", "é", "ab"), k=random.randint(0, 5))
        )
    quote = random.choice("'\"")
    return quote + text.replace(quote, f"\\{quote}") + quote


def _case(random: Random, word: str) -> str:
    return random.choice((word, word.lower(), word.title()))


def random_sql(random: Random, depth: int = 3) -> str:  # noqa: PLR0911 - a table
    """An expression made by the grammar, which always parses."""
    if depth == 0 or chance(random, 15):
        return _atom(random)
    less = depth - 1
    match random.randrange(11):
        case 0:
            operator = _case(random, random.choice(("AND", "OR", "XOR")))
            count = random.choice((2, 2, 3, 5))
            return f" {operator} ".join(f"({random_sql(random, less)})" for _ in range(count))
        case 1:
            return f" {_case(random, 'AND')} ".join(
                _simple(random) for _ in range(random.choice((1, 2, 3)))
            )
        case 2:
            return f"{_case(random, 'NOT')} ({random_sql(random, less)})"
        case 3:
            operator = random.choice(("=", "!=", "<>", "<", "<=", ">", ">="))
            return f"({random_sql(random, less)}) {operator} ({random_sql(random, less)})"
        case 4:
            operator = random.choice(("+", "-", "*", "/", "%"))
            return f"({random_sql(random, less)}) {operator} ({random_sql(random, less)})"
        case 5:
            negated = random.choice(("", "NOT "))
            return f"({random_sql(random, less)}) {negated}LIKE {_text(random, pattern=True)}"
        case 6:
            negated = random.choice(("", "NOT "))
            items = ", ".join(random_sql(random, less) for _ in range(random.choice((1, 2, 4))))
            return f"({random_sql(random, less)}) {negated}{_case(random, 'IN')} ({items})"
        case 7 | 8:
            name = random.choice(_FUNCTIONS)
            least, most = _ARGUMENTS.get(name, (1, 1))
            count = random.randint(least, most) if chance(random, 90) else random.randrange(4)
            arguments = ", ".join(random_sql(random, less) for _ in range(count))
            return f"{_case(random, name)}({arguments})"
        case 9:
            return f"-({random_sql(random, less)})"
    return _simple(random)


def _atom(random: Random) -> str:
    match random.randrange(6):
        case 0:
            return str(random.choice((0, 1, 5, -5, 2147483647, -2147483648, random.randrange(100))))
        case 1:
            return _text(random)
        case 2:
            return _case(random, random.choice(("TRUE", "FALSE")))
        case 3:
            return f"{_case(random, 'EXISTS')} {random.choice(NAMES)}"
    return _case(random, random.choice(NAMES))


def _simple(random: Random) -> str:
    """A filter that the index can look up, or nearly can."""
    name = _case(random, random.choice(NAMES))
    match random.randrange(6):
        case 0:
            return f"{name} = {_text(random)}"
        case 1:
            return f"{_text(random)} = {name}"
        case 2 | 3:
            negated = random.choice(("", "", "NOT "))
            return f"{name} {negated}LIKE {_text(random, pattern=True)}"
        case 4:
            items = ", ".join(_text(random) for _ in range(random.choice((1, 2, 3))))
            return f"{name} {random.choice(('', '', 'NOT '))}IN ({items})"
    return f"{_case(random, 'EXISTS')} {name}"


def random_filter(random: Random, depth: int = 3) -> dict[str, Any]:
    """A legal filter."""
    match random.randrange(9 if depth else 6):
        case 0 | 1 | 2:
            texts = {
                name: random.choice(TEXTS[:4]) for name in random.sample(NAMES, random.choice((1, 1, 2)))
            }
            return {random.choice(("exact", "prefix", "suffix")): texts}
        case 3:
            text = random.choice([text for text in TEXTS if text])
            return {random.choice(("exact", "prefix", "suffix")): {random.choice(NAMES): text}}
        case 4 | 5:
            return {"sql": random_sql(random, random.choice((0, 1, 2)))}
        case 6:
            return {"not": random_filter(random, depth - 1)}
    parts = [random_filter(random, depth - 1) for _ in range(random.choice((1, 2, 3)))]
    return {random.choice(("all", "any")): parts}


def random_filters(random: Random) -> list[dict[str, Any]]:
    return [random_filter(random) for _ in range(random.choice((0, 1, 1, 1, 2, 4)))]


def odd_filters(random: Random) -> str:
    """JSON that is one or the other way no array of filters; often nearly so."""
    match random.randrange(6):
        case 0:
            depth = random.choice((31, 32, 33, 100, 500, 900, 2000))
            inner = json.dumps(random_filter(random, 0))
            return "[" + '{"not":' * depth + inner + "}" * depth + "]"
        case 1:
            name = random.choice(NAMES)
            return json.dumps([{"exact": {name: "a"}}] * random.choice((255, 256, 257, 400)))
        case 2:
            dialect = random.choice(
                ("exact", "prefix", "suffix", "sql", "not", "all", "any", word(random))
            )
            return json.dumps([{dialect: random.choice(_ODD_VALUES)}])
        case 3:
            return json.dumps([{"exact": {odd_text(random): odd_text(random)}}])
        case 4:
            sql = spoil(random, random_sql(random).encode()).decode(errors="replace")
            return json.dumps(
                [{"sql": random.choice((sql, "(" * 200, sql * 20, random.choice(ODD_TEXTS)))}]
            )
    return spoil(random, json.dumps(random_filters(random)).encode()).decode(errors="replace")


_ODD_VALUES: tuple[Any, ...] = (
    *(None, 0, 1.5, True, "", [], {}, [[]], [{}], {"type": 5}, {"type": None}, {"": "x"}, {"type": ""}),
    *({"a_b": "x"}, {"TYPE": "x"}, {"data": "x"}, {"type": ["a"]}, [None], {"exact": {}}, "type"),
)


def filter_input(random: Random, scene: Scene) -> Input:
    """JSON filters: in a query, in `trionotify.subscribe`, in an audience."""
    legal = chance(random, 50)
    text = json.dumps(random_filters(random), ensure_ascii=random.random() < 0.5)
    legal = legal and len(text) < 4000  # and so below the limit, in any spelling
    if not legal:
        text = odd_filters(random)
    due = frozenset({200}) if legal else frozenset({200, 400, 431})
    match random.randrange(4):
        case 0:
            key = random.choice(("filters", "filters", "narrow"))
            target = f"/events?{query_of([(key, text)])}"
            if len(target) > 12_000:  # the head has a limit of its own
                due = frozenset({200, 400, 431})
            return Ask(f"HEAD {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), "HEAD", due)
        case 1:
            event = {"specversion": "1.0", "id": "1", "source": "/f", "type": "f", "audience": text}
            body = json.dumps(event).encode()
            head = "POST /events HTTP/1.1\r\nHost: localhost\r\n"
            head += "Content-Type: application/cloudevents+json\r\n"
            data = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
            return Ask(data, "POST", frozenset({200}) if legal else frozenset({200, 400}))
    return _subscribe(text, legal)


def _subscribe(text: str, legal: bool) -> Talk:
    head = '{"specversion":"1.0","id":"the filters","source":"/f","type":"trionotify.subscribe","data":'
    message = head + '{"filters":' + text + "}}"

    def check(heard: Heard) -> str | None:
        answers = heard.own("ack", "error")
        if len(answers) != 1:
            return f"{len(answers)} answers came to one trionotify.subscribe"
        (answer,) = answers
        if answer["type"] == "trionotify.error":
            return f"legal filters were refused: {answer['data']['detail']}" if legal else None
        if legal and from_json(answer["data"]["filters"]) != from_json(json.loads(text)):
            return f"other filters were acknowledged: {answer['data']['filters']}"
        return None

    target = "/?format=cloudevents&id=f"
    return Talk(target, (client_frame(message.encode(errors="replace")),), check=check)
