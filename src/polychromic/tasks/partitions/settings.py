"""States which answers are the same: `task.same_answer` and `task.second_same_answer` of an experiment file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from polychromic.diversity.pairwise import Rule
from polychromic.registry import is_import_path
from polychromic.settings import Settings

FUNCTION = "a function"
SAME_ANSWERS: Mapping[str, frozenset[str]] = {
    "normalised": frozenset(),
    "exact": frozenset(),
    "canonical": frozenset(),
    "embedding": frozenset({"distance", "embedder"}),
    "classifier": frozenset({"model", "threshold", "same_label", "max_length", "rule"}),
    "judge": frozenset(
        {
            "model", "base_url", "api_key_env", "instructions", "options", "seconds", "retries", "concurrency",
            "input_dollars", "output_dollars", "rule",
        }
    ),
    FUNCTION: frozenset({"seconds", "rule"}),
}  # fmt: skip
"""The kinds, with the keys that each reads beside `kind` and `references`."""


class SameAnswer(Settings):
    """States which answers are the same: `same_answer: normalised`, or the kind with its keys (docs/same-answer.md)."""

    more_kinds: ClassVar[tuple[str, ...]] = ()

    kind: str
    """`normalised`, `exact`, `canonical`, `embedding`, `classifier`, `judge`, `path/to/file.py:function` or
    `module:function`."""
    references: Literal["different", "same"] = "different"
    """Meaning of several references of one prompt: `different` right answers, which must not be merged, or spellings of
    the `same` answer, which must be. The audit asks; a `calibrated` distance takes them for the same."""
    distance: float | Literal["calibrated"] | None = None
    """Of `embedding`: the largest distance (1 − cosine) within a cluster, 0.25 unless stated; `calibrated` chooses it
    on the references of the training prompts."""
    embedder: str | None = None
    """Of `embedding`: another embedder than the task's."""
    model: str | None = None
    """Of `classifier`: a cross-encoder's hub id or folder. Of `judge`: the model's name at the endpoint."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Of `classifier`: the probability from which two texts are the same."""
    same_label: int = Field(default=1, ge=0)
    """Of a `classifier` with several labels: the number of the one that says that two texts are the same."""
    max_length: int | None = Field(default=None, ge=8)
    """Of `classifier`: tokens of a pair, beyond which the longer text is cut; the model's own limit unless stated."""
    base_url: str | None = None
    """Of `judge`: the endpoint, such as http://localhost:8000/v1; OpenAI's unless stated."""
    api_key_env: str = "OPENAI_API_KEY"
    """Of `judge`: the environment variable that holds the key. An endpoint of one's own may need none."""
    instructions: str | None = None
    """Of `judge`: what it is told in place of the package's words; its reply has to begin with yes or no."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of `judge`: what every request says beside the messages, such as {reasoning_effort: low}; temperature 0 and
    max_tokens 16 unless stated."""
    seconds: float = Field(default=10.0, gt=0)
    """Longest time for one call of a function of the user's own, or for one request to a judge."""
    retries: int = Field(default=4, ge=0)
    """Of `judge`: how often a request is made again after 408, 409, 429, 5xx or a lost connection."""
    concurrency: int = Field(default=8, ge=1)
    """Of `judge`: requests at one time."""
    input_dollars: float | None = Field(default=None, ge=0)
    """Of `judge`: price of a million tokens that it reads."""
    output_dollars: float | None = Field(default=None, ge=0)
    """Of `judge`: price of a million tokens that it writes."""
    rule: Rule = "greedy"
    """Rule that makes a partition of answers about pairs: `greedy`, each text joins the first class whose first member
    is the same, or `transitive`, which also makes classes one that share a text."""

    @property
    def is_code(self) -> bool:
        """Returns True where the kind names a function of the user's own."""
        return is_import_path(self.kind)

    @property
    def service(self) -> str | None:
        """Returns the address that texts are sent to; None where they stay on this machine."""
        return (self.base_url or "https://api.openai.com/v1") if self.kind == "judge" else None

    @property
    def references_are_same(self) -> bool:
        """Returns True where several references of one prompt are spellings of one answer."""
        return self.references == "same" or self.distance == "calibrated"

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if (self.kind not in (*SAME_ANSWERS, *self.more_kinds) and not self.is_code) or self.kind == FUNCTION:
            kinds = ", ".join(kind for kind in (*SAME_ANSWERS, *self.more_kinds) if kind != FUNCTION)
            raise ValueError(
                f"{self.kind!r} is not known, expected {kinds}, path/to/file.py:function or module:function"
            )
        self._require_own_keys()
        if isinstance(self.distance, float) and not 0.0 < self.distance < 2.0:
            raise ValueError(f"distance {self.distance:g}: expected 1 − cosine between 0 and 2, or calibrated")
        if self.kind in ("classifier", "judge") and not self.model:
            expected = "a cross-encoder's hub id or folder" if self.kind == "classifier" else "a model's name"
            raise ValueError(f"{self.kind} needs model: {expected}")
        if self.kind == "judge" and (self.input_dollars is None) != (self.output_dollars is None):
            raise ValueError("a judge's price is both input_dollars and output_dollars, a million tokens each")
        return self

    def _require_own_keys(self) -> None:
        """Raises ValueError for a key that the kind does not read, unless it has its default: what would be ignored."""
        read = SAME_ANSWERS.get(FUNCTION if self.is_code else self.kind, frozenset())
        for name, field in type(self).model_fields.items():
            default = field.get_default(call_default_factory=True, validated_data={})
            if name in ("kind", "references") or name in read or getattr(self, name) == default:
                continue
            kinds = " or ".join(kind for kind, keys in SAME_ANSWERS.items() if name in keys)
            raise ValueError(f"{name} is read with kind {kinds}, not with {self.kind}")


NORMALISED = SameAnswer(kind="normalised")


class SecondSameAnswer(SameAnswer):
    """States a second partition that training never sees: `auto` (one that is blind to other things than the first),
    `none`, or any kind of `same_answer`."""

    more_kinds: ClassVar[tuple[str, ...]] = ("auto", "none")

    kind: str = "auto"
    """`auto`, `none`, or what `same_answer` takes."""

    def beside(self, first: SameAnswer | None, embedder: str | None) -> SameAnswer | None:
        """Returns what is stated; for `auto` a partition that is blind to other things than `first`, or None where no
        such is known, as beside a task's own form.

        Beside spelling, functions, classifiers and judges that is meaning by `embedder` (evaluation's) where there is
        one, else shared wording by hashed n-grams; beside meaning it is shared wording. Normalised texts never are:
        they hold apart all that any other partition holds apart, so that they can contradict none.
        """
        if self.kind != "auto":
            return None if self.kind == "none" else self
        if first is None or first.kind == "canonical":
            return None
        if first.kind != "embedding" and embedder not in (None, "hash"):
            return SameAnswer(kind="embedding", embedder=embedder)
        if first.kind == "embedding" and first.embedder == "hash":
            return None
        return SameAnswer(kind="embedding", embedder="hash", distance=HASHED_DISTANCE)


AUTO = SecondSameAnswer()
HASHED_DISTANCE = 0.7
"""Between hashed n-grams of texts that share their wording and of texts that do not (docs/same-answer.md)."""
