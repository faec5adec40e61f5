"""Checks short answers, by regular expression or as mathematics, and gives the forms that same answers share."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from decimal import Decimal
from typing import Any

from polychromic.records import Prompt

_REGEX_SECONDS = 2.0
_PATTERNS = "regex_patterns"  # the key of a prompt's meta
_LATEX = re.compile(r"[\d\\]")
_SCIENTIFIC = re.compile(r"(?<![\w.\\])\d+(?:\.\d+)?[eE][+-]?\d{1,2}(?!\w)")
_MIXED = re.compile(r"([+-]?)(\d+) +(\d+/\d+)")
_BRACKETED_LIST = re.compile(r"\\?[(\[{][^$\n()\[\]]*,[^$\n()\[\]]*[)\]}]")
_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:/\d+)?"
_LIST = re.compile(rf"{_NUMBER}(?:(?:, +|,(?=[+-])){_NUMBER})+|\d+(?:,\d{{1,2}}(?!\d)){{2,}}")
_MARKS = re.compile(r"\$|\\boxed|\\\(|\\\[")
_POWER = re.compile("[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_FRACTION = re.compile("[¼½¾⅐-⅞]")
_SIGNS = {
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "⁄": "/", "−": "-", "π": r"\pi ", "∞": r"\infty ",
    "≤": r"\le ", "≥": r"\ge ",
}  # fmt: skip
_PLAIN_SIGNS = {"×": "*", "·": "*", "⋅": "*", "÷": "/", "⁄": "/", "−": "-", r"\%": "%"}
_THOUSANDS = re.compile(r"(?<=\d)(?:\\[,!]|\{,\})(?=\d{3}(?!\d))")
_ROOT = re.compile(r"(?:√|(?<![A-Za-z\\])sqrt) ?(?:\(([^()]*)\)|(\d+|[A-Za-z](?![A-Za-z])))")
_FUNCTION = re.compile(r"(?<![A-Za-z\\])(pi|sin|cos|tan|log|ln|exp)(?![A-Za-z])")
_NAMED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname) ?\{[^{}]*\}")
_NO_FORMULA = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}|[^\x00-\x7f]|[:;?\"']")
_MORE_THAN_A_NUMBER = re.compile(r"[A-Za-z\\^*<>]")
_VALUE_OR_UNIT = re.compile(rf"(?:[A-Za-z] ?= ?)?{_NUMBER}(?: [A-Za-z])?|{_NUMBER} ?= ?[A-Za-z]")
_RATIO = re.compile(r"\d+ ?: ?\d+")
_LONGEST_FORMULA = 500
_PLACES = 6  # of a number, as math-verify compares them
_LONGEST = 20_000  # characters of an answer in which mathematics is looked for: its end
MATH_EXTRA = "math-verify is not installed; `pip install 'polychromic[math]'` brings it"


def with_patterns(prompt: Prompt) -> Prompt:
    """Returns the prompt with its references as the patterns that `regex_match` reads. References stay those alone that
    match themselves: other patterns are no answers, to be learnt or tried as such."""
    answers = tuple(reference for reference in prompt.references if _matches_itself(reference))
    patterns = {_PATTERNS: list(prompt.references)} if prompt.references else {}
    return replace(prompt, references=answers, meta={**prompt.meta, **patterns})


def _matches_itself(pattern: str) -> bool:
    import regex

    try:
        return regex.fullmatch(pattern, pattern.strip(), timeout=_REGEX_SECONDS) is not None
    except (regex.error, TimeoutError):
        return False


def regex_match(prompt: Prompt, text: str) -> bool:
    """Tells whether one of the references, read as a regular expression, matches the whole text.

    Raises ValueError where a reference is no expression, TimeoutError where one takes too long.
    """
    return _matched(prompt, text) is not None


def regex_form(prompt: Prompt, text: str) -> str:
    """Returns the groups that the first matching reference caught, or the text where it catches or matches nothing."""
    match = _matched(prompt, text)
    if match is None or not match.groups():
        return " ".join(text.split())
    return "\x1f".join("" if group is None else group.strip() for group in match.groups())


def _matched(prompt: Prompt, text: str) -> Any:
    import regex

    for reference in prompt.meta.get(_PATTERNS) or references_of(prompt):
        try:
            expression = regex.compile(reference)
        except regex.error as error:
            raise ValueError(f"reference {reference!r} is no regular expression: {error}") from error
        match = expression.fullmatch(text.strip(), timeout=_REGEX_SECONDS)
        if match is not None:
            return match
    return None


def references_of(prompt: Prompt) -> tuple[str, ...]:
    """Returns the references of a prompt; raises ValueError where it has none."""
    if not prompt.references:
        raise ValueError(f"prompt {prompt.id!r} has no references to compare with")
    return prompt.references


def math_equal(prompt: Prompt, text: str) -> bool:
    """Tells whether the text's final answer equals one of the references as mathematics (math-verify, Apache-2.0).

    LaTeX and plain writing are read, the last `\\boxed{…}` first. Numbers are equal to six places. It runs in a process
    of its own: what reads mathematics may take for ever on some of it.
    """
    verify = _math_verify().verify
    references = references_of(prompt)
    answer = _read(text)
    for reference in references:
        expected = _read(reference)
        if not expected:
            raise ValueError(f"reference {reference!r} cannot be read as mathematics")
        if answer and verify(expected, answer):
            return True
    return False


def math_form(prompt: Prompt, text: str) -> str:
    """Returns one text for answers that are the same mathematics: 1/2, 0.5 and \\frac12; (x+1)^2 and x^2+2x+1."""
    read = _read(text)
    return _form(read[0]) if read else f"unreadable: {' '.join(text.split())}"


def _read(text: str) -> list[Any]:
    """Returns math-verify's readings of a text, the best first; a text without marks is tried as LaTeX too."""
    parse = _math_verify().parse
    text = text[-_LONGEST:].strip()
    formula = _formula(text)
    if formula and (whole := parse(f"${formula}$")):
        return list(whole)
    text = _written_out(text)
    read = parse(text)
    if not read and _LATEX.search(text) and "$" not in text and "\n" not in text:
        read = parse(f"${text}$")
    return list(read)


