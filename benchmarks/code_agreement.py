"""Counts pairs of programs that are one approach by their form, by what they do, by both, or by neither.

    python benchmarks/code_agreement.py [--prompts 40] [--samples 16]

Programs are samples of the packaged model at temperature 1 on validation problems of the task `functions`; pairs are of
programs to one problem with different texts, over all programs that are Python, and over those that pass.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import combinations

from polychromic.models.loading import load_language_model
from polychromic.models.settings import ModelSettings
from polychromic.records import SamplingParameters
from polychromic.sampling.local import LocalSampler
from polychromic.seeding import child_seed
from polychromic.tasks.code import CodeTask
from polychromic.tasks.code.forms import canonical_form
from polychromic.tasks.code.functions import make_problems


def main() -> None:
    """Sample, divide both ways and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--samples", type=int, default=16)
    arguments = parser.parse_args()
    problems = {"validation": make_problems("validation", arguments.prompts, 0)}
    by_form, by_behaviour = (CodeTask("functions", problems, same_answer=same) for same in ("form", "behaviour"))
    prompts = by_form.prompts("validation")
    sampler = LocalSampler(load_language_model(ModelSettings(source="polychromic:functions-tiny")))
    groups = sampler.sample(
        prompts,
        arguments.samples,
        SamplingParameters(max_new_tokens=80),
        [child_seed("code-agreement", prompt.id) for prompt in prompts],
    )
    counts: dict[str, Counter[tuple[bool, bool]]] = {"all": Counter(), "that pass": Counter()}
    for prompt, group in zip(prompts, groups, strict=True):
        texts = [text for text in dict.fromkeys(one.text for one in group) if canonical_form(text)]
        checks = by_form.check([prompt] * len(texts), texts)
        labels = [(by_form.cluster(prompt, text), by_behaviour.cluster(prompt, text)) for text in texts]
        for (a, first), (b, second) in combinations(zip(labels, checks, strict=True), 2):
            same = (a[0] == b[0], a[1] == b[1])
            counts["all"][same] += 1
            if first.reward == second.reward == 1.0:
                counts["that pass"][same] += 1
    print("programs | pairs | one by both | by form alone | by behaviour alone | by neither | agreement")
    for name, pairs in counts.items():
        both, form, behaviour, neither = (
            pairs[same] for same in ((True, True), (True, False), (False, True), (False, False))
        )
        n = pairs.total()
        agreement = (both + neither) / n if n else float("nan")
        print(f"{name} | {n:,} | {both:,} | {form:,} | {behaviour:,} | {neither:,} | {agreement:.3f}")


if __name__ == "__main__":
    main()
