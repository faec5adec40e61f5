"""Reads infix arithmetic from hostile text, with exact values and a canonical form that ignores the order of operands.

Model output is never evaluated as code: it is read by the small grammar below and computed with fractions.

    sum     := product (("+" | "-") product)*
    product := factor (("*" | "/") factor)*
    factor  := NUMBER | "(" sum ")"
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial, reduce

MAX_CHARACTERS = 120
"""Longer texts are no answer to a four-number problem; refusing them bounds time and recursion depth."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One of the given numbers."""

    value: int


@dataclass(frozen=True, slots=True)
class Operation:
    """A binary operation; `operator` is one of + - * /."""

    operator: str
    left: Expression
    right: Expression


Expression = Leaf | Operation


def parse(text: str) -> Expression:
    """Reads an infix expression; raises ValueError that says what is wrong where."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"expression has {len(text)} characters, at most {MAX_CHARACTERS} are read")
    reader = _Reader(text)
    expression = reader.sum()
    reader.end()
    return expression


def parse_signed(text: str) -> Expression:
    """Reads an expression of any length with signs before its parts and any white space, as other readers take it.

    Signs are worked in: `-3+5` is `5-3`, `(-3)*(-5)` is `3*5`. Raises ValueError where one is left over for the whole.
    """
    reader = _SignedReader(" ".join(text.split()))
    is_negative, expression = reader.signed_sum()
    reader.end()
    if is_negative:
        raise ValueError("the value is that of a negative expression")
    return expression


def numbers_used(expression: Expression) -> list[int]:
    """Returns the numbers of an expression, sorted."""
    if isinstance(expression, Leaf):
        return [expression.value]
    return sorted(numbers_used(expression.left) + numbers_used(expression.right))


def value(expression: Expression) -> Fraction:
    """Computes the exact value; raises ZeroDivisionError."""
    if isinstance(expression, Leaf):
        return Fraction(expression.value)
    left, right = value(expression.left), value(expression.right)
    match expression.operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case _:
            return left / right


def canonical(expression: Expression) -> str:
    """Returns a text that two expressions share exactly when reordering and regrouping of + − and × ÷ chains makes them
    equal.

    Sums are flattened to signed terms and products to factors and divisors, each sorted:
    `8-(3-2)*1` and `8-1*(3-2)` are one answer, `2*3+4` and `4+3*2` too; `2*3` and `3+3` are not.
    """
    if isinstance(expression, Leaf):
        return str(expression.value)
    return _chain(expression, "+-" if expression.operator in "+-" else "*/")


def commuted(expression: Expression) -> str:
    """Returns a text that two expressions share exactly when swapping operands of + and × makes them equal.

    Finer than `canonical`: `8-3+2` and `2+(8-3)` are one answer, `8-(3-2)` is another.
    """
    if isinstance(expression, Leaf):
        return str(expression.value)
    left, right = commuted(expression.left), commuted(expression.right)
    if expression.operator in "+*":
        left, right = sorted((left, right))
    return f"({left}{expression.operator}{right})"


def render(expression: Expression) -> str:
    """Writes infix text with only the parentheses that the grammar needs."""
    if isinstance(expression, Leaf):
        return str(expression.value)
    left, right = render(expression.left), render(expression.right)
    if expression.operator in "*/" and _is_sum(expression.left):
        left = f"({left})"
    if (expression.operator in "*/" and isinstance(expression.right, Operation)) and (
        _is_sum(expression.right) or expression.operator == "/"
    ):
        right = f"({right})"
    if expression.operator == "-" and _is_sum(expression.right):
        right = f"({right})"
    return f"{left}{expression.operator}{right}"


def _is_sum(expression: Expression) -> bool:
    return isinstance(expression, Operation) and expression.operator in "+-"


def _chain(expression: Expression, operators: str) -> str:
    """Returns the canonical form of a chain of one precedence: `operators[0]` joins, `operators[1]` inverts."""
    plain: list[str] = []
    inverted: list[str] = []

    def collect(node: Expression, inverse: bool) -> None:
        if isinstance(node, Operation) and node.operator in operators:
            collect(node.left, inverse)
            collect(node.right, inverse ^ (node.operator == operators[1]))
        else:
            (inverted if inverse else plain).append(canonical(node))

    collect(expression, inverse=False)
    parts = [operators[0] + part for part in sorted(plain)] + [operators[1] + part for part in sorted(inverted)]
    return "(" + "".join(parts) + ")"


class _Reader:
    """Recursive descent over a text; spaces between tokens are skipped."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def sum(self) -> Expression:
        return self.chain("+-", self.product)

    def product(self) -> Expression:
        return self.chain("*/", self.factor)

    def chain(self, operators: str, operand: Callable[[], Expression]) -> Expression:
        expression = operand()
        while (operator := self.take(operators)) is not None:
            expression = Operation(operator, expression, operand())
        return expression

    def factor(self) -> Expression:
        if self.take("(") is not None:
            expression = self.sum()
            if self.take(")") is None:
                raise ValueError(f"expected ')' at character {self.position + 1}")
            return expression
        digits = ""
        self.skip_spaces()
        # str.isdigit would accept other scripts' digits, which no task asks for.
        while self.position < len(self.text) and self.text[self.position] in "0123456789":
            digits += self.text[self.position]
            self.position += 1
        if not digits:
            raise ValueError(f"expected a number or '(' at character {self.position + 1}")
        return Leaf(int(digits))

    def take(self, characters: str) -> str | None:
        """Consumes and returns the next character if it is one of `characters`."""
        self.skip_spaces()
        if self.position < len(self.text) and self.text[self.position] in characters:
            self.position += 1
            return self.text[self.position - 1]
        return None

    def skip_spaces(self) -> None:
        while self.position < len(self.text) and self.text[self.position] == " ":
            self.position += 1

    def end(self) -> None:
        self.skip_spaces()
        if self.position != len(self.text):
            raise ValueError(f"unexpected text from character {self.position + 1}")


