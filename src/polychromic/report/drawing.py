"""Draws one figure: style, colours, the data behind it, and what all panels have in common."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

# Okabe and Ito's colour-blind-safe palette, then darker colours for arms beyond the sixth; the baseline comes first and
# is dark grey, the untrained model light grey.
# The page's style sheet has another shade of each for a dark page, under the variable --c-HEX.
_BASELINE_COLOR = "#4D4D4D"
_UNTRAINED_COLOR = "#9A9A9A"
_COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
    "#882255", "#332288", "#999933", "#8C510A", "#01665E", "#7FBC41",
)  # fmt: skip
# Near black on paper; in the page it becomes the text's own colour, so that a dark page has light axes.
_INK = "#010203"
QUIET = "#999999"
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
    "axes.axisbelow": True,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "legend.frameon": False,
}
_REFERENCE = re.compile(r'(\bid="|href="#|url\(#)')
_PALETTE = re.compile("|".join([_BASELINE_COLOR, _UNTRAINED_COLOR, *_COLORS]), re.IGNORECASE)
_LEGEND_CHARACTERS = 62  # that fit above a panel of the usual width, handles aside
_HANDLE_CHARACTERS = 7  # the width of a legend's line and gap
_HEIGHT, _LEGEND_ROWS, _ROW_HEIGHT = 3.2, 3, 0.21  # inches of a figure, and of each row of its legend above so many
Colors = Mapping[str, str]
"""A colour for every arm."""
Paint = Callable[..., None]
"""Fills the axes that it is given, one for each panel."""
Format = Literal["svg", "pdf", "png"]


@dataclass(frozen=True, slots=True)
class Figure:
    """Holds a figure with its title and the caption that says what to see in it."""

    name: str
    title: str
    caption: str
    svg: str
    data: str
    """The drawn points as CSV: panel, series, x, y."""
    paint: Paint = field(repr=False, compare=False)
    panels: int = 1

    def drawn_as(self, form: Format) -> bytes:
        """Draws it once more in another format; a PDF embeds its fonts, which takes longer than the drawing."""
        return render(_canvas(self.paint, self.panels)[0], form)


def arm_colors(arms: Sequence[str], baseline: str, untrained: str | None = None) -> dict[str, str]:
    """Returns a colour for every arm, the same in every figure; the untrained model is a lighter grey."""
    others = [arm for arm in arms if arm not in (baseline, untrained)]
    colors = {baseline: _BASELINE_COLOR} | {arm: _COLORS[i % len(_COLORS)] for i, arm in enumerate(others)}
    return colors | ({untrained: _UNTRAINED_COLOR} if untrained else {})


def draw(name: str, title: str, caption: str, paint: Paint, *, panels: int = 1) -> Figure:
    """Lets `paint` fill the axes of one or more panels side by side."""
    canvas, axes = _canvas(paint, panels)
    text = render(canvas, "svg").decode()
    return Figure(name, title, caption, text[text.index("<svg") :], _drawn_data(axes), paint, panels)


def _canvas(paint: Paint, panels: int) -> tuple[Any, list[Any]]:
    with style():
        canvas = new_canvas(5.2 if panels == 1 else 7.2, _HEIGHT)
        axes = [canvas.add_subplot(1, panels, number + 1) for number in range(panels)]
        paint(*axes)
        # Many arms make the figure higher, not its panels lower.
        more = max(map(_legend_rows, axes)) - _LEGEND_ROWS
        canvas.set_figheight(_HEIGHT + _ROW_HEIGHT * max(0, more))
    return canvas, axes


def style() -> Any:
    """Returns the context in which everything is drawn."""
    import matplotlib as mpl

    return mpl.rc_context(_STYLE)


def new_canvas(width: float, height: float) -> Any:
    """Returns an empty figure of so many inches, laid out when it is rendered; no window system is asked."""
    from matplotlib.figure import Figure as Canvas

    return Canvas(figsize=(width, height), layout="constrained")


def render(canvas: Any, form: Format, *, dots_per_inch: int = 150) -> bytes:
    """Returns a figure's file; the same drawing gives the same bytes."""
    dates: dict[Format, dict[str, Any]] = {
        "svg": {"Date": None},
        "pdf": {"CreationDate": None, "Creator": "polychromic"},
        "png": {"Software": "polychromic"},
    }
    stream = io.BytesIO()
    with style(), _laid_out(canvas, form):
        canvas.savefig(stream, format=form, transparent=form == "svg", metadata=dates[form], dpi=dots_per_inch)
    return stream.getvalue()


