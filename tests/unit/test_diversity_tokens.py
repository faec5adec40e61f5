"""Units of text: words, characters, Unicode words, code, a model's tokens; and what texts are too short for."""

import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polychromic.diversity import MeasureSettings, distinct_n, measure_group, measure_signatures, self_bleu
from polychromic.diversity.tokens import ModelTokens, choose_tokens, cut_text, tokenizer_of
from polychromic.errors import ConfigError
from polychromic.evaluation.lengths import cut_to_equal_lengths
from polychromic.evaluation.settings import EvaluationSettings
from polychromic.experiment.compare import text_units
from polychromic.experiment.config import Experiment
from polychromic.experiment.external import ExternalExperiment, evaluate_external
from polychromic.records import Prompt, as_messages
from polychromic.run_folder import RunFolder
from polychromic.tasks.base import build_task
from polychromic.tasks.checking.checkers import contains, exact_match, rouge_l

CHINESE = ["我喜欢在北京吃烤鸭。", "今天的天气非常好。", "他昨天去了上海图书馆。"]


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        ("words", "It's 3.14 o'clock.", ["It's", "3.14", "o'clock."]),
        ("unicode", "It's 3.14 o'clock.", ["It's", "3.14", "o'clock", "."]),
        ("unicode", "我爱北京。", ["我", "爱", "北", "京", "。"]),
        ("unicode", "8-(13-2)", ["8", "-", "(", "13", "-", "2", ")"]),
        ("characters", "8 - 13", ["8", "-", "1", "3"]),
        ("characters", "👩‍👩‍👧 cafe\u0301", ["👩‍👩‍👧", "c", "a", "f", "e\u0301"]),
        ("characters", "สวัสดี", ["ส", "วั", "ส", "ดี"]),
        (
            "code",
            "def f(x):\n    return x+1  # one more",
            ["def", "f", "(", "x", ")", ":", "return", "x", "+", "1", "# one more"],
        ),
        ("code:javascript", "let a=b=>c", ["let", "a", "=", "b", "=>", "c"]),
        ("rouge", "Naïve, A_b", ["na", "ve", "a", "b"]),
    ],
)
def test_units(tokens, text, expected):
    assert list(tokenizer_of(tokens)(text)) == expected


@given(st.text(), st.sampled_from(["words", "characters", "unicode", "code"]))
def test_any_text_is_cut_into_tokens_that_are_not_empty(text, tokens):
    assert all(token.strip() for token in tokenizer_of(tokens)(text))


@given(st.text(max_size=30), st.integers(0, 12), st.sampled_from(["words", "characters", "unicode"]))
def test_a_cut_text_holds_the_first_tokens(text, n, tokens):
    split = tokenizer_of(tokens)
    assert list(split(cut_text(text, n, tokens))) == list(split(text))[:n]


def test_texts_without_spaces_are_cut_to_equal_lengths_in_their_own_unit():
    a, b = cut_to_equal_lengths(["我喜欢北京"], ["我爱"], "unicode")
    assert (a, b) == (["我喜"], ["我爱"])


@pytest.mark.parametrize(
    ("texts", "unit"),
    [
        (["The cat sat.", "A dog ran (fast)."], "words"),
        (["Paris", "London", "(Rome)."], "words"),
        (CHINESE, "unicode"),
        (["カタカナとひらがな", "漢字を書く"], "unicode"),
        (["สวัสดีครับ ผมชื่อสมชาย"], "unicode"),
        (["안녕하세요 저는 학생입니다"], "words"),
        (["8-(3-2)*4", "1+2+3-4"], "unicode"),
        ([], "words"),
        (["", "  "], "words"),
    ],
)
def test_the_unit_is_chosen_by_the_script(texts, unit):
    chosen, why = choose_tokens(texts)
    assert (chosen, bool(why)) == (unit, True)


def test_vowels_that_are_marks_are_no_letters_of_their_own():
    """Thai was "131 % of the letters": its vowels above and below a consonant counted on one side alone."""
    assert choose_tokens(["สวัสดีครับ ผมชื่อสมชาย"])[1].startswith("100 % of the letters")


def test_the_unit_is_in_the_signature():
    for tokens in ("words", "characters", "unicode", "code", "code:rust"):
        assert f"|tokens:{tokens}|" in str(measure_signatures(MeasureSettings(tokens=tokens), 4)["distinct_2"])


def test_three_identical_chinese_sentences_are_called_identical():
    """By words they were three one-word texts, with a Self-BLEU of 0.178."""
    values = measure_group(CHINESE[:1] * 3, MeasureSettings(tokens="unicode")).values
    assert values["self_bleu"] == pytest.approx(1.0)
    assert values["distinct_2"] == pytest.approx(1 / 3)


# Too short. --------------------------------------------------------------------------------------------------------


def test_measures_that_texts_are_too_short_for_are_undefined_with_the_reason():
    """Identical one-word texts once scored 0.178, as if they were diverse."""
    measured = measure_group(["Mars"] * 8)
    assert self_bleu(["Mars"] * 8) == pytest.approx(0.178, abs=1e-3)  # what the reference tool says
    assert measured.undefined == {
        "rarefied_distinct_2": "fewer than 50 n-grams of length 2",
        "distinct_2": "no n-gram of length 2",
        "distinct_3": "no n-gram of length 3",
        "self_bleu": "fewer than half of the texts have 4 tokens",
    }
    assert all(math.isnan(measured.values[key]) for key in measured.undefined)
    assert measured.values["rouge_l"] == 1.0
    assert measured.values["distinct_1"] == 1 / 8


