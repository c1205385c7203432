"""CESQL: the values and errors of expressions, refusals, hostile texts, and what an index is told."""

from __future__ import annotations

import ast
import random
import time
import timeit
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import trionotify.cesql
from trionotify.cesql import (
    MAX_DEPTH,
    MAX_LENGTH,
    MAX_PATTERN,
    MAX_TEXT,
    Condition,
    Error,
    ParseError,
    Result,
    evaluate,
    expression,
    parse,
)
from trionotify.cesql.cache import Cache
from trionotify.cesql.expression import Expression
from trionotify.cesql.grammar import tree_of
from trionotify.cesql.patterns import elements_of, matcher

EVENT: dict[str, object] = {
    "id": "42",
    "source": "/shop/berlin",
    "type": "order.created",
    "subject": "it's",
    "sequence": "10",
    "count": 7,
    "urgent": True,
    "old": False,
    "flag": "TRUE",
}


def check(text: str, value: object, *kinds: str) -> None:
    """`text` has that value, of that very type, and errors of those kinds, in that order."""
    result = evaluate(text, EVENT)
    assert (result.value, type(result.value)) == (value, type(value)), result
    assert tuple(error.kind for error in result.errors) == kinds, result


# Literals and attributes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("007", 7),
        ("+5", 5),
        ("-5", -5),
        ("2147483647", 2147483647),
        ("-2147483648", -2147483648),
        ("true", True),
        ("fAlSe", False),
        ("''", ""),
        ('"a b"', "a b"),
        (r"'it\'s'", "it's"),
        (r'"say \"so\""', 'say "so"'),
        (r"""'say "so"'""", 'say "so"'),
        (r"'\"'", r"\""),
        (r"'a\b\\c'", r"a\b\\c"),
        ("'two\nlines'", "two\nlines"),
        ("'\x00\ud800é'", "\x00\ud800é"),
        (" \t\r\n'x' ", "x"),
    ],
)
def test_literals(text: str, value: object) -> None:
    """Only a literal's own quote is escaped; every other backslash stays."""
    check(text, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("type", "order.created"),
        ("TYPE", "order.created"),
        ("count", 7),
        ("urgent", True),
        ("((old))", False),
    ],
)
def test_attributes(text: str, value: object) -> None:
    """They are found by their lower-case name, and keep the types that CESQL has."""
    check(text, value)


@pytest.mark.parametrize(
    ("found", "value"),
    [
        (datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC), "2026-01-31T23:59:59Z"),
        (b"\x00\xff", "AP8="),
        (1 << 31, "2147483648"),
        (-(1 << 31), -2147483648),
        (1.5, "1.5"),
        (None, False),
    ],
)
def test_attributes_of_other_types(found: object, value: object) -> None:
    """They are text, as CloudEvents writes them; None is an attribute that isn't there."""
    assert evaluate("x", {"x": found}).value == value


class Priority(int, Enum):
    """The numbers of an application, by their names."""

    HIGH = 5


@pytest.mark.parametrize(
    "text", ["x = 5", "x = '5'", "'5' = x", "x LIKE '5'", "x IN ('5')", "CONCAT('p', x) = 'p5'"]
)
def test_a_member_of_an_enum_is_its_number(text: str) -> None:
    """In a text, too, as everywhere else."""
    assert evaluate(text, {"x": Priority.HIGH}) == Result(True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("missing", False),
        ("(missing)", False),
        ("missing = ''", False),
        ("'' = missing", False),
        ("missing != 'x'", False),
        ("missing <> 2", False),
        ("missing < 5", False),
        ("5 >= missing", False),
        ("missing * 5", 0),
        ("1 / missing", 0),
        ("missing % 0", 0),
        ("-missing", 0),
        ("NOT missing", False),
        ("missing LIKE '%'", False),
        ("missing NOT LIKE 'x'", False),
        ("missing IN ('x')", False),
        ("missing NOT IN ('x')", False),
        ("1 IN (1, missing)", False),
        ("1 NOT IN (2, missing)", False),
        ("true AND missing", False),
        ("missing AND true", False),
        ("missing OR true", False),
        ("false OR missing", False),
        ("missing OR true OR true", True),
        ("true XOR missing", False),
        ("missing XOR true", False),
        ("UPPER(missing)", ""),
        ("LENGTH(missing)", 0),
        ("BOOL(missing)", False),
        ("CONCAT('a', missing)", ""),
        ("missing * 5 = 0", True),
        ("NOT (missing = 'x')", True),
        ("missing + 1 + 2", 2),
    ],
)
def test_missing_attributes(text: str, value: object) -> None:
    """An operation on one gives the zero value of its own type, and the expression goes on with it."""
    check(text, value, "missingAttribute")


def test_missing_attributes_are_all_told() -> None:
    """Each by its name, and once."""
    messages = [error.message for error in evaluate("a + b + a", {}).errors]
    assert messages == ["the event has no attribute a", "the event has no attribute b"]


