"""Rights to publish: no audience gets past a condition on the recipient."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trionotify import EVERYTHING, NOTHING, AllOf, AnyOf, Exact, Not, Notification, Prefix, Refused, Sql
from trionotify.delivery.rights import Rights
from trionotify.model.predicates import Wanted

NOT_BOSS = ~Exact(to="boss")
TO_BOSS = Exact(id="boss")


def allows(right: Wanted, **attributes: Any) -> bool:
    try:
        Rights(publish=right).check_publish(Notification.of("x", **{"type": "t", **attributes}))
    except Refused:
        return False
    return True


@pytest.mark.parametrize(
    ("right", "attributes", "allowed"),
    [
        (NOT_BOSS, {"to": "al"}, True),
        (NOT_BOSS, {"to": "boss"}, False),
        (NOT_BOSS, {}, True),
        (NOT_BOSS, {"audience": TO_BOSS}, False),
        (NOT_BOSS, {"audience": ~Exact(id="zoe")}, False),
        (NOT_BOSS, {"audience": lambda client: client.id == "boss"}, False),
        (NOT_BOSS, {"to": "al", "audience": TO_BOSS}, True),
        (Exact(to="al"), {"to": "al", "audience": TO_BOSS}, True),
        (Exact(to="al"), {"audience": Exact(id="al")}, False),
        (Exact(to="al"), {}, False),
        (~Prefix(to="b"), {"audience": TO_BOSS}, False),
        (Sql("NOT EXISTS to"), {}, True),
        (Sql("NOT EXISTS to"), {"audience": TO_BOSS}, False),
        (~Sql("to = 'boss'"), {"audience": TO_BOSS}, False),
        (Exact(type="t"), {"audience": TO_BOSS}, True),
        (~Exact(type="u"), {"audience": TO_BOSS}, True),
        (EVERYTHING, {"audience": TO_BOSS}, True),
        (NOTHING, {"audience": TO_BOSS}, False),
        (Exact(type="t") | NOT_BOSS, {"audience": TO_BOSS}, True),
        (NOT_BOSS | Exact(type="t"), {"audience": TO_BOSS}, True),
        (NOT_BOSS | Exact(type="u"), {"audience": TO_BOSS}, False),
        (NOT_BOSS & Exact(type="t"), {"audience": TO_BOSS}, False),
        (~Exact(to="boss", type="u"), {"audience": TO_BOSS}, True),
        (~Exact(to="boss", type="t"), {"audience": TO_BOSS}, False),
    ],
)
def test_a_condition_on_the_recipient(right: Wanted, attributes: dict[str, Any], allowed: bool) -> None:
    """It decides only on events that have one; an audience alone could select any client."""
    assert allows(right, **attributes) == allowed


def test_what_the_publisher_is_told() -> None:
    """What to do, if it is the recipient that matters."""
    for right, said in ((NOT_BOSS, True), (Exact(type="u"), False)):
        with pytest.raises(Refused) as refused:
            Rights(publish=right).check_publish(Notification("x", audience=TO_BOSS))
        hint = "; that depends on to, so give the event a to beside its audience"
        assert refused.value.detail.endswith(hint) == said


CONDITIONS = st.one_of(
    st.sampled_from("ab").map(lambda text: Exact(to=text)),
    st.sampled_from("tu").map(lambda text: Exact(type=text)),
    st.sampled_from("ab").map(lambda text: Exact(to=text, type="t")),
    st.sampled_from(["to = 'a'", "EXISTS to", "type = 't'", "to = 'a' OR type = 'u'"]).map(Sql),
)
RIGHTS = st.recursive(
    CONDITIONS,
    lambda parts: st.one_of(
        parts.map(Not),
        st.lists(parts, min_size=1, max_size=3).map(AllOf),
        st.lists(parts, min_size=1, max_size=3).map(AnyOf),
    ),
    max_leaves=6,
)


@given(RIGHTS)
def test_what_it_allows_to_an_audience_it_allows_to_each(right: Wanted) -> None:
    """With whatever recipient, and with none. What doesn't depend on that is as it was."""
    each = [allows(right, **attributes) for attributes in ({}, {"to": "a"}, {"to": "b"}, {"to": "c"})]
    if allows(right, audience=TO_BOSS):
        assert all(each)
    if "to" not in str(right):
        assert allows(right, audience=TO_BOSS) == each[0]
