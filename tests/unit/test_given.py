"""Generations made anywhere: what a line may hold, and what is said of lines that cannot be used."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polychromic.errors import ConfigError, DataError
from polychromic.evaluation.external import parse_line, read_external
from polychromic.experiment.external import ExternalExperiment, evaluate_external, split_arguments
from polychromic.files import write_text
from polychromic.records import GenerationRow, Prompt, SamplingParameters, as_messages
from polychromic.report.terminal import show_comparison
from polychromic.run_folder import RunFolder
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.tasks.data.lines import BadLineError

PROMPTS = [Prompt(f"p{i}", as_messages("2 + 2?"), references=("four",)) for i in range(3)]
DEFAULT = SamplingParameters(0.9, max_new_tokens=20)


class WordTask:
    """Passes texts with the word; has neither judge nor canonical form."""

    pass_threshold = 1.0

    def check(self, prompts, texts):
        from polychromic.records import Check

        return [Check(float("four" in text)) for text in texts]

    def judge(self, prompts, texts):
        return None

    def cluster(self, prompt, text):
        return None


def lines(path: Path, *rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(*files: Path):
    return read_external({"arm": files}, WordTask(), PROMPTS, DEFAULT)


@pytest.mark.parametrize("id_key", ["prompt_id", "id", "task_id"])
@pytest.mark.parametrize("text_key", ["text", "completion", "generation", "response"])
def test_common_names_of_keys_are_read(tmp_path, id_key, text_key):
    rows = read(lines(tmp_path / "a.jsonl", {id_key: "p1", text_key: "four"})).rows["arm", 0]
    assert [(row.prompt_id, row.index, row.text, row.reward) for row in rows] == [("p1", 0, "four", 1.0)]


@pytest.mark.parametrize("key", ["texts", "completions", "generations", "responses", "text"])
def test_a_line_may_hold_a_list(tmp_path, key):
    rows = read(lines(tmp_path / "a.jsonl", {"id": "p1", key: ["four", "five", ""]})).rows["arm", 0]
    assert [(row.index, row.text, row.reward) for row in rows] == [
        (0, "four", 1.0),
        (1, "five", 0.0),
        (2, "", 0.0),
    ]


def test_numbers_are_ids_and_other_keys_are_left_alone():
    one = parse_line(b'{"task_id": 7, "completion": "x", "passed": true, "model": {"name": "y"}}')[0]
    assert (one.prompt_id, one.text, one.sampling) == ("7", "x", None)


def test_sampling_seed_tokens_and_finish_are_kept_where_stated(tmp_path):
    path = lines(
        tmp_path / "a.jsonl",
        {"id": "p0", "text": "a b", "seed": 3, "temperature": 0.7, "top_p": 0.9, "n_tokens": 5},
        {"id": "p0", "text": "c", "seed": 4, "temperature": 0, "n_tokens": 2, "finish_reason": "length"},
    )
    found = read(path)
    first, second = found.rows["arm", 3][0], found.rows["arm", 4][0]
    assert (first.sampling.label, first.n_tokens, first.finish) == ("T=0.7,top_p=0.9", 5, "stop")
    assert (second.sampling.label, second.n_tokens, second.finish) == ("T=0", 2, "length")
    assert (found.assumed, found.counted_in_words) == ((), False)


def test_what_is_not_stated_is_assumed_and_said(tmp_path):
    found = read(lines(tmp_path / "a.jsonl", {"id": "p0", "text": "a b"}, {"id": "p0", "text": "c", "n_tokens": 9}))
    assert [row.sampling for row in found.rows["arm", 0]] == [DEFAULT, DEFAULT]
    assert [row.n_tokens for row in found.rows["arm", 0]] == [2, 1]
    assert (found.assumed, found.counted_in_words) == (("arm",), True)


def test_each_further_file_of_an_arm_is_a_further_seed(tmp_path):
    files = [lines(tmp_path / f"{i}.jsonl", {"id": "p0", "text": str(i)}) for i in range(2)]
    rows = read(*files).rows
    assert {key: [row.text for row in members] for key, members in rows.items()} == {
        ("arm", 0): ["0"],
        ("arm", 1): ["1"],
    }


def test_the_rows_of_a_run_are_read_as_they_are(tmp_path):
    sampling = SamplingParameters(0.6, min_p=0.1, max_new_tokens=24)
    row = GenerationRow("p2", 0, "four", 3, "stop", sampling, 17, reward=0.25, error=None)
    kept = read(lines(tmp_path / "a.jsonl", row.to_json())).rows["arm", 0][0]
    assert (kept.text, kept.n_tokens, kept.sampling.label) == ("four", 3, "T=0.6,min_p=0.1")
    assert kept.reward == 1.0  # the task's own word, whatever the line says


def test_control_characters_that_a_model_made_are_read(tmp_path):
    """The file of a run was once refused for two NUL characters that its model had written."""
    rows = read(lines(tmp_path / "a.jsonl", {"id": "p1", "text": "four\0\x1b"})).rows["arm", 0]
    assert [row.text for row in rows] == ["four\0\x1b"]


def test_every_bad_line_of_every_file_is_named_at_once(tmp_path):
    first = lines(
        tmp_path / "a.jsonl",
        {"id": "p0", "text": "four"},
        "{not json",
        {"id": "p9", "text": "four"},
        {"id": "p0", "txt": "four"},
        {"id": "p0", "text": 4},
        {"id": "p0", "text": "four", "temperature": -1},
    )
    second = lines(tmp_path / "b.jsonl", {"text": "four"}, {"id": "p0", "text": "a", "completion": "b"})
    with pytest.raises(DataError) as error:
        read_external({"a": [first], "b": [second]}, WordTask(), PROMPTS, DEFAULT)
    message = str(error.value)
    assert "7 bad lines" in message
    for part in (
        f"{first}:2: not JSON",
        f'{first}:3: prompt id "p9" is not one of the 3 prompts of the evaluated split ("p0", "p1", "p2"',
        f"{first}:4: text: is missing",
        f"{first}:5: text: 4 is a number, expected a text",
        f"{first}:6: temperature: -1, expected a number of at least 0",
        f"{second}:1: prompt_id: is missing",
        f"{second}:2: completion: text is given too",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "p", "texts": []}', "texts: is an empty list"),
        ('{"id": "p", "texts": ["a", null]}', r"texts\[1\]: null is null, expected a text"),
        ('{"id": "p", "texts": ["a", "b"], "n_tokens": 3}', "n_tokens: is one number for 2 texts"),
        ('{"id": "p", "text": "a", "seed": 1.5}', "seed: 1.5, expected a whole number"),
        ('{"id": "p", "text": "a", "sampling": 1}', "sampling: 1 is a number, expected an object"),
        (
            '{"id": "p", "text": "a", "sampling": {"top_p": 2}}',
            "sampling.top_p: 2, expected a number from 0 to 1",
        ),
        ('{"id": "p", "text": "a\\ud800"}', "half a surrogate pair"),
        ('{"id": "", "text": "a"}', "id: is empty"),
        ('{"id": true, "text": "a"}', "id: true is true or false, expected a text"),
        ('["p", "a"]', "is a list, expected an object"),
    ],
)
def test_bad_lines_say_what_was_expected(line, message):
    with pytest.raises(BadLineError, match=message):
        parse_line(line.encode())


@given(st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_line_or_a_bad_line(line):
    try:
        assert parse_line(line)
    except BadLineError as error:
        assert str(error)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_texts_come_back_unchanged(text):
    assert parse_line(json.dumps({"id": "p", "text": text}).encode())[0].text == text


def test_an_empty_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(DataError, match="holds no generations"):
        read(lines(tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match=r"nowhere\.jsonl: cannot be read"):
        read(tmp_path / "nowhere.jsonl")


# The experiment around the files. ----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """A custom task with one prompt file, and two arms."""
    lines(
        tmp_path / "prompts.jsonl",
        *({"id": f"p{i}", "prompt": f"Number {i}?", "references": [f"n{i}"]} for i in range(12)),
    )
    (tmp_path / "experiment.yaml").write_text(
        "name: mine\ntask: {name: custom, test: prompts.jsonl, checker: exact_match}\n"
    )
    for name, n_right in (("a", 2), ("b", 3)):
        lines(
            tmp_path / f"{name}.jsonl",
            *(
                {
                    "id": f"p{i}",
                    "texts": [f"n{i}"] * n_right + [f"wrong {name} {k} {i}" for k in range(4 - n_right)],
                }
                for i in range(12)
            ),
        )
    return tmp_path


def experiment_of(folder: Path, *overrides: str) -> ExternalExperiment:
    files = {name: [str(folder / f"{name}.jsonl")] for name in ("a", "b")}
    return ExternalExperiment.from_file(folder / "experiment.yaml", files, overrides)


def test_two_files_and_a_task_are_enough_for_a_report(files):
    result = evaluate_external(experiment_of(files), RunFolder(files / "mine"))
    comparison = result.comparison
    assert comparison.baseline == "a"
    assert comparison.mean("a", "pass@1").mean == pytest.approx(0.5)
    assert comparison.mean("b", "pass@1").mean == pytest.approx(0.75)
    assert comparison.contrast("b", "pass@1").p_value < 0.01
    kinds = [warning.kind for warning in comparison.warnings]
    assert kinds.count("sampling not stated") == 2
    written = json.loads((files / "mine" / "comparison.json").read_text())
    assert written["schema_version"] == 2
    assert written["checker"]["controls"]["references"]["pass_rate"] == 1.0
    assert (files / "mine" / "report.html").is_file()
    hashes = json.loads((files / "mine" / "provenance.json").read_text())["data_sha256"]
    assert set(hashes) == {str(files / "a.jsonl"), str(files / "b.jsonl")}


def test_files_of_one_name_are_told_apart_by_their_folders(files):
    """Past bug: the page said of each arm "generations of generations.jsonl, generations.jsonl, generations.jsonl"."""
    given_files = {}
    for name in ("a", "b"):
        (files / name).mkdir()
        given_files[name] = [str((files / f"{name}.jsonl").rename(files / name / "generations.jsonl"))]
    evaluate_external(ExternalExperiment.from_file(files / "experiment.yaml", given_files), RunFolder(files / "mine"))
    assert "generations of b/generations.jsonl" in (files / "mine" / "report.html").read_text(encoding="utf-8")


def test_comparing_again_replaces_what_was_there(files):
    folder = RunFolder(files / "mine")
    evaluate_external(experiment_of(files), folder)
    lines(files / "a.jsonl", *({"id": f"p{i}", "texts": [f"n{i}", "x y"], "seed": 1} for i in range(12)))
    lines(files / "b.jsonl", *({"id": f"p{i}", "texts": [f"n{i}", f"n{i}"], "seed": 1} for i in range(12)))
    again = evaluate_external(experiment_of(files), folder)
    assert again.comparison.seeds == {"a": (1,), "b": (1,)}
    assert not folder.arm("a", 0).root.exists()


def test_a_folder_with_a_run_is_not_overwritten(files):
    folder = RunFolder(files / "mine")
    write_text(folder.experiment, "name: mine\narms: {}\n")
    with pytest.raises(ConfigError, match="holds a run with trained arms; choose another place"):
        evaluate_external(experiment_of(files), folder)


def test_arms_without_a_common_way_of_sampling_are_refused(files):
    for name, temperature in (("a", 0.5), ("b", 1.0)):
        lines(files / f"{name}.jsonl", {"id": "p1", "texts": ["x", "y"], "temperature": temperature})
    with pytest.raises(DataError, match=r"no sampling setting is common to all files \(a: T=0.5; b: T=1\)"):
        evaluate_external(experiment_of(files), RunFolder(files / "mine"))


def test_the_file_of_a_whole_experiment_serves_as_well(tmp_path):
    lines(tmp_path / "a.jsonl", {"id": "test-00000", "text": "1"})
    path = str(tmp_path / "a.jsonl")
    experiment = ExternalExperiment.from_file(
        "experiments/quickstart.yaml", {"baseline": [path], "ours": [path]}, ["evaluation.embedder=hash"]
    )
    assert experiment.task.name == "arithmetic"
    assert experiment.evaluation.embedder == "hash"


@pytest.mark.parametrize(
    ("names", "overrides", "message"),
    [
        (
            ["ab", "b"],
            ["comparison.baseline=a"],
            "comparison.baseline is 'a', but there are generations of ab and b",
        ),
        ([], [], "generations: nothing is given, expected files; add --generations NAME=FILE"),
        (["a", "b/c"], [], "generations.b/c: expected letters"),
        (["a", "b"], ["evaluation.embeder=x"], "evaluation.embeder: unknown key; did you mean embedder"),
    ],
)
def test_what_cannot_be_compared_is_named_by_key(files, names, overrides, message):
    given_files = {name: ["x.jsonl"] for name in names}
    with pytest.raises(ConfigError, match=message):
        ExternalExperiment.from_file(files / "experiment.yaml", given_files, overrides)


def test_an_arm_without_a_file_is_refused(files):
    """Past bug: an IndexError once the other arms' files had been read."""
    with pytest.raises(ConfigError, match=r"generations\.a: no file is given, expected one per seed"):
        ExternalExperiment.from_file(files / "experiment.yaml", {"a": [], "b": ["y"]})