# Operators


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NOT true", False),
        ("not not true", True),
        ("NOT 'False'", True),
        ("NOT 0", True),
        ("NOT 10", False),
        ("-'5'", -5),
        ("--5", 5),
        ("-true", -1),
        ("- count", -7),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("4-1", 3),
        ("4 -1", 3),
        ("4 - -1", 5),
        ("4+1+1", 6),
        ("count-1", 6),
        ("count+1", 8),
        ("(4)-1", 3),
        ("10 - 4 - 3", 3),
        ("7 / 2", 3),
        ("-7 / 2", -3),
        ("7 % 3", 1),
        ("-7 % 3", -1),
        ("7 % -3", 1),
        ("2147483647 / -1", -2147483647),
        ("-2147483648 % -1", 0),
        ("'5' + true", 6),
        ("1 = 1", True),
        ("1 != 1", False),
        ("1 <> 2", True),
        ("1 < 2", True),
        ("2 <= 2", True),
        ("1 > 2", False),
        ("2 >= 3", False),
        ("'9' < '10'", True),
        ("'a' = 'A'", False),
        ("1 < 2 = true", True),
        ("3 > 2 > 1", False),
        ("true AND true", True),
        ("true and false", False),
        ("false OR true", True),
        ("true XOR true XOR true", True),
        ("true xor 1", False),
        ("1 AND 'true'", True),
        ("EXISTS type", True),
        ("EXISTS SUBJECT", True),
        ("EXISTS missing", False),
        ("NOT EXISTS missing", True),
        ("count IN (1, 7)", True),
        ("count NOT IN (1, 7)", False),
        ("type IN ('a', type)", True),
        ("type NOT IN ('a', 'b')", True),
        ("type NOT IN ('order.created')", False),
        ("sequence IN ('10', '11')", True),
        ("2 * 3 IN (3)", 2),
        ("count LIKE '_'", True),
        ("urgent LIKE 'tr%'", True),
        ("type LIKE 'order.%'", True),
        ("type NOT LIKE 'order.%'", False),
        ("NOT urgent LIKE 'false'", True),
        ("-1 LIKE '-_'", True),
        ("4 -1 LIKE '1'", 3),
    ],
)
def test_operators(text: str, value: object) -> None:
    """Each with its casts, and its place among the others."""
    check(text, value)


