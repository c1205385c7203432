"""CloudEvents SQL (CESQL) 1.0.0: expressions over the attributes of an event.

    text --parse--> tree --compiled once--> closures --evaluate, holds--> value and errors

The language is total. Every expression has a value for every event, together with the errors that
occurred. Nothing here raises because of an event. Only `parse` raises `ParseError`, for an invalid text.
An error doesn't end the evaluation (section 4.1, "complete evaluation mode"). The failing part gets the
value that the specification names, and the surrounding expression continues with that. As a filter
(section 1.2) an expression lets an event pass if its value is True and there was no error. That is
`Expression.holds`.

The modules in reading order; each imports only from those above it:

| module | is about |
| --- | --- |
| `values` | values, errors, the table of casts |
| `patterns` | the patterns of LIKE, in linear time |
| `tree` | the nodes of a parsed expression |
| `mistakes` | error messages for invalid texts |
| `grammar` | text to tree |
| `functions` | the built-in functions |
| `operators` | the operators |
| `closures` | tree to closures |
| `costs` | the time of an evaluation, the memory of an expression |
| `conditions` | necessary conditions of an expression, for an index |
| `cache` | a bounded cache |
| `expression` | `Expression`, which ties these together |

Texts come from strangers, so there are limits on the length and the depth of an expression, on a
pattern's length, and on the length of a text that functions build. Over one of the first three, a text
is invalid; over the last, a function fails. The error names the limit.

In two places this is stricter than the specification, which contradicts itself there or is silent. A mix
of AND, OR and XOR at one level is refused until it has parentheses, because it is ambiguous. The
specification's prose evaluates it from the left, its grammar from the right, and people expect AND
first. And arithmetic that leaves 32 bits is an error, not another number. User-defined functions (a
SHOULD) are left out.
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
