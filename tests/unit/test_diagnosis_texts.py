"""Scripts of generated texts, and what counts as switching between them."""

import pytest

from polychromic.diagnosis.traces import main_script, switched, text_figures
from polychromic.records import GenerationRow, SamplingParameters


def row(text, **changes):
    values = {
        "prompt_id": "p", "index": 0, "text": text, "n_tokens": 4, "finish": "stop",
        "sampling": SamplingParameters(), "sampling_seed": 0, "reward": 1.0,
    }  # fmt: skip
    return GenerationRow(**(values | changes))


def test_scripts_are_told_by_letters():
    assert main_script("Добрый day") == "CYRILLIC"
    assert main_script("ひらがな と 漢字") == "CJK"
    assert main_script("123 + 4 = ?") == ""
    figures = text_figures([row("good day"), row("bonjour"), row("добрый"), row("12", finish="length")])
    assert figures.scripts == pytest.approx({"LATIN": 2 / 3, "CYRILLIC": 1 / 3})
    assert figures.truncated == 0.25


def test_switching_is_what_the_baseline_does_not_do_too():
    """Past bug: on prompts in two scripts, an arm that answered just as the baseline did was said to switch."""
    mixed = text_figures([row("the end of this"), row("a word that is not here"), row("добрый"), row("день")])
    assert switched(mixed, mixed) == (0.0, "")
    more = text_figures([row("the end of this"), row("добрый"), row("день"), row("вечер")])
    assert switched(more, mixed) == (0.25, "CYRILLIC")