@pytest.mark.parametrize(
    ("text", "value", "kind"),
    [
        ("1 / 0", 0, "math"),
        ("1 % 0", 0, "math"),
        ("2147483647 + 1", 0, "math"),
        ("-2147483648 - 1", 0, "math"),
        ("65536 * 65536", 0, "math"),
        ("-2147483648 / -1", 0, "math"),
        ("--2147483648", 0, "math"),
        ("true AND (1 != 1 / 0)", True, "math"),
        ("false OR (1 != 1 / 0)", True, "math"),
        ("'abc' + 5", 5, "cast"),
        ("'abc' < 5", True, "cast"),
        ("'abc' = 0", True, "cast"),
        ("type = true", False, "cast"),
        ("NOT type = 'x'", False, "cast"),
        ("NOT 'yes'", True, "cast"),
        ("1 IN ('x', '1')", True, "cast"),
        ("'x' AND true", False, "cast"),
        ("'x' OR true", True, "cast"),
        ("'x' XOR true", True, "cast"),
        ("ABS(-2147483648)", 2147483647, "math"),
        ("INT('x')", 0, "cast"),
        ("BOOL('x')", False, "cast"),
        ("LEFT('abc', -1)", "abc", "functionEvaluation"),
        ("RIGHT('abc', -1)", "abc", "functionEvaluation"),
        ("SUBSTRING('abc', 4)", "", "functionEvaluation"),
        ("SUBSTRING('abc', -4, 1)", "", "functionEvaluation"),
        ("SUBSTRING('abc', 1, -1)", "", "functionEvaluation"),
        ("SUBSTRING('abc', 0, -1)", "", "functionEvaluation"),
        ("NOPE()", False, "missingFunction"),
        ("NOPE(missing)", False, "missingFunction"),
        ("LENGTH()", False, "missingFunction"),
        ("CONCAT_WS()", False, "missingFunction"),
        ("IS_INT('1')", False, "missingFunction"),
        ("1 +", False, "parse"),
    ],
)
def test_errors(text: str, value: object, kind: str) -> None:
    """There is a value beside every error, and the evaluation goes on with it."""
    check(text, value, kind)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("false AND 1 / 0 = 1", False),
        ("true OR 1 / 0 = 1", True),
        ("false AND NOPE()", False),
        ("false AND true AND missing", False),
        ("false OR true OR missing", True),
        ("0 AND missing", False),
        ("1 OR missing", True),
    ],
)
def test_short_circuits(text: str, value: bool) -> None:
    """AND and OR don't evaluate an operand that they don't need, so its errors don't come up."""
    check(text, value)


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("true", "'true'", True),
        ("true", "'TRUE'", False),
        ("'TRUE'", "true", True),
        ("flag", "true", True),
        ("'010'", "10", True),
        ("10", "'010'", False),
        ("10", "'10'", True),
        ("5", "true", True),
        ("true", "5", False),
        ("true", "1", True),
        ("sequence", "10", True),
        ("sequence", "'010'", False),
        ("count", "'7'", True),
        ("urgent", "'true'", True),
    ],
)
def test_equality_casts_to_the_type_on_the_right(left: str, right: str, equal: bool) -> None:
    """So `x = y` and `y = x` may differ."""
    check(f"{left} = {right}", equal)
    check(f"{left} != {right}", not equal)
    check(f"{left} <> {right}", not equal)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'010' IN (10)", False),
        ("10 IN ('010')", True),
        ("true IN ('TRUE')", True),
        ("7 IN (true)", False),
    ],
)
def test_in_casts_to_the_type_on_the_left(text: str, value: bool) -> None:
    """Other than equality does."""
    check(text, value)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("0", 0),
        ("-0", 0),
        ("+12", 12),
        ("0" * 9000 + "3", 3),
        ("-2147483648", -2147483648),
        ("2147483648", None),
        ("9" * 9000, None),
        ("", None),
        ("-", None),
        (" 1", None),
        ("1_0", None),
        ("1.0", None),
        ("٣", None),
        ("1\n", None),
    ],
)
def test_integers_in_texts(written: str, number: int | None) -> None:
    """Decimal ASCII digits and a sign, of 32 bits, and nothing that only Python takes for a number."""
    result = evaluate("INT(x)", {"x": written})
    assert result.value == (number or 0)
    assert [error.kind for error in result.errors] == ["cast"] * (number is None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("LENGTH('häß')", 3),
        ("LENGTH('🎺')", 1),
        ("LENGTH(true)", 4),
        ("CONCAT()", ""),
        ("CONCAT('a', 1, true)", "a1true"),
        ("CONCAT_WS(', ')", ""),
        ("CONCAT_WS(', ', 'a')", "a"),
        ("CONCAT_WS(', ', 'a', 'b', 'c')", "a, b, c"),
        ("lower('ÄB')", "äb"),
        ("Upper('äb')", "ÄB"),
        ("TRIM(' \t\u2003\u3000x y\u00a0\x85')", "x y"),
        ("TRIM('\x1c\x00x\u200b')", "\x1c\x00x\u200b"),
        ("LEFT('abc', 2)", "ab"),
        ("LEFT('abc', 0)", ""),
        ("LEFT('abc', 9)", "abc"),
        ("RIGHT('abc', 2)", "bc"),
        ("RIGHT('abc', 0)", ""),
        ("RIGHT('abc', 9)", "abc"),
        ("SUBSTRING('abcde', 2)", "bcde"),
        ("SUBSTRING('abcde', 5)", "e"),
        ("SUBSTRING('abcde', -2)", "de"),
        ("SUBSTRING('abcde', 0)", ""),
        ("SUBSTRING('', 0)", ""),
        ("SUBSTRING('abcde', 2, 3)", "bcd"),
        ("SUBSTRING('abcde', 2, 0)", ""),
        ("SUBSTRING('abcde', -4, 2)", "bc"),
        ("SUBSTRING('abcde', 4, 2147483647)", "de"),
        ("ABS(-5)", 5),
        ("ABS('5')", 5),
        ("INT('-07')", -7),
        ("INT(true)", 1),
        ("BOOL('tRuE')", True),
        ("BOOL(-1)", True),
        ("BOOL(0)", False),
        ("STRING(-0)", "0"),
        ("STRING(false)", "false"),
    ],
)
def test_functions(text: str, value: object) -> None:
    """Found in any case; their arguments are cast."""
    check(text, value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NOPE()", "there is no function NOPE"),
        ("length('a', 'b')", "LENGTH takes 1 arguments, not 2"),
        ("SUBSTRING('a')", "SUBSTRING takes 2 or 3 arguments, not 1"),
        ("CONCAT_WS()", "CONCAT_WS takes 1 or more arguments, not 0"),
    ],
)
def test_faults(text: str, words: str) -> None:
    """Calls of functions that aren't there are known before there is an event, reached or not."""
    fault = Error("missingFunction", words)
    assert parse(f"false AND (1 = {text})").faults() == (fault,)
    assert evaluate(text, {}).errors == (fault,)
    assert parse("LENGTH('a') = 1").faults() == ()