class _SignedReader(_Reader):
    """Reads each part with its sign apart. A sum begins with a term that is added, where it has one; a minus before a
    sum, or before a product with one in it, turns the sum around."""

    def signed_sum(self) -> tuple[bool, Expression]:
        terms = [self.signed_product()]
        while (operator := self.take("+-")) is not None:
            is_negative, term = self.signed_product()
            terms.append((is_negative ^ (operator == "-"), term))
        return _summed(terms)

    def signed_product(self) -> tuple[bool, Expression]:
        is_negative, expression = self.signed_factor()
        while (operator := self.take("*/")) is not None:
            other, factor = self.signed_factor()
            is_negative, expression = is_negative ^ other, Operation(operator, expression, factor)
        return _turned(expression) if is_negative else (False, expression)

    def signed_factor(self) -> tuple[bool, Expression]:
        is_negative = False
        while (sign := self.take("+-")) is not None:
            is_negative ^= sign == "-"
        if self.take("(") is None:
            return is_negative, self.factor()
        other, expression = self.signed_sum()
        if self.take(")") is None:
            raise ValueError(f"expected ')' at character {self.position + 1}")
        return _turned(expression) if is_negative ^ other else (False, expression)


def _summed(terms: Sequence[tuple[bool, Expression]]) -> tuple[bool, Expression]:
    """Returns the sum of terms, of which some are taken away; True with what is taken away where all are."""
    added, taken = ([term for is_taken, term in terms if is_taken is kind] for kind in (False, True))
    if not added:
        return True, reduce(partial(Operation, "+"), taken)
    return False, reduce(partial(Operation, "-"), taken, reduce(partial(Operation, "+"), added))


def _turned(expression: Expression) -> tuple[bool, Expression]:
    """Returns minus an expression as one without a sign, where a sum in it can be turned around; else True with it."""
    if isinstance(expression, Leaf):
        return True, expression
    if expression.operator in "+-":
        return _summed([(not is_taken, term) for is_taken, term in _terms(expression)])
    for part in ("left", "right"):
        is_negative, turned = _turned(getattr(expression, part))
        if not is_negative:
            return False, replace(expression, **{part: turned})
    return True, expression


def _terms(expression: Expression) -> list[tuple[bool, Expression]]:
    """Lists the terms of a sum, and whether each is taken away."""
    if isinstance(expression, Leaf) or expression.operator in "*/":
        return [(False, expression)]
    turns = expression.operator == "-"
    return [*_terms(expression.left), *((is_taken ^ turns, term) for is_taken, term in _terms(expression.right))]
