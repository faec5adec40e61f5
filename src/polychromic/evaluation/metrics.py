"""Registers every metric with its facts, which measurement, criteria, comparison, page and terminal ask for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from traceback import extract_tb
from types import CodeType
from typing import TYPE_CHECKING, Literal

from polychromic.errors import ConfigError, DataError
from polychromic.evaluation.counting.curves import CURVES, AtK, split_at_k
from polychromic.registry import is_import_path, resolve

if TYPE_CHECKING:
    from polychromic.evaluation.group_metrics import AnswerGroup

Direction = Literal["higher", "lower"]
Kind = Literal["diversity", "quality", "both", "length", "fault"]
"""The property that a metric measures; "both" needs answers to differ and to pass, as distinct correct answers do."""
MetricFunction = Callable[["AnswerGroup"], float]
"""Returns a metric's value from the answers to one prompt; nan where it has none."""

CHECKER, JUDGE, EMBEDDER = "a checker", "a judge", "an embedder"
SECOND = "task.second_same_answer"
THINKING = "thinking text and task.thinking: apart"
_TWO = "two answers a prompt"
_LONG = "at least half of a prompt's answers to have {} or more tokens"


@dataclass(frozen=True, slots=True)
class Metric:
    """Holds the facts of one metric.

    `better` is the direction of improvement, values lie in [lowest, highest], and `needs` is what has to be there for
    it to be measured. `meaning` explains it in one clause, `subject` names what rises or falls where the verdict is
    told in plain words ("": its name), `plural` says that the subject is one, and `unit` is that of
    its values. `signature` says how it is made, with {same} for how equal answers are found. `at_equal_length` is the
    metric that is read in its place where lengths differ ("": the same on texts cut to equal lengths), and `cut` says
    that cut texts tell something of it. `function` measures a
    metric of the user's own from the answers to one prompt.
    """

    key: str
    name: str
    better: Direction
    kind: Kind
    lowest: float = 0.0
    highest: float = 1.0
    needs: str = "texts"
    meaning: str = ""
    subject: str = ""
    plural: bool = False
    unit: str = ""
    signature: str = ""
    at_equal_length: str = ""
    cut: bool = True
    function: MetricFunction | None = None

    def __call__(self, answers: AnswerGroup) -> float:
        """Measures the answers to one prompt with the user's function.

        Raises DataError for a value that is infinite or outside the bounds or a function that fails, and TypeError for
        a metric that has none.
        """
        if self.function is None:
            raise TypeError(f"{self.key} is measured by the package, not by a function of its own")
        try:
            value = float(self.function(answers))
        except Exception as error:
            last = extract_tb(error.__traceback__)[-1]
            raise DataError(
                f"metric {self.key} for prompt {answers.prompt_id!r}: {type(error).__name__}: {error} "
                f"({last.filename}, line {last.lineno}); expected a number, or nan where there is none"
            ) from error
        if not self.takes(value):
            raise DataError(f"metric {self.key} = {value:g} for prompt {answers.prompt_id!r}; {self.bounds}")
        return value

    def takes(self, value: float) -> bool:
        """Tells whether the metric may have this value: a finite one within its bounds, or nan where it has none."""
        return math.isnan(value) or (math.isfinite(value) and self.lowest <= value <= self.highest)

    @property
    def bounds(self) -> str:
        """Returns in words which values there may be."""
        return f"its values lie between {self.lowest:g} and {self.highest:g}, and are finite or nan"

    @property
    def best(self) -> float:
        """Returns the bound that a perfect value reaches (infinite where there is none)."""
        return self.highest if self.better == "higher" else self.lowest

    @property
    def rests_on_rewards(self) -> bool:
        """Tells whether answers without a reward are left out of it."""
        return self.needs.startswith(CHECKER) and self.kind != "fault"

    @property
    def place(self) -> str:
        """Returns the name of the file that defines the function."""
        code = _code(self)
        return Path(code.co_filename).name if code else ""

    @property
    def sign(self) -> float:
        """Returns +1 where higher is better, −1 where lower is."""
        return 1.0 if self.better == "higher" else -1.0


