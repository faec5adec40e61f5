"""Numbers and names in sentences for people."""

from __future__ import annotations

import math


def signed_percent(change: float) -> str:
    """0.123 becomes "+12.3 %", -0.1 "−10 %"; nan "undefined"."""
    if not math.isfinite(change):
        return "undefined"
    percent = 100 * change
    digits = f"{abs(percent):.0f}" if abs(percent) >= 100 else f"{abs(percent):.3g}"
    return f"{_sign(percent)}{digits} %"


def signed(value: float) -> str:
    """A difference with its sign and three digits; nan "undefined"."""
    return f"{_sign(value)}{abs(value):.3g}" if math.isfinite(value) else "undefined"


def number(value: float) -> str:
    """A value with up to five digits and a true minus; nan "–"."""
    return f"{value:.5g}".replace("-", "−") if math.isfinite(value) else "–"


def p_text(p_value: float) -> str:
    """ "p = 0.012", with small ones bounded and an unknown one said."""
    if math.isnan(p_value):
        return "p unknown"
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.2g}"


def listed(items: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def plural(count: int, noun: str) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _sign(value: float) -> str:
    return "−" if value < 0 else "+"