# LIKE


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("", [""], ["a"]),
        ("abc", ["abc"], ["ab", "abcd", "ABC"]),
        ("%", ["", "a", "a\nb"], []),
        ("a%", ["a", "ab"], ["", "ba"]),
        ("%a", ["a", "ba"], ["", "ab"]),
        ("%a%", ["a", "bab"], ["", "b"]),
        ("a%a", ["aa", "aba"], ["a", "ab"]),
        ("a%b%c", ["abc", "axbxc", "abbcc"], ["acb", "ac", "ab"]),
        ("%ab%ab%", ["abab", "xabyabz"], ["ab", "aab"]),
        ("_", ["a", "\n", "🎺"], ["", "ab"]),
        ("_%", ["a", "ab"], [""]),
        ("%_b", ["ab", "xyb"], ["b", "ba"]),
        ("a_c", ["abc"], ["ac", "abbc"]),
        (r"\%", ["%"], ["a", "\\%"]),
        (r"\_\%%", ["_%", "_%x"], ["a%"]),
        (r"a\b", ["a\\b"], ["ab"]),
        (r"\\%", [r"\%"], ["\\", "\\\\", "\\x"]),
        (r"%\%", ["%", "a%"], ["a"]),
        ("a\\", ["a\\"], ["a"]),
    ],
)
def test_like(pattern: str, matches: list[str], others: list[str]) -> None:
    """`%` is any characters or none, `_` is one, and a backslash makes either mean itself."""
    like = matcher(elements_of(pattern))
    assert [text for text in matches + others if like(text)] == matches


def naive_like(text: str, pattern: str) -> bool:
    """LIKE as its definition reads."""
    if not pattern:
        return not text
    if pattern[0] == "%":
        return naive_like(text, pattern[1:]) or (text != "" and naive_like(text[1:], pattern))
    if pattern[:2] in {r"\%", r"\_"}:
        return text[:1] == pattern[1] and naive_like(text[1:], pattern[2:])
    return text != "" and pattern[0] in {"_", text[0]} and naive_like(text[1:], pattern[1:])


@given(st.text("ab%\\", max_size=8), st.text("ab%_\\", max_size=8))
@example("ab", "a%b%b")
@example("a\\%b", "%\\\\%b")
def test_like_agrees_with_its_definition(text: str, pattern: str) -> None:
    """Whichever way the pattern takes."""
    assert matcher(elements_of(pattern))(text) == naive_like(text, pattern)


def simulated_like(text: str, pattern: str) -> bool:
    """The same for long ones, without escapes: every place of the pattern that may have been reached."""
    places = {0}
    for character in [*text, None]:
        while more := {at + 1 for at in places if pattern[at : at + 1] == "%"} - places:
            places |= more
        if character is not None:
            places = {
                at if pattern[at] == "%" else at + 1
                for at in places
                if at < len(pattern) and pattern[at] in {"%", "_", character}
            }
    return len(pattern) in places


long_pieces = st.sampled_from(
    ["a", "ab", "_", "a_b", "ab_", "__a", "a" * 10, "aab" * 5, "a_" * 30, "a" * 100, "_a" * 60 + "b"]
)


@given(
    st.lists(long_pieces | st.just("%"), max_size=5).map("".join),
    st.lists(st.sampled_from(["a", "b", "ab", "a" * 9, "aab" * 5, "a" * 99, "ba" * 60]), max_size=5),
)
@settings(deadline=None)
@example("%aaaaaaaaab%b", ["a" * 9, "b"])
def test_long_patterns_agree_with_the_definition(pattern: str, parts: list[str]) -> None:
    """Pieces of every kind: found as a literal, by a regular expression, by an automaton."""
    text = "".join(parts)
    assert matcher(elements_of(pattern))(text) == simulated_like(text, pattern)


@given(
    st.lists(long_pieces | st.just("%"), max_size=5).map("".join),
    st.lists(long_pieces, max_size=5).map("".join),
)
def test_a_text_that_was_made_of_the_pattern_matches(pattern: str, between: str) -> None:
    """Whatever stands for the wildcards."""
    text = pattern.replace("%", between.replace("_", "x")).replace("_", "y")
    assert matcher(elements_of(pattern))(text)


HOSTILE = {
    "repeated": "a" * 4096,
    "digits": "0" * 4095 + "x",
    "wide": "Σ" * 4096,
    "spaces": "\u2003" * 2048 + "a" + "\u2003" * 2047,
}


@pytest.mark.parametrize(
    "text",
    [
        " OR ".join(f"a LIKE '%_{number}'" for number in range(100)),
        " OR ".join(f"a LIKE '%aa{number}aa%'" for number in range(60)),
        f"a LIKE '%{'_a' * 100}b%'",
        f"a LIKE '%a_{'a' * 90}b%'",
        f"a LIKE '%{'a' * 50}b{'a' * 49}%'",
        f"a LIKE '%{'a%' * 500}b'",
        f"a LIKE '%{'a_a%' * 200}b%'",
        f"CONCAT({','.join(['a'] * 15)}) LIKE '%a_ab%'",
        " OR ".join(["LOWER(CONCAT(a, a, a, a)) = 'b'"] * 30),
        f"{'UPPER(' * 60}a{')' * 60} = 'b'",
        "TRIM(a) = 'b'",
        f"1 IN ({','.join(['a'] * 250)})",
        " OR ".join(["a = 1"] * 127),
        " OR ".join(["a"] * 255),
        " OR ".join(["BOOL(a)"] * 100),
    ],
)
def test_an_evaluation_takes_no_longer_than_estimated(text: str) -> None:
    """The best of several runs, for texts that are made for it; with room for a slow machine."""
    expression = parse(text)
    estimated = expression.time(4096) / 1e9
    for hostile in HOSTILE.values():
        runs = timeit.repeat(
            lambda: expression.holds(lambda name: hostile),  # noqa: B023 - it is called here
            timer=time.thread_time,
            number=1,
            repeat=5,
        )
        assert min(runs) < 4 * estimated


