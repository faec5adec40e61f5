"""Holds what a run ends with, as people look at it in a notebook: a verdict, tables, and data frames."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polychromic.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas

    from polychromic.evaluation import Comparison


@dataclass(frozen=True, slots=True)
class RunResult:
    """The folder and the comparison that a run ends with. Printed, it is the verdict; a notebook shows its table."""

    folder: RunFolder
    comparison: Comparison

    def __str__(self) -> str:
        from polychromic.report.terminal import verdict_block

        lines = [line for line, _ in verdict_block(self.comparison, None)]
        return "\n".join([*lines, f"  page: {self.folder.report}"])

    def _repr_html_(self) -> str:
        """Returns the verdict, the criteria and the means as HTML; everything in it is escaped."""
        from polychromic.report.tables import criteria_table, means_table
        from polychromic.report.view import as_text, plain_verdict

        verdict = html.escape(as_text(plain_verdict(self.comparison)))
        page = html.escape(os.fspath(self.folder.report))
        return (
            f"<p><b>{verdict}</b></p>{_html_table(criteria_table(self.comparison))}"
            f"<details><summary>All measures at {html.escape(self.comparison.primary_sampling)}</summary>"
            f"{_html_table(means_table(self.comparison))}</details><p>Page: <code>{page}</code></p>"
        )

    def to_pandas(self) -> pandas.DataFrame:
        """Returns a row for each arm, sampling setting and metric: mean with interval, and the paired difference to the
        baseline with interval and uncorrected p-value (nan for the baseline itself).

        Raises ImportError that says how to install pandas where it is missing.
        """
        frame = _pandas().DataFrame(
            [self._row(mean) for mean in self.comparison.means],
            columns=["arm", "sampling", "metric", "mean", "low", "high", *_DIFFERENCE],
        )
        return frame.astype(dict.fromkeys(["mean", "low", "high", *_DIFFERENCE], "float64"))

    def generations_to_pandas(self) -> pandas.DataFrame:
        """Returns a row for each generation of every arm and seed: arm, seed, and what `generations.jsonl` holds."""
        from polychromic.generations import read_generations

        rows = [
            {"arm": arm, "seed": seed, **row.to_json()}
            for arm, seeds in self.comparison.seeds.items()
            for seed in seeds
            for row in read_generations(self.folder.arm(arm, seed).generations)
        ]
        return _pandas().DataFrame(rows)

    def _row(self, mean: Any) -> list[Any]:
        contrast = self.comparison.contrast(mean.arm, mean.metric, mean.sampling)
        difference = (
            [contrast.difference, contrast.ci_low, contrast.ci_high, contrast.p_value] if contrast else [None] * 4
        )
        return [mean.arm, mean.sampling, mean.metric, mean.mean, mean.low, mean.high, *difference]


_DIFFERENCE = ("difference", "difference_low", "difference_high", "p_value")


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_pandas needs pandas: pip install pandas") from error
    return pandas


def _html_table(rows: list[list[str]]) -> str:
    def cells(row: list[str], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows[1:])
    return f"<table><thead><tr>{cells(rows[0], 'th')}</tr></thead><tbody>{body}</tbody></table>"