def test_one_file_given_twice_is_no_second_seed(files):
    with pytest.raises(ConfigError, match="the same file is given twice"):
        ExternalExperiment.from_file(files / "experiment.yaml", {"a": ["x", "x"], "b": ["y"]})


def test_files_and_overrides_are_told_apart_by_their_keys():
    found = split_arguments(["a=1.jsonl"], ["b=2.jsonl", "a=3.jsonl", "evaluation.embedder=hash", "name=x"])
    assert found == ({"a": ["1.jsonl", "3.jsonl"], "b": ["2.jsonl"]}, ["evaluation.embedder=hash", "name=x"])
    assert split_arguments(["some/a.jsonl"], []) == ({"a": ["some/a.jsonl"]}, [])
    with pytest.raises(ConfigError, match="expected NAME=FILE"):
        split_arguments(["a=1.jsonl"], ["b.jsonl"])


def test_a_file_alone_is_measured(files, capsys):
    """Samples of a benchmark need no second arm: chances of a right answer with their intervals, and no verdict."""
    alone = ExternalExperiment.from_file(files / "experiment.yaml", {"a": [str(files / "a.jsonl")]})
    comparison = evaluate_external(alone, RunFolder(files / "mine")).comparison
    assert comparison.arms == ("a",)
    assert comparison.mean("a", "pass@1").mean == pytest.approx(0.5)
    assert comparison.verdict.sentence == "Nothing to judge: the baseline is the only arm."
    assert not [one for one in comparison.warnings if one.kind == "few seeds"]
    show_comparison(comparison)
    shown, folder = capsys.readouterr().out, RunFolder(files / "mine")
    assert shown.startswith("At T=1 an answer of a passes with a chance of 0.5")
    for text in (shown, folder.report.read_text(), (folder.root / "report.md").read_text()):
        assert "a, with 95 % intervals" in text
        assert "Pass@1" in text
        assert "arm's value" not in text  # past bug: the page began with an empty table of criteria


