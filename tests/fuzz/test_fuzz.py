"""Mutated experiment and data files end in a clean result or in one error for people: no traceback, hang or bomb.

FUZZ=20000 pytest tests/fuzz    runs as many of each (`make fuzz`); the default keeps `make test` short.
"""

import os
import random
import resource
import sys
import time
from pathlib import Path

import pytest
from tests.fuzz.mutate import mutate

from polychromic.errors import ConfigError, DataError, PolychromicError
from polychromic.experiment.config import Experiment
from polychromic.tasks.jsonl import load_prompts

FUZZ = int(os.environ.get("FUZZ", "300"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
SECONDS, BYTES = 5.0, 2**30
EXPERIMENTS = sorted(Path("experiments").glob("*.yaml"))
CORPUS = Path(__file__).parent / "corpus"


def survive(read, path, contents, expected):
    """Read every content; the number of clean results and of errors for people."""
    clean = refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for content in contents:
        path.write_bytes(content)
        started = time.monotonic()
        try:
            read(path)
            clean += 1
        except PolychromicError as error:
            refused += 1
            assert isinstance(error, expected), error
            assert path.name in str(error), f"the message names no file: {error}"
            assert str(error).isprintable() or "\n" in str(error)
        assert time.monotonic() - started < SECONDS, content
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES
    return clean, refused


def mutations(seeds, salt):
    chance = random.Random(SEED * 1000 + salt)
    contents = [path.read_bytes() for path in seeds]
    return (mutate(chance.choice(contents), chance) for _ in range(FUZZ))


def test_mutated_experiment_files(tmp_path, capsys):
    clean, refused = survive(
        Experiment.from_file, tmp_path / "fuzzed.yaml", mutations(EXPERIMENTS, 1), ConfigError
    )
    with capsys.disabled():
        sys.stdout.write(f" experiment files: {clean + refused} tried, {refused} refused with a message ")
    assert clean + refused == FUZZ
    assert refused > 0.1 * FUZZ


def test_mutated_data_files(tmp_path, capsys):
    seeds = sorted(CORPUS.glob("*.jsonl"))
    clean, refused = survive(load_prompts, tmp_path / "fuzzed.jsonl", mutations(seeds, 2), DataError)
    with capsys.disabled():
        sys.stdout.write(f" data files: {clean + refused} tried, {refused} refused with a message ")
    assert clean + refused == FUZZ
    assert refused > 0.1 * FUZZ


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
DOUBLINGS = f"a0: {'x' * 100}\n" + "".join(f"a{level + 1}: {f'${{a{level}}}' * 10}\n" for level in range(20))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "values once its anchors are expanded"),
        ("a: &a [*a]\n", "nested too deeply"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "x" * 2_000_000, "expected an experiment file of at most"),
        ("name: !!python/object/apply:os.system ['touch pwned']\n", "could not determine a constructor"),
        ("name: ${name}\n", "name: expected letters"),
        ("name: ${oc.env:HOME}\n", "name: expected letters"),
        (DOUBLINGS, "a0: unknown key"),
        ("name: a\narms: {b: {training: 5}}\n", "missing"),
        ('task: {name: custom, train: "a\\0b"}\n', "task.train: holds a NUL character"),
        ("name: a\nname: b\n", "not a readable YAML file"),
    ],
)
def test_known_bombs_are_refused(tmp_path, text, message):
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(ConfigError, match=message):
        Experiment.from_file(path)
    assert time.monotonic() - started < SECONDS
    assert not Path("pwned").exists()
