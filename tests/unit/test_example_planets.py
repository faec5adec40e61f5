"""The example's planets: counted by hand, by its function, and as far as spelling goes."""

import importlib.util
import json
import random
from pathlib import Path

import pytest

from polychromic.diversity.equivalence import Exact, Normalised, partition
from polychromic.tasks.jsonl_task import load_prompts

EXAMPLE = Path("examples/own_generations")
PLANET = next(prompt for prompt in load_prompts(EXAMPLE / "prompts.jsonl") if prompt.id == "planet")
BY_HAND = {
    "baseline": {"Saturn", "Jupiter", "Venus", "Mercury"},
    "ours": {"Saturn", "Mars", "Uranus", "Mercury", "Venus"},
}


def texts(arm):
    rows = map(json.loads, (EXAMPLE / f"{arm}.jsonl").read_text().splitlines())
    return [row["text"] for row in rows if row["prompt_id"] == "planet" and row["temperature"] == 1.0]


def respelt(text, generator):
    """Returns the text in another case, with other white space around it and another mark at its end."""
    changed = generator.choice([str.upper, str.lower, str.title, str])(text).rstrip(".!?")
    return generator.choice(["", " ", "\t"]) + changed + generator.choice(["", ".", "!", "...", "?"])


@pytest.mark.parametrize("arm", BY_HAND)
def test_the_function_finds_the_planets_that_a_reader_does(arm):
    found = importlib.util.spec_from_file_location("same", EXAMPLE / "same.py")
    same = importlib.util.module_from_spec(found)
    found.loader.exec_module(same)
    generator = random.Random(0)

    answers = texts(arm)

    for group in (answers, [respelt(text, generator) for text in answers]):
        assert {same.named(PLANET, text) for text in group} & set(PLANET.references) == BY_HAND[arm]
        wrong = {same.named(PLANET, text) for text in group} - set(PLANET.references)
        assert wrong == {"baseline": {"it depends"}, "ours": {"a banana"}}[arm]


@pytest.mark.parametrize(("arm", "n_spellings"), [("baseline", 7), ("ours", 9)])
def test_normalised_is_right_as_far_as_spelling_goes(arm, n_spellings):
    """Seven and nine wordings of five and six answers: spelt anew they stay as many; by character, ten."""
    generator = random.Random(0)
    answers = texts(arm)
    changed = [respelt(text, generator) for text in answers]

    counts = {
        (name, kind): len(set(partition(equivalence, PLANET, group).tolist()))
        for name, equivalence in (("exact", Exact()), ("normalised", Normalised()))
        for kind, group in (("as given", answers), ("respelt", changed))
    }

    assert counts["normalised", "as given"] == counts["normalised", "respelt"] == n_spellings
    assert counts["exact", "as given"] == n_spellings
    assert counts["exact", "respelt"] == len(answers)
