"""Damages every file of a finished run folder in every way and gives it to every verb: a sentence, never a traceback.

    python -m tests.attack.damage [--only TEXT] [--keep-going]

Prints one line for each trial that ended badly and closes with `damage: N trials, N survived, 0 failed`. A trial
survives where the verb ends with 0, or with 1 and one message that names a file and a way on. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.command import command

SMALL = (
    "seeds=[0]", "training.steps=2", "training.prompts_per_step=2", "training.num_samples=4",
    "training.checkpoint_every=1", "model.adapter.rank=4", "diversity.set_size=2", "evaluation.num_prompts=4",
    "evaluation.num_samples=4", "evaluation.sampling=[{temperature: 1.0}]", "evaluation.max_decode_batch=16",
    "task.train_problems=16", "task.validation_problems=4", "task.test_problems=4", "run.workers=1",
    "run.preflight=false", "comparison.minimum=[{metric: distinct_correct, direction: higher, relative_change: 0.1}]",
)  # fmt: skip
EXPERIMENT = "experiments/quickstart.yaml"
VERBS = ("run", "evaluate", "report", "diagnose", "cost", "train")
JOB = "coverage/seed-0"
FILES = (
    "experiment.yaml", "provenance.json", "ledger.jsonl", ".running.json", ".owner.json", ".lock", "preflight.json",
    "comparison.json", "diagnosis.json", "report.html", "report.md", "results.tex", "figures/pass.svg",
    f"{JOB}/metrics.jsonl", f"{JOB}/generations.jsonl", f"{JOB}/references.jsonl", f"{JOB}/training.json",
    f"{JOB}/adapter/adapter_config.json", f"{JOB}/adapter/adapter_model.safetensors", f"{JOB}/adapter/README.md",
    f"{JOB}/checkpoints/step-000002/state.json", f"{JOB}/checkpoints/step-000002/weights.safetensors",
)  # fmt: skip
OUTPUTS = {
    "diagnosis.json", "report.html", "report.md", "results.tex", "figures/pass.svg", f"{JOB}/adapter/README.md",
}  # fmt: skip
IN_THE_WAY = ("a folder", "a dangling link", "a link to itself", "missing")
WAYS_ON = (
    "put a copy", "delete", "move it away", "--fresh", "--out", "run again", "it is made again", "run` or `evaluate",
    "train it first", "trains it", "did you mean", "should be", "match the values", "this key is required", "again",
)  # fmt: skip


def flip_a_bit(path: Path) -> None:
    """In the middle of the file."""
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 4
    path.write_bytes(content)


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("else")


def hold(content: bytes) -> Callable[[Path], None]:
    """Replace the content."""
    return lambda path: path.write_bytes(content) and None


def hold_another_word(path: Path) -> None:
    """A byte that is no UTF-8 in the middle."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\xff\xfe" + content[len(content) // 2 :])


def hold_long_numbers(path: Path) -> None:
    """401 digits in place of every number that stands alone."""
    path.write_bytes(re.sub(rb"(?<=[ :\[])-?\d+(\.\d+)?(?=[,}\]\n])", b"9" * 401, path.read_bytes()))


def hold_null(path: Path) -> None:
    """Null in place of the same."""
    path.write_bytes(re.sub(rb"(?<=[ :\[])-?\d+(\.\d+)?(?=[,}\]\n])", b"null", path.read_bytes()))


def link_to(target: str) -> Callable[[Path], None]:
    """A link in place of the file."""

    def damage(path: Path) -> None:
        path.unlink()
        path.symlink_to(path if target == "itself" else target)

    return damage


def disappear(path: Path) -> None:
    path.unlink()


DAMAGES: Mapping[str, Callable[[Path], None]] = {
    "a bit flipped": flip_a_bit,
    "half": halve,
    "empty": empty,
    "a folder": become_a_folder,
    "a list": hold(b"[1, 2]\n"),
    "an object": hold(b'{"a": {"b": []}}\n'),
    "deep": hold(b"[" * 100_000 + b"\n"),
    "not UTF-8": hold_another_word,
    "401 digits": hold_long_numbers,
    "null": hold_null,
    "a dangling link": link_to("/nowhere/at/all"),
    "a link to itself": link_to("itself"),
    "missing": disappear,
}


@dataclass(frozen=True)
class Trial:
    """One damage to one file and the verb that meets it."""

    file: str
    damage: str
    verb: str

    def __str__(self) -> str:
        return f"{self.file}, {self.damage}, {self.verb}"


def trials() -> Iterator[Trial]:
    """All of them; of a file that nothing reads again, those that stand in the way of writing it."""
    for file in FILES:
        for damage in IN_THE_WAY if file in OUTPUTS else DAMAGES:
            for verb in VERBS:
                yield Trial(file, damage, verb)


def arguments(verb: str, root: Path) -> Sequence[str]:
    """Those that a user gives for a verb of the run below `root`."""
    if verb in ("run", "evaluate", "train"):
        return (verb, EXPERIMENT, *SMALL, "--out", str(root.parent))
    return (verb, str(root))


def whole_run(out: Path) -> Path:
    """A finished run folder with every file that damage can meet."""
    ending = command("run", EXPERIMENT, *SMALL, "--out", str(out))
    assert ending.code == 0 and not ending.crash, ending.errors + ending.crash
    root = out / "quickstart"
    references = root / JOB / "references.jsonl"
    if not references.exists():
        references.write_text('{"prompt_id": "test-00000", "n_tokens": 4, "cross_entropy": 2.0}\n')
    assert command("report", str(root)).code == 0
    # What a kill leaves behind, and what this run did without.
    (root / ".lock").touch()
    (root / ".running.json").write_bytes(b"[]\n")
    (root / ".owner.json").write_bytes(b'{"pid": 1, "host": "x", "started": "x"}\n')
    checks = '[{"name": "time and money", "figures": {"seconds": 9.0}}]'
    (root / "preflight.json").write_text(f'{{"passed": true, "checks": {checks}}}\n')
    return root


def attempt(trial: Trial, whole: Path, folder: Path) -> str:
    """Returns what is wrong with how the trial ended; empty where it survived."""
    root = folder / "quickstart"
    shutil.copytree(whole, root, symlinks=True)
    DAMAGES[trial.damage](root / trial.file)
    ending = command(*arguments(trial.verb, root))
    shutil.rmtree(folder)
    if ending.crash or "Traceback" in ending.errors:
        return (ending.crash or ending.errors).strip()
    if ending.code == 0:
        return ""
    message = ending.errors.strip()
    if ending.code != 1 or "error: " not in message:
        return f"exit code {ending.code}: {message}"
    if str(root) not in message:
        return f"names no file: {message}"
    return "" if any(way in message for way in WAYS_ON) else f"names no way on: {message}"


def _last_line(problem: str) -> str:
    lines = problem.splitlines()
    return f"{lines[0]} … {lines[-1]}" if len(lines) > 1 else problem


def main() -> int:
    """Run the trials and print the count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="trials whose text holds this")
    parser.add_argument("--long", action="store_true", help="print whole tracebacks")
    options = parser.parse_args()
    failed = n = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = whole_run(Path(folder) / "whole")
        for trial in trials():
            if options.only not in str(trial):
                continue
            n += 1
            problem = attempt(trial, whole, Path(folder) / "damaged")
            if problem:
                failed += 1
                print(f"{trial}: {problem if options.long else _last_line(problem)}", flush=True)
    print(f"damage: {n} trials, {n - failed} survived, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