def _share(n: str, key: str, name: str, at_equal_length: str = "") -> Metric:
    meaning = f"Share of different {n} among all {n} of a prompt's answers"
    needs, subject = _LONG.format(key[-1]), f"the variety of wording ({name})"
    return Metric(key, name, "higher", "diversity", 0.0, 1.0, needs, meaning, subject, at_equal_length=at_equal_length)


_BUILT_IN = (
    Metric(
        "tokens", "Length in tokens", "higher", "length", 0.0, math.inf,
        meaning="Tokens an answer", subject="the length of an answer", unit="tokens",
    ),
    Metric(
        "rarefied_distinct_2", "Distinct-2 (rarefied)", "higher", "diversity", needs=_LONG.format(2),
        meaning="Share of different word pairs in texts cut to the same number of words",
        subject="the variety of wording (Distinct-2, rarefied)", cut=False,
    ),
    _share("words", "distinct_1", "Distinct-1"),
    _share("word pairs", "distinct_2", "Distinct-2", at_equal_length="rarefied_distinct_2"),
    _share("word triples", "distinct_3", "Distinct-3"),
    Metric(
        "self_bleu", "Self-BLEU", "lower", "diversity", needs=f"{_TWO}, and {_LONG.format(4)}",
        meaning="How much of each answer's wording the prompt's other answers share",
        subject="the wording that answers share (Self-BLEU)",
    ),
    Metric(
        "rouge_l", "ROUGE-L", "lower", "diversity", needs=f"{_TWO}, and {_LONG.format(1)}",
        meaning="Mean overlap of two answers by their longest common subsequence",
        subject="the wording that answers share (ROUGE-L)",
    ),
    Metric(
        "compression_ratio", "Compression ratio", "lower", "diversity", 0.0, math.inf,
        meaning="How many times smaller a prompt's answers become when compressed together",
        subject="the repetition in answers (compression ratio)",
    ),
    Metric(
        "distinct_texts", "Distinct texts", "higher", "diversity", 0.0, math.inf,
        meaning="Different texts among a prompt's answers", subject="different texts for a prompt", plural=True,
        cut=False,
    ),
    Metric(
        "clusters", "Distinct answers", "higher", "diversity", 0.0, math.inf,
        meaning="Answers to a prompt that count as different", subject="different answers to a prompt", plural=True,
        signature="clusters|same:{same}",
    ),
    Metric(
        "second_clusters", "Distinct answers (second partition)", "higher", "diversity", 0.0, math.inf, SECOND,
        meaning="Answers to a prompt that count as different by a second partition, which training never saw",
        subject="different answers to a prompt by the second partition", plural=True, cut=False,
    ),
    Metric(
        "hill_1", "Effective answers (Hill 1)", "higher", "diversity", 1.0, math.inf,
        meaning="Effective number of different answers: exp of the entropy of their shares",
        subject="the effective number of different answers (Hill 1)", signature="hill|q:1|same:{same}",
    ),
    Metric(
        "hill_2", "Effective answers (Hill 2)", "higher", "diversity", 1.0, math.inf,
        meaning="Effective number of different answers in which rare ones hardly count: one over the sum of squared "
        "shares",
        subject="the effective number of frequent answers (Hill 2)", signature="hill|q:2|same:{same}",
    ),
    Metric(
        "sameness", "Same answer twice", "lower", "diversity", needs=_TWO,
        meaning="Chance that two answers to a prompt are the same, estimated without bias",
        subject="the chance that two answers are the same", signature="sameness|same:{same}",
    ),
    Metric(
        "semantic_distance", "Semantic distance", "higher", "diversity", 0.0, 2.0, EMBEDDER,
        meaning="Mean cosine distance between the embeddings of two answers",
        subject="the distance in meaning between answers",
    ),
    Metric(
        "vendi", "Vendi score", "higher", "diversity", 1.0, math.inf, EMBEDDER,
        meaning="Effective number of different answers, from the eigenvalues of their similarities",
        subject="the effective number of different answers (Vendi score)",
    ),
    Metric(
        "distinct_correct", "Distinct correct answers", "higher", "both", 0.0, math.inf, CHECKER,
        meaning="Different answers to a prompt that pass the checker",
        subject="different correct answers to a prompt", plural=True, signature="distinct_correct|same:{same}",
    ),
    Metric(
        "reward", "Reward", "higher", "quality", needs=CHECKER,
        meaning="Mean mark that the training checker gives an answer", subject="the mean quality of an answer",
    ),
    Metric(
        "best_of_n", "Best of n", "higher", "quality", needs=CHECKER,
        meaning="Mark of a prompt's best answer", subject="the quality of the best answer",
    ),
    Metric(
        "judge", "Judge", "higher", "quality", needs=JUDGE,
        meaning="Mean mark of a second checker that training never saw", subject="the judge's mean mark",
    ),
    Metric(
        "reference_perplexity", "Perplexity of references", "lower", "quality", 1.0, math.inf,
        "references and the model", meaning="Perplexity of the references under the model",
        subject="the perplexity of the references",
    ),
    Metric("thinking_words", "Thinking: words", "higher", "length", 0.0, math.inf, THINKING, unit="words"),
    Metric("thinking_distinct_2", "Thinking: Distinct-2", "higher", "diversity", needs=THINKING),
    Metric("thinking_self_bleu", "Thinking: Self-BLEU", "lower", "diversity", needs=THINKING),
    Metric(
        "thinking_compression_ratio", "Thinking: compression ratio", "lower", "diversity", 0.0, math.inf, THINKING
    ),
    Metric(
        "truncated", "Share truncated", "lower", "fault", meaning="Share of answers cut off at the token limit"
    ),
    Metric(
        "missing", "Share of rewards missing", "lower", "fault",
        meaning="Share of answers for which the checker failed; they count in no quality",
    ),
    Metric(
        "unanswered", "Share of answers not given", "lower", "fault", needs="verbalized sampling",
        meaning="Share of the answers asked for that were not given",
    ),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.key: metric for metric in _BUILT_IN}
