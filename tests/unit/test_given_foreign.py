"""Files of other tools: how they say that a text ended, their sampling settings and seeds, and what is left out."""

import json

import pytest

from polychromic.errors import DataError
from polychromic.evaluation.external import _known_id
from polychromic.evaluation.external_lines import parse_line
from polychromic.experiment.external import ExternalExperiment, evaluate_external
from polychromic.report.tables import means_basis, means_table
from polychromic.run_folder import RunFolder
from polychromic.tasks.data.lines import BadLineError

PROMPTS = 12


def one(**keys):
    return parse_line(json.dumps({"id": "p0", "text": "x", **keys}).encode())[0]


@pytest.mark.parametrize(
    ("keys", "ending"),
    [
        ({"finish_reason": "stop"}, "finished"),  # OpenAI, vLLM
        ({"finish_reason": "tool_calls"}, "finished"),
        ({"finish_reason": "content_filter"}, "interrupted"),
        ({"stop_reason": "end_turn"}, "finished"),  # Anthropic
        ({"stop_reason": "stop_sequence"}, "finished"),
        ({"stop_reason": "max_tokens"}, "limit"),
        ({"stop_reason": "refusal"}, "interrupted"),
        ({"finishReason": "STOP"}, "finished"),  # Gemini
        ({"finishReason": "MAX_TOKENS"}, "limit"),
        ({"finish_reason": "FinishReason.MAX_TOKENS"}, "limit"),
        ({"finish_reason": "SAFETY"}, "interrupted"),
        ({"finish_reason": "eos_token"}, "finished"),  # TGI
        ({"stop_type": "limit"}, "limit"),  # llama.cpp
        ({"done_reason": "length"}, "limit"),  # Ollama
        ({"finish_reason": {"type": "length", "length": 512}}, "limit"),  # SGLang
        ({"incomplete_details": {"reason": "max_output_tokens"}}, "limit"),  # Responses API
        ({"incomplete_details": None}, None),
        ({"finish_reason": "COMPLETE"}, "finished"),  # Cohere
        ({"finish_reason": "model_length"}, "limit"),  # Mistral
        ({"finish_reason": "length", "stop_reason": None}, "limit"),  # vLLM writes both
        ({"finish_reason": "stop", "stop_reason": 128009}, "finished"),
        ({"finish": "missing"}, "missing"),
        ({"finish_reason": None}, None),
        ({}, None),
    ],
)
def test_words_of_other_tools_for_how_a_text_ended(keys, ending):
    """All of them were once read as finished, and the share of truncated texts was 0."""
    assert one(**keys).ending == ending


@pytest.mark.parametrize("word", ["banana", "", 3, True, "LENGTHY"])
def test_an_unknown_word_is_refused_with_the_known_ones(word):
    with pytest.raises(BadLineError, match=r"finish_reason: .* is not known; expected .*stop, end_turn.*max_tokens"):
        one(finish_reason=word)


def test_each_text_of_a_list_may_have_its_own_ending():
    line = {"id": "p", "texts": ["a", "b"], "finish_reason": ["stop", "length"]}
    assert [text.ending for text in parse_line(json.dumps(line).encode())] == ["finished", "limit"]
    with pytest.raises(BadLineError, match="finish_reason: has 1 entries for 2 texts"):
        parse_line(json.dumps({**line, "finish_reason": ["stop"]}).encode())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"temperature": 0.7}, {"temperature": 0.699999988}),
        ({"temperature": 0.7}, {"temperature": 0.7, "top_p": 1.0, "min_p": 0}),
        ({"temperature": 0.7}, {"temperature": 0.7, "top_k": -1, "repetition_penalty": 1.0}),
        ({"temperature": 0.7}, {"temperature": 0.7, "top_k": None, "presence_penalty": 0}),
        ({"top_p": 0.9}, {"temperature": 1, "topP": 0.9}),
        ({"top_k": 40}, {"generationConfig": {"topK": 40.0, "maxOutputTokens": 99, "temperature": 1}}),
        ({"temperature": 0}, {"temperature": 0, "top_p": 0.9, "top_k": 40}),
        ({"temperature": 0}, {"do_sample": False, "temperature": 0.7}),
        (
            {"repeat_penalty": 1.1},
            {"sampling_params": {"repetition_penalty": 1.1, "max_tokens": 5, "seed": 3}},
        ),
        ({"temperature": 0.7}, {"temperature": 0.7, "sampling": {"temperature": 0.7}}),
    ],
)
def test_settings_that_come_to_the_same_are_equal(first, second):
    assert one(**first).sampling == one(**second).sampling