def test_casts_of_long_texts_are_quick() -> None:
    """A text that can't be a number or a Boolean isn't read as a whole each time."""
    expression = parse(" OR ".join(["CONCAT(a, a, a, a, a, a, a, a) = 1"] * 5))
    begun = time.thread_time()
    expression.holds(lambda name: "0" * 4095 + "x")
    assert time.thread_time() - begun < 0.1


def test_weight_bounds_what_an_expression_takes() -> None:
    """In memory, its closures included."""
    for text in (
        "a = 'x'",
        " OR ".join(["a='x'"] * 127),
        f"a IN ({','.join(['b'] * 250)})",
        " OR ".join(f"a LIKE '%_{number}'" for number in range(100)),
        " OR ".join([f"a LIKE '%{'_%' * 300}'"] * 4),
        f"a LIKE '%_a_{''.join(map(chr, range(200, 1100)))}%'",
        f"a = '{'x' * 4000}'",
    ):
        parse(text)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            kept = [Expression(text, tree_of(text)) for _ in range(3)]
            held = (tracemalloc.get_traced_memory()[0] - before) / 3
        finally:
            tracemalloc.stop()
        assert held <= 1.1 * kept[0].weight, text


# What isn't an expression


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("", 1, 1, "expected a value, but the expression ends"),
        ("type =", 1, 7, "expected a value, but the expression ends"),
        ("type = )", 1, 8, "expected a value, but found ')'"),
        ("type ==\n 'x'", 1, 7, "write = to compare, not =="),
        ("type = 'x' == 'y'", 1, 13, "write = to compare, not =="),
        ("= a", 1, 1, "expected a value, but found '='"),
        ("a && b", 1, 3, "there is no '&'; write AND"),
        ("a || b", 1, 3, "there is no '|'; write OR"),
        ("!a", 1, 1, "there is no '!'; write NOT"),
        ("a ilike 'x%'", 1, 3, "write LIKE, with LOWER() around the attribute"),
        ("a IS NOT NULL", 1, 3, "write EXISTS name, or NOT EXISTS name"),
        ("a BETWEEN 1 AND 2", 1, 3, "write name >= 1 AND name <= 9"),
        ("is = 'a' AND between = 'b' AND ilike & 1", 1, 38, "there is no '&'; write AND"),
        ("a b", 1, 3, "expected an operator or the end of the expression, but found 'b'"),
        (
            "a =\n b &",
            2,
            4,
            "there is no '&'; write AND",
        ),
        ("\n\n", 3, 1, "expected a value, but the expression ends"),
        ("f(1", 1, 4, "expected ',' or ')', but the expression ends"),
        ("f(", 1, 3, "expected a value or ')', but the expression ends"),
        ("(a", 1, 3, "expected ')', but the expression ends"),
        ("(a b)", 1, 4, "expected an operator or ')', but found 'b'"),
        ("a)", 1, 2, "this ')' has no opening '('"),
        ("a IN ()", 1, 7, "expected a value, but found ')'"),
        ("a IN 'x'", 1, 6, "expected '(', but found \"'x'\""),
        ("a NOT = 1", 1, 7, "expected LIKE or IN, but found '='"),
        ("a LIKE 5", 1, 8, "expected a string in quotes, but found '5'"),
        ("a LIKE b", 1, 8, "expected a string in quotes, but found 'b'"),
        ("EXISTS 'a'", 1, 8, "expected an attribute name, but found"),
        ("EXISTS (a)", 1, 8, "expected an attribute name, but found"),
        ("in = 1", 1, 1, "expected a value, but found 'in'"),
        ("+ 5", 1, 1, "expected a value, but found '+'"),
        ("+a", 1, 1, "expected a value, but found '+'"),
        ("my_name = 1", 1, 1, "'my_name' is not a valid attribute name; use letters and digits"),
        ("EXISTS a_1", 1, 8, "'a_1' is not a valid attribute name; use letters and digits"),
        ("f1(a)", 1, 3, "expected an operator or the end of the expression, but found '('"),
        ("é = 1", 1, 1, "expected a value, but found 'é'"),
        ("EXI\u017fTS a", 1, 4, "but found '\u017f'"),
        ("a\u00a0= 1", 1, 2, r"but found '\xa0'"),
        ("\x00", 1, 1, r"but found '\x00'"),
        ("\ud800", 1, 1, r"but found '\ud800'"),
        ("a = 'x", 1, 5, "the string that starts here has no closing '"),
        ('a = "x\\"', 1, 5, 'the string that starts here has no closing "'),
        ("a = 'it''s'", 1, 9, r"write a ' inside a string as \'"),
        ("a = 2147483648", 1, 5, "'2147483648' does not fit a 32-bit integer"),
        ("a = - 2147483648", 1, 7, "'2147483648' does not fit a 32-bit integer"),
        ("1-2147483648", 1, 3, "'2147483648' does not fit a 32-bit integer"),
        ("9" * 4000, 1, 1, f"'{'9' * 37}'... does not fit a 32-bit integer"),
        ("a OR b\nAND c", 2, 1, "OR and AND can't be mixed without parentheses; add parentheses"),
        ("a and b and c xor d", 1, 15, "AND and XOR can't be mixed without parentheses"),
        ("x = (a or b and c)", 1, 13, "OR and AND can't be mixed without parentheses"),
        ("a" * (MAX_LENGTH + 1), 1, 1, "at most 4096 characters, not 4097"),
        ("(" * 1_000_000, 1, 1, "at most 4096 characters, not 1000000"),
        ("(" * 4000, 1, MAX_DEPTH + 1, "parentheses may be nested at most 64 levels deep"),
        ("f(" * 2000, 1, 2 * MAX_DEPTH + 2, "parentheses may be nested at most 64 levels deep"),
        ("NOT " * 100 + "a", 1, 145, "operators and functions may be nested at most 64 levels deep"),
        ("-" * 400 + "a", 1, 337, "operators and functions may be nested at most 64 levels deep"),
        (
            "1" + "+1" * 2000,
            1,
            2 * MAX_DEPTH,
            "operators and functions may be nested at most 64 levels deep",
        ),
        ("a" + " LIKE ''" * 400, 1, 507, "operators and functions may be nested at most 64 levels deep"),
        ("a IN (" + "1," * 1000 + "1)", 1, 516, "at most 512 words"),
        ("a LIKE '%" + "_" * MAX_PATTERN + "'", 1, 8, "a pattern may have at most 1024 characters"),
    ],
)
def test_refusals(text: str, line: int, column: int, words: str) -> None:
    """They say where, what is wrong and what would be right, in words of the language."""
    with pytest.raises(ParseError) as raised:
        parse(text)
    error = raised.value
    assert (error.line, error.column) == (line, column)
    assert words in error.reason
    assert str(error) == f"line {line}, column {column}: {error.reason}"
    assert evaluate(text, EVENT) == Result(False, (Error("parse", str(error)),))


