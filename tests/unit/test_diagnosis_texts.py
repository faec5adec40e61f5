"""Scripts and languages of generated texts, and what counts as switching between them."""

import pytest

from polychromic.diagnosis.traces import main_language, main_script, switched, text_figures
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


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("I think that this is the best of all ideas.", "English"),
        ("Ich glaube, das ist nicht die beste Idee.", "German"),
        ("Je pense que vous avez une idée, et elle est dans le sac.", "French"),
        ("Creo que es una buena idea, pero no está muy clara.", "Spanish"),
        ("Non è una buona idea, ma per me va bene anche questo.", "Italian"),
        ("Eu acho que isso não é muito bom, mas você pode.", "Portuguese"),
        ("Ik denk dat het niet een goed idee is.", "Dutch"),
        ("(8-6)*(1*4)", ""),
        ("Absolutely wonderful!", ""),
    ],
)
def test_languages_are_told_by_their_common_words(text, language):
    assert main_language(text) == language


def test_switching_is_what_the_baseline_does_not_do_too():
    """Past bug: on prompts in two scripts, an arm that answered just as the baseline did was said to switch."""
    mixed = text_figures([row("the end of this"), row("a word that is not here"), row("добрый"), row("день")])
    assert switched(mixed, mixed) == (0.0, "")
    more = text_figures([row("the end of this"), row("добрый"), row("день"), row("вечер")])
    assert switched(more, mixed) == (0.25, "CYRILLIC")
    german = text_figures([row("das ist nicht gut"), row("das ist der Hut"), row("добрый"), row("день")])
    assert switched(german, mixed) == (0.5, "German")