def test_a_lenient_checker_is_named_in_the_comparison(files):
    """At least ten characters: the checker that once stood for the quality of a published run."""
    (files / "checks.py").write_text("def ten_characters(prompt, text):\n    return len(text) >= 10\n")
    (files / "experiment.yaml").write_text(
        "name: mine\ntask: {name: custom, test: prompts.jsonl, checker: checks.py:ten_characters}\n"
    )
    comparison = evaluate_external(experiment_of(files), RunFolder(files / "mine")).comparison
    assert comparison.checker.lenient
    (warning,) = [one for one in comparison.warnings if one.kind == "checker"]
    assert "repeated word (100 %)" in warning.text


def test_a_task_without_a_checker_has_no_audit(files):
    (files / "experiment.yaml").write_text("name: mine\ntask: {name: custom, test: prompts.jsonl}\n")
    comparison = evaluate_external(experiment_of(files), RunFolder(files / "mine")).comparison
    assert comparison.checker is None
    assert comparison.mean("a", "distinct_texts") is not None
    assert comparison.mean("a", "reward") is None


def test_trained_adapters_survive_though_the_file_that_says_so_is_lost(files):
    """Past bug: without its experiment.yaml a run's arms were deleted for rows of the same name."""
    folder = RunFolder(files / "mine")
    adapter = folder.arm("a", 0).root / "adapter" / "adapter_model.safetensors"
    write_text(adapter, "trained for a day")
    with pytest.raises(ConfigError, match="holds a run with trained arms; choose another place"):
        evaluate_external(experiment_of(files), folder)
    assert adapter.read_text() == "trained for a day"