"""By key, in the order in which they are shown. Beside these there are those of `CURVES` at any k, such as `pass@K`."""

_CODE_OF = "the code of "
_KEY = re.compile(r"[a-z][a-z0-9_]*")


def metric(
    name: str,
    *,
    key: str = "",
    better: Direction = "higher",
    kind: Kind = "diversity",
    lowest: float = 0.0,
    highest: float = math.inf,
    needs: str = "texts",
    meaning: str = "",
    subject: str = "",
    unit: str = "",
) -> Callable[[MetricFunction], Metric]:
    """Registers a function of the answers to one prompt as a metric; its key is the function's name unless stated.

    The function gets an `AnswerGroup` (texts, rewards, judgements, n_tokens, truncated, forms, labels) and returns a
    number in [lowest, highest], or nan. The other facts are those of `Metric`.
    """

    def register(function: MetricFunction) -> Metric:
        facts = Metric(
            key or function.__name__, name, better, kind, lowest, highest, needs, meaning,
            subject or name, unit=unit, function=function,
        )  # fmt: skip
        return register_metric(facts)

    return register


def register_metric(metric: Metric) -> Metric:
    """Makes a metric of your own known to measurement, criteria and reports, which all ask here.

    Its values come from its `function`, or by `measure_arms(extra=…)`. Raises ValueError for a key that is taken, or
    is no word of a–z, 0–9 and _.
    """
    if not _KEY.fullmatch(metric.key):
        raise ValueError(f"metric key {metric.key!r}: expected a word of a-z, 0-9 and _, such as readability")
    registered = METRICS.get(metric.key)
    if registered not in (None, metric) and not _replaces(metric, registered):
        raise ValueError(f"metric key {metric.key!r} is that of another metric; choose another")
    METRICS[metric.key] = metric
    return metric


