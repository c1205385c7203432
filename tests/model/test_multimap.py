"""Bags: several items per key, and no more than one dict for many of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trionotify.model.multimap import Bags, Few, with_item, without_item

steps = st.lists(st.tuples(st.booleans(), st.sampled_from("ab"), st.integers(0, 3)), max_size=30)


@given(steps)
def test_like_a_dict_of_dicts(steps: list[tuple[bool, str, int]]) -> None:
    """Whatever is added and removed, in the order in which it came."""
    bags: Bags[str, int] = Bags()
    model: dict[str, dict[int, None]] = {}
    for add, key, item in steps:
        if add:
            bags.add(key, item)
            model.setdefault(key, {})[item] = None
        elif item in model.get(key, ()):
            bags.remove(key, item)
            del model[key][item]
        else:
            with pytest.raises(KeyError):
                bags.remove(key, item)
        for name in "ab":
            assert list(bags.get(name)) == list(model.get(name, ()))
            assert bags.count(name) == len(model.get(name, ()))
        assert bool(bags) == any(model.values())


@given(st.lists(st.integers(0, 3), max_size=20))
def test_a_few_items_are_like_a_dict(items: list[int]) -> None:
    """In the order in which they came. An item that is there already is removed."""
    few: Few[int] = ()
    model: dict[int, None] = {}
    for item in items:
        if item in model:
            few = without_item(few, item)
            del model[item]
        else:
            few = with_item(few, item)
            model[item] = None
        assert list(few) == list(model)