@pytest.mark.parametrize(
    "text",
    [
        "(" * MAX_DEPTH + "true" + ")" * MAX_DEPTH,
        "NOT " * (MAX_DEPTH - 2) + "true",
        "1" + "*1" * (MAX_DEPTH - 2) + " = 1",
        " AND ".join(["true"] * 250),
        " OR ".join(["false"] * 250 + ["true"]),
        "3 IN (" + "1, " * 250 + "3)",
        "x = 'x' OR (x != 'x' AND true) OR (x = 'x' XOR true)",
    ],
)
def test_what_is_within_the_limits(text: str) -> None:
    """Chains of AND, OR and XOR, lists and arguments are not nested, however long they are."""
    assert parse(text).holds({"x": "x"}.get)


def test_results_of_functions_are_bounded() -> None:
    """Each call below triples a text, and there is an error before the memory is gone."""
    text = "'aaa'"
    for _ in range(38):
        text = f"CONCAT_WS({text}, '', '', '')"
    check(text, "", "functionEvaluation")
    half = {"x": "x" * (MAX_TEXT // 2)}
    assert evaluate("LENGTH(CONCAT(x, x))", half) == Result(MAX_TEXT)
    assert evaluate("CONCAT(x, x, 'y')", half).errors[0].message.endswith(f"not {MAX_TEXT + 1}")


def test_values_in_messages_are_cut() -> None:
    """An attribute may be long; a message isn't."""
    (error,) = evaluate("INT(x)", {"x": "x" * 10_000}).errors
    assert error.message == f"'{'x' * 37}'... is not a 32-bit integer"


@given(st.text() | st.text("()'\"\\%_ \n=<>!+-*/,aB01", max_size=60))
def test_any_text_has_an_answer(text: str) -> None:
    """A value of the three types and errors of the seven kinds, whatever the text."""
    result = evaluate(text, EVENT)
    assert type(result.value) in {bool, int, str}
    assert all(type(error.message) is str for error in result.errors)


# Properties of valid expressions

NAMES = ["a", "b", "c"]
TEXTS = ["", "x", "xy", "yx", "true", "FALSE", "5", "05", "-1"]
literals = st.sampled_from(
    [*(f"'{text}'" for text in TEXTS), "0", "5", "-1", "2147483647", "TRUE", "false"]
)
patterns = st.text("xy%_", max_size=4)
nots = st.sampled_from(["", "NOT "])
operators = st.sampled_from(["=", "!=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%"])
connectives = st.sampled_from(["AND", "OR", "XOR"])
names = st.sampled_from(NAMES)
simple = st.one_of(
    literals,
    names,
    names.map("EXISTS {}".format),
    st.builds("{} = {}".format, names, literals),
    st.builds("{} = {}".format, literals, names),
    st.builds("{} {}LIKE '{}'".format, names, nots, patterns),
    st.builds("{} {}IN ({}, {})".format, names, nots, literals, literals),
)
expressions = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.builds("({}) {} ({})".format, inner, operators, inner),
        st.builds("({}) AND ({})".format, inner, inner),
        st.builds("({}) {} ({})".format, inner, connectives, inner),
        st.builds("({}) {}IN (({}), {})".format, inner, nots, inner, literals),
        st.builds("({}) {}LIKE '{}'".format, inner, nots, patterns),
        st.builds("NOT ({})".format, inner),
        st.builds("-({})".format, inner),
        st.builds("CONCAT({}, {})".format, inner, inner),
        st.builds("SUBSTRING({}, {})".format, inner, inner),
    ),
    max_leaves=6,
)
events = st.dictionaries(names, st.sampled_from([*TEXTS, 0, 5, -1, True, False]))


