"""Collecting generations: resumed after any cut, no row twice, none missing."""

import json
from dataclasses import replace

import pytest

from polychromic.errors import DataError
from polychromic.evaluation.collect import CollectionPlan, collect, read_collected
from polychromic.generations import read_generations, scan_generations, write_generations
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
        return [[Generation(f"{child_seed(seed, i) % 1000}", (3, 1), "stop") for i in range(n)] for seed in seeds]


def plan():
    ways = (SamplingParameters(1.0), SamplingParameters(0.7, top_p=0.9))
    return CollectionPlan(tuple(TASK.prompts("test")), 4, ways, ("run", 0), max_decode_batch=12)


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


class BatchSampler(SeededSampler):
    """Answers that depend on the whole batch, as padding and rounding make them."""

    def sample(self, prompts, n, parameters, seeds):
        return super().sample(prompts, n, parameters, [child_seed(*seeds, seed) for seed in seeds])


@pytest.mark.parametrize("begun", [0, 12, 30])  # rows of an earlier start, in the middle of a batch too
def test_shards_make_the_file_that_one_collection_makes(tmp_path, begun):
    whole, path = tmp_path / "whole" / "generations.jsonl", tmp_path / "generations.jsonl"
    collect(plan(), BatchSampler, TASK, whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    if begun:
        path.write_bytes(b"".join(lines[:begun]))
    for number in (2, 0, 1):
        collect(plan(), BatchSampler, TASK, path, shard=(number, 3))
    assert len(list(tmp_path.glob("generations.shard-*"))) == 3
    torn = tmp_path / "generations.shard-1-of-3.jsonl"
    torn.write_bytes(torn.read_bytes()[:-40])  # killed while it wrote
    (tmp_path / "generations.shard-2-of-3.jsonl").unlink()  # never begun
    collect(plan(), BatchSampler, TASK, path, shard=(1, 3))
    samplers = []
    collect(plan(), lambda: samplers.append(BatchSampler()) or samplers[0], TASK, path)
    assert path.read_bytes() == whole.read_bytes()
    assert samplers[0].calls < len(lines) / 12  # what the other shards drew is not drawn again
    assert not list(tmp_path.glob("generations.shard-*"))


def test_a_finished_collection_loads_no_model(tmp_path):
    path = tmp_path / "generations.jsonl"
    collect(plan(), SeededSampler, TASK, path)

    def no_model():
        raise AssertionError("nothing is left to sample")

    assert len(collect(plan(), no_model, TASK, path)) == 56


def grown(samples=4, n_prompts=7, ways=2, adapter=None):
    whole = plan()
    return CollectionPlan(
        whole.prompts[:n_prompts],
        samples,
        whole.sampling_settings[:ways],
        ("run", 0),
        max_decode_batch=12,
        adapter=adapter,
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"samples": 4}, {"samples": 10}),
        ({"n_prompts": 4}, {"n_prompts": 7}),
        ({"ways": 1}, {"ways": 2}),
        ({"samples": 2, "n_prompts": 2, "ways": 1}, {"samples": 9, "n_prompts": 7, "ways": 2}),
    ],
)
def test_what_is_added_is_appended_and_what_exists_keeps_its_bytes(tmp_path, before, after):
    path = tmp_path / "generations.jsonl"
    collect(grown(**before), SeededSampler, TASK, path)
    existing = path.read_bytes()
    rows = collect(grown(**after), SeededSampler, TASK, path)
    assert path.read_bytes().startswith(existing)
    assert {(row.prompt_id, row.index, row.sampling) for row in rows} == {
        (prompt_id, index, way) for way, prompt_id, index in grown(**after).keys
    }
    assert sorted(read_generations(path), key=repr) == sorted(rows, key=repr)
    # Answers of the second draw are new ones, not those of the first again.
    longest = [row.text for row in rows if row.prompt_id == rows[0].prompt_id and row.sampling == rows[0].sampling]
    assert len(set(longest)) > len(longest) // 2


