"""A metric for `code.yaml`: styles among the programs that pass, which no choice of names or small writings moves."""

from polychromic.evaluation import metric
from polychromic.tasks.code.styles import style_of


@metric(
    "Styles that pass",
    better="higher",
    kind="diversity",
    meaning="Different styles (loop, while loop, recursion, comprehension, filter and map, step by step) among a "
    "prompt's programs that pass",
)
def styles_that_pass(answers):
    """Returns the number of styles among the programs that pass."""
    pairs = zip(answers.texts, answers.rewards, strict=True)
    return float(len({style_of(text) for text, reward in pairs if reward == 1.0}))
