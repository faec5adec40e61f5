"""Arithmetic expressions: a grammar for hostile text, exact values, canonical forms."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polychromic.tasks.expressions import (
    Leaf,
    Operation,
    canonical,
    commuted,
    numbers_used,
    parse,
    render,
    value,
)

expressions = st.recursive(
    st.integers(1, 9).map(Leaf),
    lambda parts: st.builds(Operation, st.sampled_from("+-*/"), parts, parts),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1+2*3", 7), ("(1+2)*3", 9), ("8/4/2", 1), ("8-4-2", 2), ("8/(3-8/3)", 24), ("1 / 3", Fraction(1, 3))],
)
def test_values_are_exact(text, expected):
    assert value(parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "character 1"),
        ("1+", "character 3"),
        ("(1", "')'"),
        ("1)", "character 2"),
        ("-1", "character 1"),
        ("1**2", "character 3"),
        ("__import__('os')", "character 1"),
        ("٣+1", "character 1"),
        ("1" * 200, "200"),
    ],
)
def test_what_is_no_expression_is_refused_with_its_place(text, place):
    with pytest.raises(ValueError, match=place.replace(")", r"\)").replace("(", r"\(")):
        parse(text)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text):
    try:
        parse(text)
    except ValueError as error:
        assert str(error)


@given(expressions)
def test_rendering_keeps_the_meaning(expression):
    again = parse(render(expression)) if len(render(expression)) <= 120 else expression
    assert canonical(again) == canonical(expression)
    assert numbers_used(again) == numbers_used(expression)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1+2", "2+1"),
        ("2*3+4", "4+3*2"),
        ("8-(3-2)", "8-3+2"),
        ("8-3+2", "2+8-3"),
        ("6/2/3", "6/(2*3)"),
        ("(1+2)*(3+4)", "(4+3)*(2+1)"),
        ("6/(2/3)", "6*3/2"),
    ],
)
def test_reordered_and_regrouped_chains_are_one_answer(one, other):
    assert canonical(parse(one)) == canonical(parse(other))


def test_swapped_operands_alone_are_one_answer_where_asked_for():
    forms = [commuted(parse(text)) for text in ("8-3+2", "2+(8-3)", "8-(3-2)", "2+8-3", "8+2-3")]
    assert forms == ["((8-3)+2)", "((8-3)+2)", "(8-(3-2))", "((2+8)-3)", "((2+8)-3)"]
    assert commuted(parse("(2+1)*(4+3)")) == commuted(parse("(3+4)*(1+2)")) == "((1+2)*(3+4))"
    assert commuted(parse("6/2")) != commuted(parse("2/6"))


@pytest.mark.parametrize(("one", "other"), [("2*3", "3+3"), ("8-3", "3-8"), ("6/2", "2/6"), ("1+2*3", "(1+2)*3")])
def test_different_ways_stay_different(one, other):
    assert canonical(parse(one)) != canonical(parse(other))


@given(expressions)
def test_equal_canonical_forms_have_equal_values(expression):
    try:
        expected = value(expression)
        form = canonical(expression)
    except ZeroDivisionError:
        return
    swapped = _swap_commuting(expression)
    assert canonical(swapped) == form
    assert commuted(swapped) == commuted(expression)
    assert value(swapped) == expected


def _swap_commuting(expression):
    if isinstance(expression, Leaf):
        return expression
    left, right = _swap_commuting(expression.left), _swap_commuting(expression.right)
    if expression.operator in "+*":
        left, right = right, left
    return Operation(expression.operator, left, right)