@given(expressions, events)
def test_holds_is_true_and_no_error(text: str, event: dict[str, object]) -> None:
    """As section 1.2 has it for filters; `explain` comes to the same by its parts."""
    expression = parse(text)
    result = expression.evaluate(event.get)
    assert expression.holds(event.get) == (result.value is True and not result.errors)
    assert expression.holds(event.get) == all(part.held for part in expression.explain(event.get))


@given(expressions, events)
def test_conditions_are_sound(text: str, event: dict[str, object]) -> None:
    """Where one of them doesn't hold, the expression doesn't; where it is all, it decides."""
    expression = parse(text)
    found = [holds(condition, event) for condition in expression.conditions()]
    if expression.holds(event.get):
        assert all(found)
    if expression.is_one_condition:
        assert found == [expression.holds(event.get)]


def holds(condition: Condition, event: dict[str, object]) -> bool:
    """The meaning of `Condition` in words."""
    value = event.get(condition.name)
    if value is None:
        return False
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if condition.kind == "exact":
        return text in condition.texts
    return (text.startswith if condition.kind == "prefix" else text.endswith)(condition.texts)


@given(connectives, st.lists(simple, min_size=3, max_size=4), events)
def test_chains_group_from_the_left(connective: str, parts: list[str], event: dict[str, object]) -> None:
    """Parentheses around what is on the left change neither the value nor the errors."""
    grouped = parts[0]
    for part in parts[1:]:
        grouped = f"({grouped}) {connective} {part}"
    assert evaluate(f" {connective} ".join(parts), event) == evaluate(grouped, event)


@given(st.sampled_from(TEXTS), literals, literals, patterns, nots)
def test_the_short_way_leads_where_the_general_does(
    text: str, one: str, other: str, pattern: str, negation: str
) -> None:
    """It is taken for attributes alone, so not for the same text out of a function."""
    for rest in (
        f"= {one}",
        f"<> {one}",
        f"{negation}IN ({one}, {other})",
        f"{negation}LIKE '{pattern}'",
    ):
        assert evaluate(f"x {rest}", {"x": text}) == evaluate(f"STRING(x) {rest}", {"x": text}), rest


integers = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([-(2**31), -1, 1, 2**31 - 1])


@given(integers, integers.filter(bool))
@example(-(2**31), -1)
def test_division(x: int, y: int) -> None:
    """It rounds towards 0; the remainder is what is left, with the sign of what was divided."""
    quotient, remainder = abs(x) // abs(y), abs(x) % abs(y)
    event = {"x": x, "y": y}
    if quotient < 2**31 or x ^ y < 0:
        assert evaluate("x / y", event) == Result(quotient if (x < 0) == (y < 0) else -quotient)
    assert evaluate("x % y", event) == Result(-remainder if x < 0 else remainder)


# What an index is told, and people are