@pytest.mark.parametrize(
    ("keys", "label"),
    [
        ({"top_k": 40}, "T=1,top_k=40"),
        ({"temperature": 0.7, "presence_penalty": 0.5}, "T=0.7,presence_penalty=0.5"),
        ({"temperature": 0, "repetition_penalty": 1.2}, "T=0,repetition_penalty=1.2"),
        ({"sampling": {"top_n_sigma": 1.5}}, "T=1,top_n_sigma=1.5"),
        ({"reasoning_effort": "high"}, "T=1,reasoning_effort=high"),
        ({"top_k": 40, "typical": 0.9, "top_p": 0.5}, "T=1,top_p=0.5,top_k=40,typical_p=0.9"),
    ],
)
def test_every_setting_of_a_line_tells_ways_of_sampling_apart(keys, label):
    assert one(**keys).sampling.label == label


def test_two_values_of_one_setting_are_refused():
    with pytest.raises(BadLineError, match=r"sampling\.temperature: 1, but temperature is 0.5"):
        one(temperature=0.5, sampling={"temperature": 1})


# The comparison. ---------------------------------------------------------------------------------------------------


def answers(prompts=range(PROMPTS), of="", **keys):
    """Two answers to each prompt, the first of them right; those of another seed, or `of` another file, are others."""
    wrong = f"{of}{keys.get('seed', '')}"
    return [{"id": f"p{i}", "texts": [f"n{i} is it", f"wrong {i} it is {wrong}"], **keys} for i in prompts]