@pytest.mark.parametrize("share", [0.42, 0.6, 0.77, 0.999])
def test_what_was_added_and_cut_anywhere_is_completed_to_the_same_bytes(tmp_path, share):
    path = tmp_path / "generations.jsonl"
    collect(grown(4), SeededSampler, TASK, path)
    collect(grown(10), SeededSampler, TASK, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    collect(grown(10), SeededSampler, TASK, path)
    assert path.read_bytes() == whole


def flipped(lines):
    """One bit: a reward of 0.0 becomes 8.0."""
    position = next(number for number, line in enumerate(lines) if b'"reward": 0.0' in line)
    lines[position] = lines[position].replace(b'"reward": 0.0', b'"reward": 8.0')


def doubled(lines):
    lines.insert(9, lines[3])


def contradicted(lines):
    lines.insert(9, lines[3].replace(b'"text": "', b'"text": "1').split(b', "checksum"')[0] + b"}")


def lost(lines):
    del lines[5]


def unreadable(lines):
    lines[2] = b"\xff" + lines[2][1:]


def half(lines):
    lines[4] = lines[4][:40]


@pytest.mark.parametrize("damage", [flipped, doubled, contradicted, lost, unreadable, half])
@pytest.mark.parametrize("samples", [4, 10])
def test_damaged_rows_are_sampled_again_to_the_same_bytes(tmp_path, caplog, damage, samples):
    """Past bug: a flipped bit changed a verdict; a lost or doubled row ended in a traceback for ever."""
    path = tmp_path / "generations.jsonl"
    collect(grown(4), SeededSampler, TASK, path)
    collect(grown(samples), SeededSampler, TASK, path)
    whole = path.read_bytes()
    lines = whole.splitlines()
    damage(lines)
    path.write_bytes(b"\n".join(lines) + b"\n")
    if damage is not lost:
        with pytest.raises(DataError, match=r"generations.jsonl: damaged or doubled rows \(line \d+: .*evaluate"):
            read_generations(path)
    with pytest.raises(DataError, match=r"generations.jsonl: \d of \d+ generations are missing or damaged"):
        read_collected(grown(samples), path)
    collect(grown(samples), SeededSampler, TASK, path)
    assert path.read_bytes() == whole
    assert caplog.text.count("damaged, doubled or lost rows are sampled again") == 1


def test_rows_without_checksums_are_read_and_said(tmp_path, caplog):
    path = tmp_path / "generations.jsonl"
    rows = collect(grown(4), SeededSampler, TASK, path)
    old = [json.loads(line) for line in path.read_text().splitlines()]
    for row in old:
        del row["checksum"], row["of"], row["adapter"]
    path.write_text("".join(json.dumps(row) + "\n" for row in old))
    before = path.read_bytes()
    assert [row.text for row in collect(grown(4), SeededSampler, TASK, path)] == [row.text for row in rows]
    assert path.read_bytes() == before
    read_collected(grown(4), path)
    assert "56 rows have no checksum" in caplog.text
    path.write_bytes(before.replace(b'"reward": 0.0', b'"reward": 8.0', 1))
    with pytest.raises(DataError, match=r"reward is 8.0, expected a number from 0 to 1"):
        read_generations(path)
    path.write_bytes(before)
    caplog.clear()
    collect(grown(6), SeededSampler, TASK, path)
    assert path.read_bytes().startswith(before)
    assert "sampled again" not in caplog.text
    assert len(read_collected(grown(6), path)) == 7 * 6 * 2


def test_rows_of_another_adapter_are_sampled_again(tmp_path, caplog):
    """Past bug: a damaged adapter was made again, and the answers of the damaged one were kept."""
    path = tmp_path / "generations.jsonl"
    collect(grown(adapter="a" * 16), SeededSampler, TASK, path)
    with pytest.raises(DataError, match="56 rows of another adapter"):
        read_collected(grown(adapter="b" * 16), path)
    collect(grown(adapter="b" * 16), SeededSampler, TASK, path)
    assert "56 rows of another adapter than there is now" in caplog.text
    assert {row.adapter for row in read_generations(path)} == {"b" * 16}


@pytest.mark.parametrize("lone_surrogate", [False, True])
def test_a_checksum_holds_for_the_row_however_it_is_written(tmp_path, lone_surrogate):
    """It is read off the bytes where a line is as it was written, and off the row where another tool wrote it anew."""
    path = tmp_path / "generations.jsonl"
    [row, *_] = collect(grown(4), SeededSampler, TASK, path)
    text = "ä\ud800" if lone_surrogate else 'ä", "checksum": "1"}'
    write_generations(path, [replace(row, text=text)])
    assert read_generations(path)[0].text == text
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_bytes()).items())), indent=None) + "\n")
    assert scan_generations(path).faults == ["line 1: not what was written (its checksum differs)"]
    write_generations(path, [replace(row, text=text)])
    path.write_text(json.dumps(json.loads(path.read_bytes()), separators=(",", ":")) + "\n")
    assert read_generations(path)[0].text == text