def test_one_longer_text_does_not_speak_for_the_short_ones():
    measured = measure_group(["Mars"] * 7 + ["I would say Venus then"])
    assert distinct_n(["Mars"] * 7 + ["I would say Venus then"], 2) == 1.0
    for key, n in (("distinct_2", 2), ("distinct_3", 3), ("self_bleu", 4)):
        assert measured.undefined[key] == f"fewer than half of the texts have {n} tokens"


def test_self_bleu_leaves_the_few_short_texts_out():
    texts = ["the cat sat on the mat"] * 6 + ["no", "no"]
    assert measure_group(texts).values["self_bleu"] == pytest.approx(1.0)
    assert self_bleu(texts, leave_out_short=True) == pytest.approx(1.0)
    assert self_bleu(texts) < 0.8


def test_texts_without_words_have_no_rouge_l():
    measured = measure_group(["", " ", "\n", "a"])
    assert math.isnan(measured.values["rouge_l"])
    assert measured.undefined["rouge_l"] == "fewer than half of the texts have 1 token"


# In an experiment. -------------------------------------------------------------------------------------------------


def test_distinct_2_is_defined_for_arithmetic():
    """Expressions have no spaces, and by words it was undefined everywhere."""
    experiment = Experiment.from_file("experiments/quickstart.yaml")
    units = text_units(experiment, build_task(experiment.task), [])
    assert units.tokens == "characters"
    assert "expressions have no spaces" in units.notes()[0].text
    values = measure_group(["8-(3-2)", "8-3+2"], MeasureSettings(tokens=units.tokens)).values
    assert 0 < values["distinct_2"] < 1


class CodeTask:
    name = "custom"

    def prompts(self, split):
        return [Prompt("p", as_messages("def f"), meta={"entry_point": "f"})]


def test_a_task_with_entry_points_is_measured_as_code():
    experiment = Experiment.from_file("experiments/replies.yaml")
    units = text_units(experiment, CodeTask(), ["x = 1"])
    assert (units.tokens, units.chosen) == ("code", "prompts with entry_point ask for Python code")


def test_a_models_own_tokens(tiny_model):
    tokens = ModelTokens(tiny_model.tokenizer, "tiny")
    again = pickle.loads(pickle.dumps(tokens))
    assert tokens.name.startswith("model:tiny@") and again == tokens
    assert list(tokens("1+2")) == tiny_model.tokenizer.tokenize("1+2")
    assert list(tokens(tokens.cut("1+2*3", 2))) == list(tokens("1+2*3"))[:2]
    settings = MeasureSettings(tokens=tokens)
    assert f"|tokens:{tokens.name}|" in str(measure_signatures(settings, 2)["distinct_2"])
    assert measure_group(["1+2", "1+2"], settings).values["distinct_2"] == 0.5


@pytest.mark.parametrize(
    ("tokens", "message"),
    [("word", "'word' is not known, expected auto, words"), ("code:klingon", "a language that Pygments has")],
)
def test_an_unknown_unit_is_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        EvaluationSettings(tokens=tokens)


def test_chinese_files_are_measured_in_unicode_words_and_the_page_says_so(tmp_path):
    prompts = [{"id": f"p{i}", "prompt": f"问题{i}", "references": ["北京"]} for i in range(6)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (tmp_path / "e.yaml").write_text("name: mine\ntask: {name: custom, test: prompts.jsonl, checker: contains}\n")
    files = {}
    for arm, texts in (("a", [CHINESE[0]] * 3), ("b", CHINESE)):
        rows = [{"id": f"p{i}", "texts": texts} for i in range(6)]
        (tmp_path / f"{arm}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[arm] = [str(tmp_path / f"{arm}.jsonl")]
    comparison = evaluate_external(
        ExternalExperiment.from_file(tmp_path / "e.yaml", files), RunFolder(tmp_path / "mine")
    ).comparison
    (note,) = [one.text for one in comparison.warnings if one.kind == "units of text"]
    assert note.startswith("measures of texts count Unicode words and marks (100 % of the letters are of scripts")
    assert "|tokens:unicode|" in comparison.signatures["distinct_2"]
    assert comparison.mean("a", "self_bleu").mean == pytest.approx(1.0)
    assert note[1:] in (tmp_path / "mine" / "report.html").read_text()
    with pytest.raises(ConfigError, match="files of generations come without a model"):
        evaluate_external(
            ExternalExperiment.from_file(tmp_path / "e.yaml", files, ["evaluation.tokens=model"]),
            RunFolder(tmp_path / "mine"),
        )


# Built-in checkers. ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "text", "expected"),
    [
        ("The cat sat on the mat.", "the cat, sat on a mat!", 0.833333),
        ("It's 3.14 o'clock", "its 3.14 oclock", 0.4),
        ("state-of-the-art results", "State of the art", 0.888889),
        ("naïve café", "naive cafe", 0.0),
        ("Don't stop", "dont stop", 0.4),
        ("hello", "", 0.0),
        ("A_b", "a b", 1.0),
    ],
)
def test_rouge_l_gives_the_numbers_of_the_rouge_score_package(reference, text, expected):
    """Words were once cut at white space: `mat.` and `mat` were two, and every full stop cost a match."""
    assert rouge_l(Prompt("p", as_messages("?"), (reference,)), text) == pytest.approx(expected, abs=1e-6)


def test_rouge_l_of_other_scripts_is_not_a_silent_zero():
    assert rouge_l(Prompt("p", as_messages("?"), ("我爱北京",)), "我爱上海") == pytest.approx(0.5)


def test_one_accent_written_in_two_ways_is_one():
    prompt = Prompt("p", as_messages("?"), ("caf\u00e9",))
    assert exact_match(prompt, " cafe\u0301\n")
    assert contains(prompt, "a Cafe\u0301!")
