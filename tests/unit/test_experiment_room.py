"""Criteria that the sampled baseline rules out stop a run before the other arms cost anything."""

import pytest

from polychromic.errors import ConfigError
from polychromic.evaluation import Criterion, impossible_criteria
from polychromic.experiment.config import Experiment
from polychromic.experiment.preflight.data import baseline_means, refuse_impossible_criteria
from polychromic.experiment.resuming.continuing import late_changes, open_run_folder
from polychromic.files import append_jsonl, write_json
from polychromic.records import GenerationRow, SamplingParameters
from polychromic.run_folder import RunFolder

ASKED = [{"metric": "pass@10", "direction": "higher", "relative_change": 0.25}]


def stated(criteria=ASKED, **keys) -> Experiment:
    content = Experiment.from_file("experiments/quickstart.yaml").model_dump(mode="json")
    return Experiment.from_mapping(content | {"comparison": {"minimum": criteria, **keys}})


def sample_baseline(folder: RunFolder, n_right_of_500: int) -> None:
    """500 prompts of 10 generations; as many as given have a right answer."""
    sampling = SamplingParameters(0.6)
    rows = [
        GenerationRow(f"p{p}", i, "1", 1, "stop", sampling, 0, float(i == 0 and p < n_right_of_500), cluster="1")
        for p in range(500)
        for i in range(10)
    ]
    append_jsonl(folder.arm("baseline", 0).generations, [row.to_json() for row in rows])


def test_the_sentence_of_the_origin():
    criteria = [Criterion("pass@10", "higher", 0.25), Criterion("distinct_2", "higher", 0.12)]
    found = impossible_criteria(criteria, {"pass@10": 0.998, "distinct_2": 0.25})
    assert found == ["Pass@10 +25 % from 0.998 needs 1.2475, and it cannot exceed 1"]
    assert impossible_criteria(criteria, {}) == []


def test_a_known_baseline_refuses_the_file_before_anything_is_run():
    content = Experiment.from_file("experiments/quickstart.yaml").model_dump(mode="json")
    known = {"baseline_values": {"pass@10": 0.998}}
    for criteria in ({"minimum": ASKED}, {"strong": ASKED}, {}):  # the defaults ask for Pass@10 +25 % too
        with pytest.raises(
            ConfigError, match=r"comparison: Pass@10 \+25 % from 0\.998 needs 1\.2475, and it cannot exceed 1"
        ):
            Experiment.from_mapping(content | {"comparison": known | criteria})
    room = {"baseline_values": {"pass@10": 0.8}, "minimum": ASKED}
    assert Experiment.from_mapping(content | {"comparison": room}).comparison.baseline_values == {"pass@10": 0.8}
    with pytest.raises(ConfigError, match=r"metric 'pass_10' is not known"):
        Experiment.from_mapping(content | {"comparison": {"baseline_values": {"pass_10": 0.8}}})


def test_a_run_is_refused_once_its_baseline_is_sampled(tmp_path):
    folder = RunFolder(tmp_path)
    refuse_impossible_criteria(stated(), folder)  # nothing is known yet
    sample_baseline(folder, 499)
    assert baseline_means(stated(), folder) == {"pass@10": pytest.approx(0.998)}
    with pytest.raises(ConfigError, match=r"Pass@10 \+25 % from 0\.998 needs 1\.2475, and it cannot exceed 1"):
        refuse_impossible_criteria(stated(), folder)


def test_a_baseline_that_leaves_room_lets_the_run_go_on(tmp_path):
    sample_baseline(RunFolder(tmp_path), 300)
    refuse_impossible_criteria(stated(), RunFolder(tmp_path))


def test_defaults_that_are_ruled_out_are_only_warned_about(tmp_path, caplog):
    sample_baseline(RunFolder(tmp_path), 499)
    refuse_impossible_criteria(stated(None), RunFolder(tmp_path))
    assert "needs 1.2475" in caplog.text


def test_a_criterion_without_room_may_be_reported_where_a_page_is_wanted_all_the_same(tmp_path, caplog):
    sample_baseline(RunFolder(tmp_path), 499)
    refuse_impossible_criteria(stated(if_impossible="report"), RunFolder(tmp_path))
    assert "needs 1.2475" in caplog.text and "reported as impossible" in caplog.text


def test_a_finished_run_is_reported_and_not_refused(tmp_path):
    folder = RunFolder(tmp_path)
    sample_baseline(folder, 499)
    for seed in stated().seeds:
        append_jsonl(folder.arm("coverage", seed).generations, [{}])
    refuse_impossible_criteria(stated(), folder)


def test_criteria_may_be_corrected_and_are_marked_once_something_was_compared(tmp_path):
    folder = open_run_folder(stated(), tmp_path)
    folder.arm("baseline", 0).root.mkdir(parents=True)
    corrected = stated([ASKED[0] | {"relative_change": 0.001}])
    open_run_folder(corrected, tmp_path)
    assert "0.001" in folder.experiment.read_text()
    assert late_changes(corrected, folder)[1] == []
    write_json(folder.comparison, {})
    open_run_folder(stated(), tmp_path)
    assert late_changes(stated(), folder)[1] == ["comparison.minimum"]
