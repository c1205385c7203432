"""CloudEvents SQL (CESQL) 1.0.0: expressions over the attributes of an event.

    text --parse--> tree --compiled once--> closures --evaluate, holds--> value and errors

The language is total: every expression has a value for every event, and beside it the errors that
came up. Nothing here raises because of an event; only `parse` raises, `ParseError`, and only for a text
that is no expression. An error doesn't end the evaluation (section 4.1, "complete evaluation mode"):
the failing part gets the value that the specification names, and what is around it goes on with that.
As a filter (section 1.2) an expression lets an event pass if its value is True and there was no error
at all: that is `Expression.holds`.

What the modules do, in reading order; each imports only from those above it:

| module | is about |
| --- | --- |
| `values` | values, errors, the table of casts |
| `patterns` | what LIKE matches, in linear time |
| `tree` | what a parsed expression is made of |
| `mistakes` | words for what is wrong with a text |
| `grammar` | text to tree |
| `functions` | the built-in functions |
| `operators` | what the operators mean |
| `closures` | tree to closures |
| `costs` | how long an evaluation may take, what an expression weighs |
| `conditions` | what must hold of an event for an expression to hold, for an index |
| `cache` | what is remembered, within bounds |
| `expression` | `Expression`, which ties these together |

Texts come from strangers, so all is bounded: the length and the depth of an expression, a pattern's
length, and the length of a text that functions put together. Over one of the first three, a text is no
expression; over the last, a function fails. The error names the limit.

In two places this is stricter than the specification, which contradicts itself there or is silent. A mix
of AND, OR and XOR at one level is refused until it has parentheses: from the left, says the prose, from
the right, the grammar, and people think of AND first. And arithmetic that leaves 32 bits is an error,
not another number. Left out are functions of one's own (a SHOULD).
"""

from trionotify.cesql.conditions import Condition
from trionotify.cesql.expression import Expression, Part, evaluate, parse
from trionotify.cesql.grammar import MAX_LENGTH, MAX_WORDS
from trionotify.cesql.mistakes import ParseError
from trionotify.cesql.patterns import MAX_PATTERN
from trionotify.cesql.tree import MAX_DEPTH
from trionotify.cesql.values import MAX_TEXT, Error, Get, Kind, Result, Value

__all__ = [
    "MAX_DEPTH",
    "MAX_LENGTH",
    "MAX_PATTERN",
    "MAX_TEXT",
    "MAX_WORDS",
    "Condition",
    "Error",
    "Expression",
    "Get",
    "Kind",
    "ParseError",
    "Part",
    "Result",
    "Value",
    "evaluate",
    "parse",
]
