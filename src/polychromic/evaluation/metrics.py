"""Every metric that a criterion may name: what it is called, which way is better, and how far it can go."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

Direction = Literal["higher", "lower"]
Kind = Literal["diversity", "quality", "both", "length", "fault"]
"""What a metric speaks of; "both" needs answers to differ and to pass, as distinct correct answers do."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `better` is the direction of improvement; values lie in [lowest, highest]; `needs` is what has
    to be there for it to be measured."""

    key: str
    name: str
    better: Direction
    kind: Kind
    lowest: float = 0.0
    highest: float = 1.0
    needs: str = "texts"

    @property
    def best(self) -> float:
        """The bound that a perfect value reaches (infinite where there is none)."""
        return self.highest if self.better == "higher" else self.lowest

    @property
    def sign(self) -> float:
        """+1 where higher is better, −1 where lower is."""
        return 1.0 if self.better == "higher" else -1.0


CHECKER, JUDGE, EMBEDDER = "a checker", "a judge", "an embedder"
THINKING = "thinking text and task.thinking: apart"

METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("tokens", "Length in tokens", "higher", "length", 0.0, math.inf),
        Metric("rarefied_distinct_2", "Distinct-2 (rarefied)", "higher", "diversity"),
        Metric("distinct_1", "Distinct-1", "higher", "diversity"),
        Metric("distinct_2", "Distinct-2", "higher", "diversity"),
        Metric("distinct_3", "Distinct-3", "higher", "diversity"),
        Metric("self_bleu", "Self-BLEU", "lower", "diversity"),
        Metric("rouge_l", "ROUGE-L", "lower", "diversity"),
        Metric("compression_ratio", "Compression ratio", "lower", "diversity", 0.0, math.inf),
        Metric("distinct_texts", "Distinct texts", "higher", "diversity", 0.0, math.inf),
        Metric("clusters", "Distinct answers", "higher", "diversity", 0.0, math.inf),
        Metric("semantic_distance", "Semantic distance", "higher", "diversity", 0.0, 2.0, EMBEDDER),
        Metric("vendi", "Vendi score", "higher", "diversity", 1.0, math.inf, EMBEDDER),
        Metric("distinct_correct", "Distinct correct answers", "higher", "both", 0.0, math.inf, CHECKER),
        Metric("reward", "Reward", "higher", "quality", needs=CHECKER),
        Metric("best_of_n", "Best of n", "higher", "quality", needs=CHECKER),
        Metric("judge", "Judge", "higher", "quality", needs=JUDGE),
        Metric(
            "reference_perplexity",
            "Perplexity of references",
            "lower",
            "quality",
            1.0,
            math.inf,
            "references and the model",
        ),
        Metric("thinking_words", "Thinking: words", "higher", "length", 0.0, math.inf, THINKING),
        Metric("thinking_distinct_2", "Thinking: Distinct-2", "higher", "diversity", needs=THINKING),
        Metric("thinking_self_bleu", "Thinking: Self-BLEU", "lower", "diversity", needs=THINKING),
        Metric(
            "thinking_compression_ratio",
            "Thinking: compression ratio",
            "lower",
            "diversity",
            0.0,
            math.inf,
            THINKING,
        ),
        Metric("truncated", "Share truncated", "lower", "fault"),
        Metric("missing", "Share of rewards missing", "lower", "fault"),
        Metric("unanswered", "Share of answers not given", "lower", "fault", needs="verbalized sampling"),
    )
}
"""By key, in the order in which they are shown. Beside these there are `pass@K` and `distinct_correct@K`."""

_KEY = re.compile(r"[a-z][a-z0-9_]*")

_AT_K = re.compile(r"(pass|distinct_correct)@([1-9]\d*)")


def register_metric(metric: Metric) -> Metric:
    """Make a metric of your own known to measurement, criteria and reports, which all ask here; its values come in by
    `measure_arms(extra=…)`. Raises ValueError for a key that is taken, or is no word of a–z, 0–9 and _."""
    if not _KEY.fullmatch(metric.key):
        raise ValueError(f"metric key {metric.key!r}: expected a word of a-z, 0-9 and _, such as readability")
    if METRICS.setdefault(metric.key, metric) != metric:
        raise ValueError(f"metric key {metric.key!r} is that of another metric; choose another")
    return metric


def require_addable(key: str, values: Iterable[float], measured: Collection[str]) -> None:
    """Raise ValueError for values from elsewhere that would be dropped or mistaken: of a metric that nobody registered,
    that is `measured` here, that is a point of a curve, or that lie outside its bounds."""
    if key not in METRICS:
        what = "is read from a curve" if split_at_k(key) else "is not known"
        raise ValueError(
            f"extra: metric {key!r} {what}; register_metric(Metric(...)) makes one of your own known"
        )
    if key in measured:
        raise ValueError(f"extra: {key!r} is measured from the generations themselves; register another key")
    metric = METRICS[key]
    outside = [
        value for value in values if not math.isnan(value) and not metric.lowest <= value <= metric.highest
    ]
    if outside:
        raise ValueError(
            f"extra: {key} = {outside[0]:g}, and its values lie between {metric.lowest:g} and {metric.highest:g}"
        )


def find_metric(key: str) -> Metric:
    """The metric called `key`; raises ValueError that lists the known keys."""
    if key in METRICS:
        return METRICS[key]
    at_k = split_at_k(key)
    if at_k is None:
        known = ", ".join(["pass@K", "distinct_correct@K", *METRICS])
        raise ValueError(f"metric {key!r} is not known; expected one of {known} (K a whole number)")
    curve, k = at_k
    needs = f"{CHECKER}, and at least {k} judged answers a prompt" if k > 1 else CHECKER
    if curve == "pass":
        return Metric(key, f"Pass@{k}", "higher", "quality" if k == 1 else "both", needs=needs)
    return replace(
        METRICS["distinct_correct"],
        key=key,
        name=f"Distinct correct answers of {k}",
        highest=float(k),
        needs=needs,
    )


def split_at_k(key: str) -> tuple[str, int] | None:
    """("pass", 10) for `pass@10`, and None for a key that names no k."""
    match = _AT_K.fullmatch(key)
    return (match[1], int(match[2])) if match else None