@pytest.fixture
def compare(tmp_path):
    """Compares files of lines as the command does: arm → lines, or a list of files' lines."""
    prompts = [{"id": f"p{i}", "prompt": f"Number {i}?", "references": [f"n{i}"]} for i in range(PROMPTS)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (tmp_path / "experiment.yaml").write_text(
        "name: mine\ntask: {name: custom, test: prompts.jsonl, checker: contains}\n"
    )

    def run(*overrides, **arms):
        files = {}
        for arm, lines in arms.items():
            several = lines if isinstance(lines[0], list) else [lines]
            for number, rows in enumerate(several):
                path = tmp_path / f"{arm}{number}.jsonl"
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
                files.setdefault(arm, []).append(str(path))
        experiment = ExternalExperiment.from_file(tmp_path / "experiment.yaml", files, overrides)
        return evaluate_external(experiment, RunFolder(tmp_path / "mine")).comparison

    return run


def texts(comparison, kind):
    return [warning.text for warning in comparison.warnings if warning.kind == kind]


def test_truncation_of_any_tool_reaches_the_page_numbers(compare):
    found = compare(a=answers(finish_reason="MAX_TOKENS"), b=answers(stop_reason="end_turn"))
    assert found.mean("a", "truncated").mean == 1.0
    assert found.mean("b", "truncated").mean == 0.0
    assert "a: 100 % of texts were cut off before their end" in texts(found, "truncated")


def test_endings_that_are_not_stated_or_no_limit_are_said(compare):
    found = compare(a=answers(), b=answers(finish_reason="content_filter"))
    said = texts(found, "truncated")
    assert "a: 24 texts without a word on how they ended are taken for finished" in said
    assert "b: 24 texts stopped by a filter or an error count as truncated" in said


def test_files_without_a_common_prompt_are_one_sentence(compare):
    """It once ended in a traceback."""
    with pytest.raises(DataError, match=r"no prompt is answered in all files at T=1 .*6 prompts such as 'p0'"):
        compare(a=answers(range(6)), b=answers(range(6, 12)))


def test_seeds_are_paired_by_name_and_by_order_only_when_asked(compare):
    a, b = ([answers(seed=seed) for seed in seeds] for seeds in ((1, 2), (11, 12)))
    with pytest.raises(DataError, match=r"b \(seeds 11 and 12\) and a \(seeds 1 and 2\) have no seed in common"):
        compare(a=a, b=b)
    found = compare("comparison.match_seeds=order", a=a, b=b)
    assert found.seeds == {"a": (0, 1), "b": (0, 1)}


def test_seeds_that_the_lines_do_not_name_are_numbered_by_file_and_that_is_said(compare):
    found = compare(a=[answers(of="x"), answers(of="y")], b=[answers(of="x"), answers(of="y")])
    assert found.seeds == {"a": (0, 1), "b": (0, 1)}
    assert texts(found, "seeds") == ["lines of a and b name no seed: the order of the files numbers them"]


def test_a_copy_of_a_seed_is_counted_once_and_that_is_said(compare):
    """Past bug: three copies of a file were three training seeds, and the verdict answered for the way of training."""
    b = [[{"id": f"p{i}", "texts": [f"n{i}", f"n{i}"]} for i in order] for order in (range(12), reversed(range(12)))]
    found = compare(a=[answers()] * 3, b=[*b, answers(of="z")])
    assert found.seeds == {"a": (0,), "b": (0, 2)}
    copies = [text for text in texts(found, "seeds") if "the very same" in text]
    assert copies[0].startswith(
        "a: seed 1 has the very same answers as seed 0 and seed 2 has the very same answers as seed 0; a model that is"
    )
    assert copies[1].startswith("b: seed 1 has the very same answers as seed 0; a model")
    assert found.verdict.question.startswith("This answers for these trained models")


def test_a_seed_in_some_lines_only_is_refused(compare):
    with pytest.raises(DataError, match=r"a \(.*a0\.jsonl\): 2 of 24 texts name a seed; expected `seed` in every"):
        compare(a=[*answers(range(1), seed=1), *answers(range(1, 12))], b=answers())


def test_one_answer_per_prompt_and_seed_looks_like_samples(compare):
    rows = [{"id": f"p{i}", "text": f"n{i} {seed}", "seed": seed} for i in range(PROMPTS) for seed in range(4)]
    found = compare(a=rows, b=rows)
    said = texts(found, "seeds")
    assert len(said) == 2
    assert said[0].startswith("a: one answer per prompt and seed (4 seeds): these look like samples, not training")


def test_what_is_left_out_is_said_in_one_line_with_counts(compare):
    a = [*answers(seed=0), *answers(seed=1), *answers(range(10), seed=2), *answers(seed=1, temperature=0.5)]
    found = compare(a=a, b=[*answers(range(11), seed=0), *answers(range(11), seed=1)])
    assert texts(found, "left out") == [
        "2 prompts that not every arm and seed has (a lacks 2 and b lacks 1; first: p10); "
        "1 seed of a that b lacks (2); 1 sampling setting of a that not every seed of a and b has (T=0.5); "
        "10 prompts are compared"
    ]
    assert texts(compare(a=answers(range(6)), b=answers(range(6))), "left out") == [
        "6 of the split's 12 prompts are in no file of generations"
    ]
    assert texts(compare(a=answers(), b=answers()), "left out") == []


def test_prompts_that_an_arm_answered_at_another_setting_alone_are_said(compare):
    """The page spoke of 12 prompts above a verdict on 3 of them, and of nothing that was left out."""
    a = [*answers(range(5)), *answers(temperature=0.5)]
    found = compare(a=a, b=[*answers(range(2, 12)), *answers(temperature=0.5)])
    assert texts(found, "left out") == ["9 prompts that not every arm answered at T=1; 3 prompts are compared"]
    assert found.n_prompts == 3 and "(3 prompts, 1 seed, sampled at T=1)" in found.verdict.sentence
    assert means_basis(found).startswith("means over 3 prompts and all seeds; n counts the prompts")
    cells = {row[0].partition(" = ")[0]: row[1:] for row in means_table(found)[1:]}
    assert [cell.rpartition(", ")[2] for cell in cells["Length in tokens"]] == ["n = 5", "n = 10"]
    assert "n counts" not in means_basis(compare(a=answers(), b=answers()))


def test_arms_with_other_seeds_in_common_with_the_baseline_are_told_apart(compare):
    """One arm without a seed in common made the verdict on three seeds of another read "1 seed"."""
    seeds_of_arms = {"a": (0, 1, 2), "b": (0, 1, 2), "c": (2, 3, 4)}
    found = compare(**{arm: [answers(seed=seed) for seed in seeds] for arm, seeds in seeds_of_arms.items()})
    assert "(12 prompts, 1 to 3 seeds, sampled at T=1)" in found.verdict.sentence
    [text] = texts(found, "few seeds")
    assert text.startswith("c: 1 training seed that the baseline has too: the tests are of these trained models")


def test_the_samples_of_evalplus_are_read():
    """Past bug: "text: is missing" for a file of `solution`, and ids such as Mbpp/2 were not known."""
    row = {"task_id": "HumanEval/0", "_identifier": "HumanEval/0 (line 1)"}
    assert [one.text for one in parse_line(json.dumps({**row, "solution": "def f(): ..."}).encode())] == [
        "def f(): ..."
    ]
    assert parse_line(json.dumps({**row, "solution": "reference", "completion": "x"}).encode())[0].text == "x"
    with pytest.raises(BadLineError, match=r"text: is missing.*completion"):
        parse_line(json.dumps(row).encode())
    assert _known_id("Mbpp/2", {"2": None}) == _known_id("2", {"2": None}) == "2"
    with pytest.raises(BadLineError, match='"Mbpp/3" is not one of'):
        _known_id("Mbpp/3", {"2": None})