def _formula(text: str) -> str:
    """Returns a text that is one formula without marks around it, such as 2x + 1 or 5\\sqrt{2}, as LaTeX; "" for any
    other. math-verify would take one number out of it."""
    latex = "" if _MARKS.search(text) or "\n" in text or len(text) > _LONGEST_FORMULA else _in_latex(text)
    latex = _FUNCTION.sub(r"\\\1 ", _ROOT.sub(r"\\sqrt{\1\2}", latex)).rstrip(" .;,")
    latex = re.sub(r"(?:\^|\*\*) ?([+-]?\d+)", r"^{\1}", latex)
    is_more = _MORE_THAN_A_NUMBER.search(latex) and re.search(r"[\d\\+*/^<>-]", latex)
    if is_more and not (_NO_FORMULA.search(_NAMED.sub("", latex)) or _SCIENTIFIC.search(latex)):
        return "" if _VALUE_OR_UNIT.fullmatch(latex) else latex
    return latex if _RATIO.fullmatch(latex) else ""


def _in_latex(text: str) -> str:
    """Writes the signs of mathematics that Unicode has as LaTeX does: of 10² math-verify would read 10."""
    text = _POWER.sub(lambda power: f"^{{{unicodedata.normalize('NFKC', power[0])}}}", text)
    text = _FRACTION.sub(
        lambda part: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", part[0]).split("⁄")), text
    )
    return _replaced(_THOUSANDS.sub("", text), _SIGNS)


def _replaced(text: str, signs: dict[str, str]) -> str:
    for sign, written in signs.items():
        text = text.replace(sign, written)
    return text


def _written_out(text: str) -> str:
    """Writes plain text as math-verify reads it whole: of (1, 2) and 3 1/2 it would take one number, of 1e3 the 1."""
    if _MARKS.search(text):
        text = _in_latex(text)
    else:
        text = _POWER.sub(lambda power: f"^{unicodedata.normalize('NFKC', power[0])}", text)
        text = re.sub(r"\^\{([+-]?\d+)\}", r"^\1", _replaced(_THOUSANDS.sub("", text), _PLAIN_SIGNS))
    text = _SCIENTIFIC.sub(lambda number: format(Decimal(number[0]), "f"), text)
    if mixed := _MIXED.fullmatch(text):
        sign, whole, part = mixed.groups()
        return f"{sign}({whole} + {part})"
    bracketed = _BRACKETED_LIST.fullmatch(text) and _LATEX.search(text)
    if bracketed or _LIST.fullmatch(text):
        return f"${text}$" if "\\" in text else "$" + text.replace("{", "\\{").replace("}", "\\}") + "$"
    return text


def _math_verify() -> Any:
    try:
        import math_verify
    except ImportError as error:
        raise ValueError(MATH_EXTRA) from error
    return math_verify


def _form(value: Any) -> str:
    import sympy

    if isinstance(value, sympy.Eq) and _is_assignment(*value.args):
        value = value.rhs
    if isinstance(value, sympy.FiniteSet):
        return f"{{{', '.join(sorted(map(_form, value.args)))}}}"
    if isinstance(value, (sympy.Tuple, tuple, list)):
        return f"({', '.join(map(_form, value))})"
    if isinstance(value, sympy.Interval):
        opening, closing = "(" if value.left_open else "[", ")" if value.right_open else "]"
        return f"{opening}{_form(value.start)}, {_form(value.end)}{closing}"
    if isinstance(value, sympy.Eq):
        sides: tuple[Any, ...] = value.args
        difference: Any = sympy.cancel(sides[0] - sides[1]).as_content_primitive()[1]
        return f"{min(_form(difference), _form(-difference))} = 0"
    if isinstance(value, sympy.Expr):
        return _form_of_number(value) if value.is_number else _form_of_expression(value)
    return str(value)


def _is_assignment(left: Any, right: Any) -> bool:
    """Tells whether an equation says a value, as x = 5, x in (1, 2) and 2 + 3 = 5 do: the right side is the answer."""
    is_value = right.is_number or not hasattr(right, "as_real_imag")  # a set is no expression
    return is_value and (left.is_Symbol or left.is_number)


def _form_of_number(value: Any) -> str:
    import sympy

    real, imaginary = (_rounded(part) for part in sympy.N(value.doit(), 30).as_real_imag())
    return real if imaginary == "0" else f"{real} + {imaginary}i"


def _rounded(number: Any) -> str:
    """Writes a number to six places; one that is not finite, as it is."""
    if not number.is_finite:
        return str(number)
    text = format(Decimal(str(number)).quantize(Decimal(1).scaleb(-_PLACES)), "f")
    text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _form_of_expression(value: Any) -> str:
    import sympy

    exact = sympy.nsimplify(value, rational=True) if value.has(sympy.Float) else value
    simple = sympy.simplify(exact)
    try:
        return str(sympy.cancel(simple))
    except sympy.PolynomialError:
        return str(simple)
