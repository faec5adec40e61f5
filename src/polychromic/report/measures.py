"""What each measure says and how it was made, for those who read the page and those who repeat it."""

from __future__ import annotations

from polychromic.evaluation.comparison import Comparison
from polychromic.evaluation.metrics import split_at_k

_MEANINGS = {
    "rarefied_distinct_2": "Share of different word pairs in texts cut to the same number of words",
    "distinct_1": "Share of different words among all words of a prompt's answers",
    "distinct_2": "Share of different word pairs among all word pairs of a prompt's answers",
    "distinct_3": "Share of different word triples among all word triples of a prompt's answers",
    "self_bleu": "How much of each answer's wording the prompt's other answers share",
    "rouge_l": "Mean overlap of two answers by their longest common subsequence",
    "compression_ratio": "How many times smaller a prompt's answers become when compressed together",
    "distinct_texts": "Different texts among a prompt's answers",
    "clusters": "Answers to a prompt that count as different",
    "semantic_distance": "Mean cosine distance between the embeddings of two answers",
    "vendi": "Effective number of different answers, from the eigenvalues of their similarities",
    "distinct_correct": "Different answers to a prompt that pass the checker",
    "reward": "Mean mark that the training checker gives an answer",
    "best_of_n": "Mark of a prompt's best answer",
    "judge": "Mean mark of a second checker that training never saw",
    "reference_perplexity": "Perplexity of the references under the model",
    "tokens": "Tokens an answer",
    "truncated": "Share of answers cut off at the token limit",
    "missing": "Share of answers for which the checker failed; they count in no quality",
    "unanswered": "Share of the answers asked for that were not given",
    "pass": "Chance that at least one of {k} answers passes the checker",
    "distinct_correct_at": "Different passing answers expected among {k}",
}
_ESTIMATORS = {
    "pass": "passes(reward >= pass_threshold)|estimator:1-C(n-c,k)/C(n,k)|k:{k}",
    "distinct_correct": "same:{clusters}|passes(reward >= pass_threshold)|"
    "estimator:sum over different answers a of 1-C(n-n_a,k)/C(n,k)|k:{k}",
}


def meaning(key: str) -> str:
    """A metric in one clause; empty for one that has no clause here."""
    at_k = split_at_k(key)
    if at_k is None:
        return _MEANINGS.get(key, "")
    curve, k = at_k
    return _MEANINGS["pass" if curve == "pass" else "distinct_correct_at"].format(k=k)


def how_made(comparison: Comparison, key: str) -> str:
    """The signature with which somebody else gets the same number; empty where its meaning says all."""
    at_k = split_at_k(key)
    if at_k is not None:
        curve, k = at_k
        return f"{curve}|" + _ESTIMATORS[curve].format(k=k, clusters=comparison.clusters)
    fallback = f"{key}|same:{comparison.clusters}" if key in ("clusters", "distinct_correct") else ""
    return comparison.signatures.get(key, fallback)


def signatures(comparison: Comparison) -> dict[str, str]:
    """Every signature of the comparison's measures at the headline, those at k once for all k."""
    found: dict[str, str] = {}
    for key in dict.fromkeys(one.metric for one in comparison.means if one.sampling == comparison.headline):
        made = how_made(comparison, key)
        at_k = split_at_k(key)
        if at_k is not None:
            found.setdefault(f"{at_k[0]}@k", made.rsplit("|", 1)[0])
        elif made:
            found[key] = made
    return found
