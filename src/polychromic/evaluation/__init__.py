"""Turns generations into a claim that survives review: measures per prompt, paired statistics, and a verdict."""

from polychromic.evaluation.audits.checker import CheckerAudit, audit_checker
from polychromic.evaluation.compare import compare
from polychromic.evaluation.counting.formulas import (
    all_pass_at_k,
    hill_number,
    majority_curve,
    most_pass_at_k,
    pair_sameness,
    pass_at_k,
    pass_at_k_curve,
    utility_curve,
    utility_k,
)
from polychromic.evaluation.criteria import (
    DEFAULT_LEVELS,
    MINIMUM,
    STRONG,
    Criterion,
    Levels,
    Possibility,
    criterion_possible,
    impossible_criteria,
)
from polychromic.evaluation.group_metrics import MeasureOptions
from polychromic.evaluation.lengths import at_equal_length
from polychromic.evaluation.measure import measure_arms, measure_rows
from polychromic.evaluation.metrics import METRICS, Metric, find_metric, metric, register_metric
from polychromic.evaluation.statistics.intervals import Resampling
from polychromic.evaluation.statistics.paired import (
    PairedComparison,
    detectable_effect,
    paired_comparison,
    prompts_needed,
)
from polychromic.evaluation.tables import PromptTable, SampledTable
from polychromic.evaluation.verdict import Comparison, Verdict, judge_means

__all__ = [
    "DEFAULT_LEVELS",
    "METRICS",
    "MINIMUM",
    "STRONG",
    "CheckerAudit",
    "Comparison",
    "Criterion",
    "Levels",
    "MeasureOptions",
    "Metric",
    "PairedComparison",
    "Possibility",
    "PromptTable",
    "Resampling",
    "SampledTable",
    "Verdict",
    "all_pass_at_k",
    "at_equal_length",
    "audit_checker",
    "compare",
    "criterion_possible",
    "detectable_effect",
    "find_metric",
    "hill_number",
    "impossible_criteria",
    "judge_means",
    "majority_curve",
    "measure_arms",
    "measure_rows",
    "metric",
    "most_pass_at_k",
    "pair_sameness",
    "paired_comparison",
    "pass_at_k",
    "pass_at_k_curve",
    "prompts_needed",
    "register_metric",
    "utility_curve",
    "utility_k",
]
