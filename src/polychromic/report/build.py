"""The reports of a run: report.html (one file, no request leaves it), report.md, results.tex and figures/."""

from __future__ import annotations

import base64
import gzip
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polychromic.diagnosis import Diagnosis
from polychromic.evaluation import Comparison, criteria_table, means_table, to_latex, to_markdown
from polychromic.evaluation.collect import read_generations
from polychromic.files import read_jsonl, strict_json, write_text
from polychromic.records import GenerationRow
from polychromic.report.figures import arm_colors, draw_figures


def write_report(
    root: Path,
    comparison: Comparison,
    *,
    arms: Sequence[str],
    seeds: Sequence[int],
    pass_threshold: float,
    diagnosis: Diagnosis | None = None,
) -> Path:
    """Write all reports below `root` and return the page's path. The same inputs give the same bytes."""
    training = {
        arm: [read_jsonl(root / arm / f"seed-{seed}" / "metrics.jsonl") for seed in seeds] for arm in arms
    }
    figures = draw_figures(comparison, training)
    for figure in figures:
        write_text(root / "figures" / f"{figure.name}.svg", figure.svg)
        write_text(root / "figures" / f"{figure.name}.csv", figure.data)
        (root / "figures" / f"{figure.name}.pdf").write_bytes(figure.pdf)
    ledger = read_jsonl(root / "ledger.jsonl")
    samples = sample_groups(root, comparison, arms, seeds[0])
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            name=root.name,
            comparison=comparison,
            criteria=criteria_table(comparison),
            means=means_table(comparison),
            figures=figures,
            colors=_script_json(arm_colors(comparison.arms, comparison.baseline)),
            work=work_table(ledger),
            spent=spent(ledger),
            n_seeds=len(seeds),
            diagnosis=diagnosis.arms if diagnosis else (),
            samples=_packed(samples),
            pass_threshold=pass_threshold,
        )
    )
    write_text(root / "report.html", page)
    write_text(root / "report.md", markdown_report(root.name, comparison))
    write_text(root / "results.tex", to_latex(criteria_table(comparison)))
    return root / "report.html"


def markdown_report(name: str, comparison: Comparison) -> str:
    """Verdict, tables and warnings as Markdown."""
    warnings = "\n".join(f"- {caution.kind}: {caution.text}" for caution in comparison.cautions)
    parts = [
        f"# {name}",
        comparison.verdict.sentence,
        to_markdown(criteria_table(comparison)),
        f"Means at {comparison.headline} over {comparison.n_prompts} prompts:",
        to_markdown(means_table(comparison)),
        warnings,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def spent(ledger: Sequence[Mapping[str, Any]]) -> str:
    """Time and money of the whole run in words."""
    minutes = sum(row.get("machine_seconds", row["seconds"]) for row in ledger) / 60
    dollars = [row["dollars"] for row in ledger if row.get("dollars") is not None]
    price = f", ${sum(dollars):.2f}" if dollars else ""
    return f"{minutes:.0f} minutes{price}" if minutes < 120 else f"{minutes / 60:.1f} hours{price}"


def work_table(ledger: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Minutes and tokens by arm and stage."""
    minutes: Counter[tuple[str, str]] = Counter()
    tokens: Counter[tuple[str, str]] = Counter()
    for row in ledger:
        key = (row["arm"], row["stage"])
        minutes[key] += row["seconds"] / 60
        tokens[key] += row["tokens"]
    rows = [[arm, stage, f"{minutes[arm, stage]:.1f}", f"{tokens[arm, stage]:,}"] for arm, stage in minutes]
    return [["arm", "stage", "minutes", "tokens sampled"], *rows]


def sample_groups(root: Path, comparison: Comparison, arms: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """For every prompt, each arm's answers of one seed at the headline: equal ones counted, passing ones first."""
    by_prompt: dict[str, dict[str, list[GenerationRow]]] = {}
    for arm in arms:
        for row in read_generations(root / arm / f"seed-{seed}" / "generations.jsonl"):
            if row.sampling.label == comparison.headline:
                by_prompt.setdefault(row.prompt_id, {}).setdefault(arm, []).append(row)
    return [
        {"prompt": prompt, "arms": {arm: _counted(rows) for arm, rows in answers.items()}}
        for prompt, answers in by_prompt.items()
    ]


def _counted(rows: Sequence[GenerationRow]) -> list[dict[str, Any]]:
    groups: dict[str, list[GenerationRow]] = {}
    for row in rows:
        if row.finish != "missing":  # an answer that verbalised sampling did not give
            groups.setdefault(row.cluster or row.text, []).append(row)
    ordered = sorted(groups.items(), key=lambda item: (-(item[1][0].reward or 0.0), -len(item[1])))
    return [
        {"text": group[0].text, "count": len(group), "reward": group[0].reward, "cluster": label}
        for label, group in ordered
    ]


def _packed(value: Any) -> str:
    """JSON, compressed and in base64: the page unpacks it when it opens."""
    return base64.b64encode(gzip.compress(strict_json(value).encode(), compresslevel=9, mtime=0)).decode(
        "ascii"
    )


def _script_json(value: Any) -> Any:
    """JSON that cannot end the script element it stands in, whatever text it holds."""
    from markupsafe import Markup

    return Markup(strict_json(value).replace("<", "\\u003c"))


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=PackageLoader("polychromic.report", ""),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
