"""One figure drawn as SVG and PDF with its data: always the same bytes, in the page's own ink."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's colour-blind-safe palette; the baseline comes first and is grey. The page's style sheet has a lighter
# shade of each for a dark page, under the variable --c-HEX.
_BASELINE_COLOR = "#767676"
_UNTRAINED_COLOR = "#ABABAB"
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Near black on paper; in the page it becomes the text's own colour, so that a dark page has light axes.
_INK = "#010203"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "polychromic",
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3 fonts
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "legend.frameon": False,
}
_REFERENCE = re.compile(r'(\bid="|href="#|url\(#)')
_PALETTE = re.compile("|".join([_BASELINE_COLOR, _UNTRAINED_COLOR, *_COLORS]), re.IGNORECASE)
Colors = Mapping[str, str]
"""A colour for every arm."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its title and the caption that says what to see in it."""

    name: str
    title: str
    caption: str
    svg: str
    pdf: bytes
    data: str
    """What is drawn, as CSV: panel, series, x, y."""


def arm_colors(arms: Sequence[str], baseline: str, untrained: str | None = None) -> dict[str, str]:
    """A colour for every arm, the same in every figure; the untrained model has a lighter grey than the baseline."""
    others = [arm for arm in arms if arm not in (baseline, untrained)]
    colors = {baseline: _BASELINE_COLOR} | {arm: _COLORS[i % len(_COLORS)] for i, arm in enumerate(others)}
    return colors | ({untrained: _UNTRAINED_COLOR} if untrained else {})


def draw(name: str, title: str, caption: str, paint: Callable[..., None], *, panels: int = 1) -> Figure:
    """Let `paint` fill the axes of one or more panels side by side."""
    import matplotlib as mpl
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(_STYLE):
        figure = Canvas(figsize=(5.2 if panels == 1 else 7.2, 3.2), layout="constrained")
        FigureCanvasSVG(figure)
        axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
        paint(*axes)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        pdf = io.BytesIO()
        FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None, "Creator": "polychromic"})
    text = svg.getvalue()
    return Figure(name, title, caption, text[text.index("<svg") :], pdf.getvalue(), _drawn_data(axes))


def in_page(figure: Figure) -> str:
    """The SVG as part of a page: ids of its own, axes and text in the colour of the text around it, light or dark."""
    svg = _PALETTE.sub(lambda found: page_color(found[0]), figure.svg.replace(_INK, "currentColor"))
    return _REFERENCE.sub(lambda found: f"{found[1]}{figure.name}-", svg)


def page_color(color: str) -> str:
    """A colour of the palette as CSS that a dark page may lighten."""
    return f"var(--c-{color[1:].upper()},{color})"


def band(
    axes: Any, x: Sequence[float], low: Sequence[float], high: Sequence[float], color: str, name: str
) -> None:
    """Fill between two curves, whose edges stand in the figure's data as `name: low` and `name: high`."""
    axes.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
    for edge, values in (("low", low), ("high", high)):
        axes.plot(x, values, color=color, visible=False, gid=f"{name}: {edge}")


def plain(text: str) -> str:
    """A label that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


def _drawn_data(axes: Sequence[Any]) -> str:
    """Every line of the panels as CSV rows: panel, series, x, y."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["panel", "series", "x", "y"])
    for panel in axes:
        for line in panel.get_lines():
            series = (line.get_gid() or line.get_label()).replace(r"\$", "$")
            table.writerows([panel.get_ylabel(), series, x, y] for x, y in zip(*line.get_data(), strict=True))
    return stream.getvalue()
