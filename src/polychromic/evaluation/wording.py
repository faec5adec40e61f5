"""Numbers and names in sentences for people."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

CautionKind = Literal[
    "reward hacking",
    "temperature",
    "length",
    "number of answers",
    "saturated",
    "underpowered",
    "few seeds",
    "seeds",
    "missing rewards",
    "truncated",
    "left out",
    "missing answers",
    "undefined",
    "checker",
    "sampling not stated",
    "added after results",
    "recorded again",
    "units of text",
    "thinking",
    "leakage",
    "duplicates",
    "long texts",
    "untrained model",
]


@dataclass(frozen=True, slots=True)
class Caution:
    """One warning, about one arm (empty: all of them)."""

    kind: CautionKind
    arm: str
    text: str


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


def number(value: float, digits: int = 4) -> str:
    """A value with up to that many digits and a true minus; nan "–"."""
    return f"{value:.{digits}g}".replace("-", "−") if math.isfinite(value) else "–"


def estimate(mean: float, low: float, high: float) -> str:
    """A mean with its interval, both to two digits of the interval's half-width: "0.103 [0.082, 0.124]"."""
    places = decimal_places(low, high)
    if places is None:
        return f"{number(mean)} [{number(low)}, {number(high)}]"
    return f"{_fixed(mean, places)} [{_fixed(low, places)}, {_fixed(high, places)}]"


def decimal_places(low: float, high: float) -> int | None:
    """Decimals that show two digits of an interval's half-width; None for an empty or unknown one."""
    width = (high - low) / 2
    if not (math.isfinite(width) and width > 0):
        return None
    return min(max(1 - math.floor(math.log10(width)), 0), 9)


def short_p(p_value: float) -> str:
    """A p-value for a table's cell: two digits, small ones bounded, "–" where there is none."""
    if math.isnan(p_value):
        return "–"
    if p_value < 0.0001:
        return "< 0.0001"
    return f"{p_value:.{1 - math.floor(math.log10(p_value))}f}" if p_value < 1 else "1"


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


def _fixed(value: float, places: int) -> str:
    return f"{round(value, places) + 0.0:,.{places}f}".replace("-", "−")


def _sign(value: float) -> str:
    return "−" if value < 0 else "+"