@pytest.mark.parametrize(
    ("text", "conditions", "whole"),
    [
        ("type = 'a'", [("exact", "type", ("a",))], True),
        ("(('a' = Type))", [("exact", "type", ("a",))], True),
        ("type LIKE 'a.%'", [("prefix", "type", ("a.",))], True),
        ("type LIKE '%.a'", [("suffix", "type", (".a",))], True),
        (r"type LIKE 'a\%'", [("exact", "type", ("a%",))], True),
        ("type LIKE ''", [("exact", "type", ("",))], True),
        ("type IN ('a', 'b', 'a')", [("exact", "type", ("a", "b"))], True),
        ("type LIKE 'a%b'", [("prefix", "type", ("a",)), ("suffix", "type", ("b",))], False),
        ("type LIKE 'a_'", [("prefix", "type", ("a",))], False),
        ("type LIKE 'a%_%'", [("prefix", "type", ("a",))], False),
        ("type LIKE '%'", [], False),
        ("type LIKE '%a%'", [], False),
        (
            "type = 'a' AND (n = 5 AND subject LIKE 'x%') AND 1 = 1",
            [("exact", "type", ("a",)), ("prefix", "subject", ("x",))],
            False,
        ),
        ("type = 'a' OR type = 'b'", [], False),
        ("NOT (type = 'a')", [], False),
        ("type != 'a'", [], False),
        ("type = 5", [], False),
        ("n = '05'", [("exact", "n", ("05",))], True),
        ("'05' = n", [], False),
        ("'5' = n", [("exact", "n", ("5",))], True),
        ("n IN ('a', 'b')", [("exact", "n", ("a", "b"))], False),
        ("n IN ('+5')", [], False),
        ("n IN ('TRUE', 'x')", [], False),
        ("type IN ('a', 5)", [], False),
        ("type IN ('a', subject)", [], False),
        ("type NOT IN ('a')", [], False),
        ("type NOT LIKE 'a%'", [], False),
        ("UPPER(type) = 'A'", [], False),
        ("EXISTS type", [], False),
    ],
)
def test_conditions(text: str, conditions: list[Any], whole: bool) -> None:
    """They come from comparisons of attributes with texts, ANDed at the top."""
    expression = parse(text)
    assert expression.conditions() == [Condition(*condition) for condition in conditions]
    assert expression.is_one_condition is whole


def test_explain() -> None:
    """The parts in their own words, each with what it gave, those behind a false one included."""
    parts = parse("type = 'x' AND (count > 5 AND NOT (old)) AND\n(missing + 1) AND flag").explain(
        EVENT.get
    )
    assert [(part.source, part.value, part.held) for part in parts] == [
        ("type = 'x'", False, False),
        ("count > 5", True, True),
        ("NOT (old)", True, True),
        ("(missing + 1)", False, False),
        ("flag", True, True),
    ]
    assert [error.kind for part in parts for error in part.errors] == ["missingAttribute"]
    (whole,) = parse(" flag ").explain(EVENT.get)
    assert (whole.source, whole.value, whole.held) == ("flag", "TRUE", False)


def test_expressions_are_values() -> None:
    """Equal when the text is, hashable, immutable; evaluating changes nothing."""
    one, same, other = parse("type = 'a'"), parse("type = 'a'"), parse("type='a'")
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert repr(one) == "parse(\"type = 'a'\")"
    with pytest.raises(AttributeError):
        one.source = "x"  # type: ignore[misc] # a mistake on purpose


def test_only_booleans_pass() -> None:
    """An expression of another type lets no event pass, even if it would cast to true."""
    assert parse("urgent").holds(EVENT.get)
    assert not parse("flag").holds(EVENT.get)
    assert not parse("1").holds(EVENT.get)


def test_the_cache_is_bounded_by_weight() -> None:
    """The least recently used goes. Neither a too heavy one nor a failed one is kept."""
    made: list[str] = []

    def make(text: str) -> int:
        made.append(text)
        return int(text)

    cache = Cache(make, lambda _, value: value, 10)
    assert [cache(text) for text in ("4", "5", "4", "3", "4", "5", "11", "11")] == [
        *(4, 5, 4, 3, 4, 5, 11, 11)
    ]
    assert made == ["4", "5", "3", "5", "11", "11"]
    assert (cache.weight, len(cache)) == (9, 2)
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            cache("x")
    assert made[-2:] == ["x", "x"]


def test_the_cache_in_several_threads() -> None:
    """It stays consistent when threads ask at once. Stores read audiences in a thread of their own."""
    cache = Cache(int, lambda _, value: value, 50)

    def ask(seed: int) -> bool:
        numbers = random.Random(seed).choices(range(20), k=2000)
        return [cache(str(number)) for number in numbers] == numbers

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(8)))
    assert cache.weight == sum(value for value, _ in cache._kept.values()) <= 50


def test_what_strangers_say_is_not_remembered_for_long() -> None:
    """Hundreds of the longest expressions weigh no more together than a few of them."""
    for number in range(30):
        parse(" OR ".join(f"a{number}x{at} = 'x'" for at in range(120)))
        assert expression._parsed.weight <= expression.MAX_REMEMBERED
    assert parse("type = 'a'") is parse("type = 'a'")


def test_it_stands_alone() -> None:
    """The package imports nothing else of trionotify."""
    for path in Path(trionotify.cesql.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trionotify"):
                assert (node.module or "").startswith("trionotify.cesql"), path
