"""Collecting generations: resumed after any cut, no row twice, none missing."""

import pytest

from polychromic.evaluation.collect import CollectionPlan, collect, read_generations
from polychromic.records import Generation, SamplingParameters
from polychromic.seeding import child_seed
from polychromic.tasks.arithmetic import ArithmeticTask

TASK = ArithmeticTask(test_problems=7)


class SeededSampler:
    """Answers that depend on the seed alone; counts its calls."""

    def __init__(self):
        self.calls = 0

    def sample(self, prompts, n, parameters, seeds):
        self.calls += 1
        return [
            [Generation(f"{child_seed(seed, i) % 1000}", (3, 1), "stop") for i in range(n)] for seed in seeds
        ]


def plan():
    ways = (SamplingParameters(1.0), SamplingParameters(0.7, top_p=0.9))
    return CollectionPlan(tuple(TASK.prompts("test")), 4, ways, ("run", 0), max_sequences=12)


def test_rows_are_whole_and_ordered(tmp_path):
    path = tmp_path / "generations.jsonl"
    rows = collect(plan(), SeededSampler, TASK, path)
    assert len(rows) == 7 * 4 * 2
    assert len({(row.prompt_id, row.index, row.sampling.label) for row in rows}) == len(rows)
    assert read_generations(path) == rows
    assert {row.sampling.label for row in rows} == {"T=1", "T=0.7,top_p=0.9"}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.77, 0.999, 1.0])
def test_a_file_cut_anywhere_is_completed_to_the_same_bytes(tmp_path, share):
    path = tmp_path / "generations.jsonl"
    collect(plan(), SeededSampler, TASK, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    collect(plan(), SeededSampler, TASK, path)
    assert path.read_bytes() == whole


def test_a_finished_collection_loads_no_model(tmp_path):
    path = tmp_path / "generations.jsonl"
    collect(plan(), SeededSampler, TASK, path)

    def no_model():
        raise AssertionError("nothing is left to sample")

    assert len(collect(plan(), no_model, TASK, path)) == 56