def load_metrics(names: Sequence[str]) -> list[Metric]:
    """Returns the metrics of the user's own that `file.py:name` or `module:name` name, which runs that code.

    Raises ConfigError for a name that cannot be found, or is no metric with a function.
    """
    loaded = [resolve(name, METRICS, "metric") for name in names]
    for name, metric in zip(names, loaded, strict=True):
        if not isinstance(metric, Metric) or metric.function is None:
            raise ConfigError(
                f"metric {name!r} is a {type(metric).__name__} that is not registered; write "
                '@metric("Its name") above a function of the answers to one prompt (docs/evaluation.md)'
            )
        if metric.key != name.rpartition(":")[2]:
            raise ConfigError(f"metric {name!r} has the key {metric.key}; give the function that name")
    return loaded


def declare_metric(name: str) -> None:
    """Makes the key of a metric that `file.py:name` names known before its code is run: a run folder may be
    somebody else's, and reading its settings must run nothing."""
    if not is_import_path(name):
        raise ValueError(f"{name!r}: expected path/to/file.py:name or module:name of a metric of your own")
    key = name.rpartition(":")[2]
    METRICS.setdefault(key, Metric(key, key, "higher", "length", -math.inf, math.inf, f"{_CODE_OF}{name}"))


def require_addable(key: str, values: Iterable[float], measured: Collection[str]) -> None:
    """Raises ValueError for values from elsewhere that would be dropped or mistaken: of a metric that nobody
    registered, that is `measured` here, that is a point of a curve, or that lie outside its bounds."""
    if key not in METRICS:
        fault = "is read from a curve" if split_at_k(key) else "is not known"
        raise ValueError(f"extra: metric {key!r} {fault}; register_metric(Metric(...)) makes one of your own known")
    if key in measured:
        raise ValueError(f"extra: {key!r} is measured from the generations themselves; register another key")
    metric = METRICS[key]
    outside = [value for value in values if not metric.takes(value)]
    if outside:
        raise ValueError(f"extra: {key} = {outside[0]:g}, and {metric.bounds}")


def find_metric(key: str) -> Metric:
    """Returns the metric called `key`; raises ValueError that lists the known keys."""
    if key in METRICS:
        return METRICS[key]
    at_k = split_at_k(key)
    if at_k is None:
        expected = ", ".join([*(f"{curve.mark}K" for curve in CURVES.values()), *METRICS])
        raise ValueError(
            f"metric {key!r} is not known; expected one of {expected} (K a whole number), or one of your own that "
            "evaluation.metrics names"
        )
    return _metric_at_k(key, CURVES[at_k[0]], at_k[1])


def _metric_at_k(key: str, curve: AtK, k: int) -> Metric:
    """Fills k into the facts of a curve. Raises ValueError for a k beyond those it is computed for."""
    if curve.most_k and k > curve.most_k:
        raise ValueError(f"metric {key!r}: {curve.mark}K is computed for K up to {curve.most_k}")
    needs = "texts" if curve.kind == "diversity" else CHECKER
    if k > 1:
        needs += f", and at least {k} {'judged ' if needs == CHECKER else ''}answers a prompt"
    alone = curve.name == "pass" and k == 1
    title, meaning, subject, signature = (
        text.replace("{k}", str(k))
        for text in (curve.title, curve.meaning, curve.subject, f"{curve.signature}|k:{{k}}")
    )
    return Metric(
        key, title, "higher", "quality" if alone else curve.kind, 0.0, float(k) if curve.grows else 1.0, needs,
        meaning, "the chance that a single answer passes" if alone else subject, curve.plural, signature=signature,
    )  # fmt: skip


def _replaces(metric: Metric, registered: Metric) -> bool:
    """Returns True where the registered metric was only declared, is an earlier version of the same function, or comes
    from a copy of its file."""
    if registered.needs.startswith(_CODE_OF):
        return True
    new, old = _code(metric), _code(registered)
    if new is None or old is None:
        return False
    is_copy = new == old and replace(metric, function=None) == replace(registered, function=None)
    return is_copy or (new.co_filename, new.co_qualname) == (old.co_filename, old.co_qualname)


def _code(metric: Metric) -> CodeType | None:
    return getattr(metric.function, "__code__", None)
