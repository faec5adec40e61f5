"""Mutated experiment and data files end in a clean result or in one error for people: no traceback, hang or bomb.

FUZZ=20000 pytest tests/fuzz    runs as many of each (`make fuzz`); the default keeps `make test` short. Of data files
half are prompts, half generations made elsewhere. FUZZ_SEED starts other mutations, so that a long search can be cut
into pieces.
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from tests.fuzz.mutate import mutate, mutate_tree

from polychromic.errors import CheckerError, ConfigError, DataError, PolychromicError
from polychromic.evaluation.external import read_external
from polychromic.experiment.config import Experiment
from polychromic.records import SamplingParameters
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.tasks.base import build_task
from polychromic.tasks.data.prompts import load_prompts

FUZZ = int(os.environ.get("FUZZ", "300"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
SECONDS, BYTES, HANG_SECONDS = 5.0, 2**30, 120
CORPUS = Path(__file__).parent / "corpus"
# Reading puzzles takes a package that may be absent, which is no fault of the file.
LEFT_OUT = set() if find_spec("reasoning_gym") else {"puzzles.yaml"}
EXPERIMENTS = sorted(
    path for path in (*Path("experiments").glob("*.yaml"), *CORPUS.glob("*.yaml")) if path.name not in LEFT_OUT
)


class Outcomes(Counter):
    """Counts how many contents were read and how many refused."""

    def show(self, what, capsys):
        with capsys.disabled():
            sys.stdout.write(f" {what}: {self.total()} tried, {self['read']} read, {self['refused']} refused ")


def survive(read, path, contents):
    """Read every content. Only an error for people that names the file may come out, in time and in little memory."""
    outcomes = Outcomes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for content in contents:
        path.write_bytes(content)
        started = time.process_time()
        signal.alarm(HANG_SECONDS)
        try:
            read(path)
            outcomes["read"] += 1
        except PolychromicError as error:
            outcomes["refused"] += 1
            assert path.name in str(error), f"the message names no file: {error}"
        except BaseException:
            (path.parent / "failing").write_bytes(content)
            raise
        finally:
            signal.alarm(0)
        assert time.process_time() - started < SECONDS, content
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES
    return outcomes


@pytest.fixture(autouse=True)
def hangs_are_errors():
    """Time is measured by CPU, which a busy machine does not change; waiting for ever uses none."""

    def hang(*_):
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, hang)
    yield
    signal.signal(signal.SIGALRM, before)


def read_experiment(path):
    """Does what happens before any work: the file, then the task's data and checkers, from the copies beside it."""
    experiment = Experiment.from_file(path)
    try:
        task = build_task(experiment.task)
        for split in ("train", "validation", "test"):
            task.prompts(split)
    except (DataError, CheckerError) as error:
        # The file at fault is another one, which the message names; the experiment file is well formed.
        raise ConfigError(f"{path.name}: {error}") from error
    except ConfigError as error:
        # What only the task itself can tell (options of a puzzle, more problems than there are) names the key.
        assert str(error).startswith("task")
        raise ConfigError(f"{path.name}: {error}") from error


def test_mutated_experiment_files(tmp_path, capsys):
    chance = random.Random(SEED * 1000 + 1)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "Q", "references": ["A"]}) + "\n")
    (tmp_path / "checker.py").write_text("def check(prompt, text):\n    return 1.0\n")
    shutil.copy("experiments/code_styles.py", tmp_path)
    files = [path.read_bytes() for path in EXPERIMENTS]
    trees = [yaml.safe_load(content) for content in files]

    def content(number):
        if number % 2:
            return mutate(chance.choice(files), chance)
        # As YAML, quoted like JSON: what is odd is the value, not the syntax.
        return json.dumps(mutate_tree(chance.choice(trees), chance)).encode()

    outcomes = survive(read_experiment, tmp_path / "fuzzed.yaml", map(content, range(FUZZ)))
    outcomes.show("experiment files", capsys)
    assert outcomes.total() == FUZZ
    assert min(outcomes["read"], outcomes["refused"]) > 0.02 * FUZZ


def read_generations_of(path):
    """The file as generations of a task whose prompts have the names of the corpus."""
    task = ArithmeticTask(4, 2, 2)
    prompts = [replace(one, id=name) for one, name in zip(task.prompts("train"), ("a", "b", "c"), strict=False)]
    return read_external({"one": [path]}, task, prompts, SamplingParameters())


@pytest.mark.parametrize(
    ("what", "files", "read"),
    [("prompts", "*.jsonl", load_prompts), ("generations", "generations/*.jsonl", read_generations_of)],
)
def test_mutated_data_files(tmp_path, capsys, what, files, read):
    chance = random.Random(f"{SEED} {what}")
    files = [path.read_bytes() for path in sorted(CORPUS.glob(files))]
    n_files = FUZZ // 2
    lines = [json.loads(line) for content in files for line in content.splitlines()]

    def content(number):
        if number % 2:
            return mutate(chance.choice(files), chance)
        rows = [mutate_tree(row, chance) for row in chance.sample(lines, 3)]
        return b"\n".join(json.dumps(row).encode() for row in rows)

    outcomes = survive(read, tmp_path / "fuzzed.jsonl", map(content, range(n_files)))
    outcomes.show(f"data files ({what})", capsys)
    assert outcomes.total() == n_files
    assert min(outcomes["read"], outcomes["refused"]) > 0.02 * n_files


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
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
        ("a: " + "1:" + "59:" * 300_000 + "1", "expected an experiment file of at most"),
        ("a: " + "1:" + "59:" * 30_000 + "1", "line 1: 1:59:.*… is a number in base 60 in YAML"),
        (DOUBLINGS, "a0: unknown key"),
        ("name: a\narms: {b: {training: 5}}\n", "missing"),
        ('task: {name: custom, train: "a\\0b"}\n', "task.train: holds a NUL character"),
        ("name: a\nname: b\n", "not a readable YAML file"),
        # Past bug, found by these mutations: a file of one number ended in omegaconf's AssertionError.
        *((text, "expected sections") for text in (".inf", "9" * 400, "5", "true", "2026-11-25", "text", "[a]", "")),
    ],
)
def test_known_bombs_are_refused(tmp_path, text, message):
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    started = time.process_time()
    with pytest.raises(ConfigError, match=message):
        Experiment.from_file(path)
    assert time.process_time() - started < SECONDS
    assert not Path("pwned").exists()