def test_answers_are_checked_prompt_by_prompt_in_batches_and_keep_the_files_order(tmp_path, monkeypatch):
    """Past bug: in a file that takes the prompts in turn, equal answers to one prompt fell into many batches, and ran
    once in each."""
    monkeypatch.setattr("polychromic.evaluation.external._CHECKED_AT_ONCE", 4)
    task, batches, counted = ArithmeticTask(4, 2, 2), [], []
    prompts = task.prompts("test")
    check = ArithmeticTask.check

    def recorded(self, prompts, texts):
        batches.append([prompt.id for prompt in prompts])
        return check(self, prompts, texts)

    monkeypatch.setattr(ArithmeticTask, "check", recorded)
    answers = [{"id": prompt.id, "text": f"{turn}"} for turn in range(4) for prompt in prompts]
    lines(tmp_path / "a.jsonl", *answers)
    read = read_external(
        {"a": [tmp_path / "a.jsonl"]}, task, prompts, SamplingParameters(), on_checked=lambda *n: counted.append(n)
    )
    assert batches == [[prompt.id] * 4 for prompt in sorted(prompts, key=lambda prompt: prompt.id)]
    assert [(row.prompt_id, row.text) for row in read.rows["a", 0]] == [(one["id"], one["text"]) for one in answers]
    assert counted == [(4, 8), (8, 8)]