@contextmanager
def _laid_out(canvas: Any, form: Format) -> Iterator[None]:
    """Lays a figure out once, in the sizes that its text has in this format.

    `savefig` draws a figure twice that has a layout engine, the first time for the layout alone: a third of its time.
    """
    from matplotlib.backend_bases import get_registered_canvas_class

    get_registered_canvas_class(form)(canvas)
    engine = canvas.get_layout_engine()
    engine.execute(canvas)
    canvas.set_layout_engine(None)
    try:
        yield
    finally:
        canvas.set_layout_engine(engine)


def in_page(figure: Figure) -> str:
    """Returns the SVG as part of a page: ids of its own, axes and text in the colour of the text around it."""
    svg = _PALETTE.sub(lambda match: page_color(match[0]), figure.svg.replace(_INK, "currentColor"))
    return _REFERENCE.sub(lambda match: f"{match[1]}{figure.name}-", svg)


def page_color(color: str) -> str:
    """Returns a colour of the palette as CSS that a dark page may lighten."""
    return f"var(--c-{color[1:].upper()},{color})"


def line(axes: Any, x: ArrayLike, y: ArrayLike, **options: Any) -> None:
    """Draws a curve; a single point, of which no line could be seen, is marked."""
    axes.plot(x, y, marker="o" if np.size(x) == 1 else None, **options)


def band(axes: Any, x: Sequence[float], low: Sequence[float], high: Sequence[float], color: str, name: str) -> None:
    """Fills between two curves, whose edges stand in the figure's data as `name: low` and `name: high`."""
    if len(x) == 1:
        axes.plot([x[0]] * 2, [low[0], high[0]], color=color, alpha=0.3, lw=4, solid_capstyle="butt")
    else:
        axes.fill_between(x, low, high, color=color, alpha=0.13, lw=0)
    for edge, values in (("low", low), ("high", high)):
        axes.plot(x, values, color=color, visible=False, gid=f"{name}: {edge}")


def legend_above(axes: Any) -> None:
    """Names the curves above the panel, where they cover none: side by side as far as there is room."""
    _, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    axes.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), borderpad=0.0, ncols=_columns(labels), columnspacing=1.4,
        handlelength=1.6, borderaxespad=0.4,
    )  # fmt: skip


def _columns(labels: Sequence[str]) -> int:
    width = max(len(label) for label in labels) + _HANDLE_CHARACTERS
    return min(len(labels), max(1, _LEGEND_CHARACTERS // width))


def _legend_rows(axes: Any) -> int:
    if axes.get_legend() is None:
        return 0
    _, labels = axes.get_legend_handles_labels()
    return -(-len(labels) // _columns(labels))


def keep_within(axes: Any, low: float | None = None, high: float | None = None) -> None:
    """Ends the y-axis at a bound that no value can pass, where the usual margin would go beyond it."""
    bottom, top = axes.get_ylim()
    if low is not None and bottom < low:
        axes.set_ylim(bottom=low)
    if high is not None and top > high:
        axes.set_ylim(top=high)


def plain(text: str) -> str:
    """Returns a label that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


def _drawn_data(axes: Sequence[Any]) -> str:
    """Returns every line of the panels as CSV rows: panel, series, x, y."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["panel", "series", "x", "y"])
    for panel in axes:
        for curve in panel.get_lines():
            series = (curve.get_gid() or curve.get_label()).replace(r"\$", "$")
            table.writerows([panel.get_ylabel(), series, x, y] for x, y in zip(*curve.get_data(), strict=True))
    return stream.getvalue()
