"""Compares generations made anywhere: an experiment without a model, whose arms are files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from polychromic.errors import ConfigError, DataError
from polychromic.evaluation.criteria import ResultWarning, listed, plural
from polychromic.evaluation.external import (
    ExternalGenerations,
    RowsByArmSeed,
    pair_by_order,
    read_external,
    require_common_seeds,
    without_copies,
)
from polychromic.evaluation.settings import ComparisonSettings, EvaluationSettings, load_stated_metrics
from polychromic.experiment.about import first_example, task_in_words
from polychromic.experiment.compare import compare_rows
from polychromic.experiment.config import Experiment, FolderName
from polychromic.experiment.paths import with_absolute_paths
from polychromic.experiment.progress import paid
from polychromic.experiment.progress.display import counting
from polychromic.experiment.resuming.folder import held_folder, read_resolved, resolved_yaml
from polychromic.experiment.resuming.provenance import installed_versions
from polychromic.experiment.run import RunResult
from polychromic.experiment.settings import RunSettings
from polychromic.experiment.yaml_file import Overrides, checked, read_yaml
from polychromic.files import read_derived, remove_folder, sha256_file, user_path, write_json, write_text
from polychromic.generations import write_generations
from polychromic.ledger import BudgetSettings
from polychromic.report.about import About, own_folders
from polychromic.run_folder import RunFolder, folder_name, require_folders_apart
from polychromic.settings import Sections
from polychromic.tasks.base import Task, build_task
from polychromic.tasks.settings import TaskSettings


class ExternalExperiment(Sections):
    """A comparison of files of generations: a task that checks them, and what success means.

    `from_file` reads an experiment file with `name` and `task`; `evaluation`, `comparison` and `run` are optional, and
    what is about training is passed over, so that the file of a whole experiment serves as well.
    """

    name: FolderName
    task: TaskSettings
    generations: dict[str, list[str]]
    """Arm → its files, one per seed unless their lines say otherwise."""
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    comparison: ComparisonSettings = Field(default_factory=ComparisonSettings)
    run: RunSettings = Field(default_factory=RunSettings)

    @model_validator(mode="after")
    def _arms_are_known(self) -> Self:
        if not self.generations:
            raise ValueError("generations: nothing is given, expected files; add --generations NAME=FILE")
        for arm, files in self.generations.items():
            folder_name(arm, place=f"generations.{arm}: ")
            if not files:
                raise ValueError(f"generations.{arm}: no file is given, expected one per seed")
            if len(set(files)) < len(files):
                raise ValueError(f"generations.{arm}: the same file is given twice; each file is one seed")
        require_folders_apart(self.generations, place="generations")
        if self.comparison.baseline not in self.generations:
            names = listed(list(self.generations))
            raise ValueError(
                f"comparison.baseline is {self.comparison.baseline!r}, but there are generations of {names}; "
                f"add comparison.baseline={next(iter(self.generations))}"
            )
        return self

    @model_validator(mode="after")
    def _criteria_are_measured(self) -> Self:
        self.comparison.require_measured(self.task, self.evaluation)
        return self

    @property
    def arms(self) -> list[str]:
        """Returns the arms in the order in which they were given."""
        return list(self.generations)

    @classmethod
    def from_file(
        cls, path: str | Path, generations: Mapping[str, Sequence[str]], overrides: Overrides = ()
    ) -> ExternalExperiment:
        """Reads an experiment file for the comparison of these files; raises ConfigError that lists every problem.

        The first arm is the baseline unless the file names one. A custom task needs no more than a `test` file.
        """
        path = user_path(path)
        content = with_absolute_paths(read_yaml(path, overrides), path.resolve().parent)
        load_stated_metrics(content, str(path))
        of_training = Experiment.model_fields.keys() - cls.model_fields.keys()
        kept = {key: value for key, value in content.items() if key not in of_training}
        kept["generations"] = {
            arm: [str(user_path(file).resolve()) for file in files] for arm, files in generations.items()
        }
        comparison = kept.get("comparison") or {}
        if isinstance(comparison, dict):
            kept["comparison"] = {"baseline": next(iter(generations), "")} | comparison
        task = kept.get("task")
        if isinstance(task, dict) and task.get("name") == "custom" and "test" in task:
            kept["task"] = {"train": task["test"], "validation": task["test"]} | task
        return cls.from_mapping(kept, source=str(path))

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any], *, source: str) -> ExternalExperiment:
        """Checks a mapping with these sections; `source` names it in messages."""
        return checked(cls, content, source)


def split_arguments(generations: Sequence[str], others: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Splits `NAME=FILE` options and the free arguments of the command line into files by arm, and overrides.

    An option that is a FILE alone is an arm of the file's name. A free argument whose key is no section is a further
    NAME=FILE: `--generations a=1.jsonl b=2.jsonl`; so is one whose key is a section alone and whose value cannot be
    one: `diversity=d.jsonl`. Raises ConfigError for one that is neither.
    """
    generations = [argument if "=" in argument else f"{Path(argument).stem}={argument}" for argument in generations]
    overrides = [argument for argument in others if _is_override(argument)]
    files: dict[str, list[str]] = {}
    for argument in [*generations, *(argument for argument in others if argument not in overrides)]:
        name, separator, file = argument.partition("=")
        if not separator or not name or not file:
            raise ConfigError(f"--generations {argument}: expected NAME=FILE, such as baseline=baseline.jsonl")
        files.setdefault(name, []).append(file)
    return files, overrides


def _is_override(argument: str) -> bool:
    """Tells whether a free argument changes the experiment: `name=x`, `task.test=…`, `evaluation={…}`."""
    key, _, value = argument.partition("=")
    section, dot, _ = key.partition(".")
    if section not in ExternalExperiment.model_fields.keys() | Experiment.model_fields.keys():
        return False
    return bool(dot) or section in ("name", "seeds") or value.lstrip()[:1] in ("{", "") or value.strip() == "null"


def evaluate_external(experiment: ExternalExperiment, folder: RunFolder, *, for_print: bool = False) -> RunResult:
    """Checks, measures and compares the files, and leaves a run folder with rows, comparison and report.

    An earlier comparison of files in the folder is replaced. Raises ConfigError where the folder holds a run, or what
    would be lost with it, and DataError that lists what is wrong with the files.
    """
    from polychromic.report.build import write_report

    _require_no_run(folder)
    _require_nothing_lost(experiment, folder)
    settings = experiment.evaluation
    task = build_task(experiment.task)
    default = settings.sampling_parameters()[0]
    files = {arm: [Path(file) for file in paths] for arm, paths in experiment.generations.items()}
    prompts = task.prompts(settings.split)
    with counting("checking", "answers") as on_checked:
        external = read_external(files, task, prompts, default, experiment.task.thinking, on_checked)
    if experiment.comparison.match_seeds == "order":
        external = replace(external, rows=pair_by_order(external.rows))
    of_seeds = _one_answer_per_seed(external.rows)
    rows, copies = without_copies(external.rows)
    external = replace(external, rows=rows)
    require_common_seeds(external.rows, experiment.comparison.baseline)
    primary_sampling = _primary_sampling(external.rows, default.label)
    with paid(folder, BudgetSettings(), "comparison", calls_only=True):
        compared = compare_rows(
            experiment,
            external.rows,
            task,
            primary_sampling=primary_sampling,
            notes=[*_notes(external, default.label, len(prompts)), *of_seeds, *_notes_of_copies(copies)],
        )
    with held_folder(folder.root):
        _require_no_run(folder)  # nor one that has begun meanwhile
        _write_inputs(experiment, folder, external.rows)
        about = _about(experiment, task)
        write_json(folder.comparison, about.shortened(compared.comparison.to_json()))
        write_report(
            folder.root,
            compared.comparison,
            arms=experiment.arms,
            seeds=sorted({seed for _, seed in external.rows}),
            pass_threshold=task.pass_threshold,
            study=compared.study,
            prompt_texts={prompt.id: prompt.text for prompt in task.prompts(settings.split)},
            about=about,
            for_print=for_print,
        )
    return RunResult(folder, compared.comparison)


def require_same_files(experiment: ExternalExperiment, folder: RunFolder) -> None:
    """Raises ConfigError where a file is gone, or another one than was compared: the page would be of other answers."""
    recorded = (read_derived(folder.provenance) or {}).get("data_sha256", {})
    for file in _files(experiment):
        is_there = Path(file).is_file()
        if not is_there or recorded.get(file) not in (None, sha256_file(Path(file))):
            raise ConfigError(
                f"{file} {'has changed' if is_there else 'is gone'} since {folder.root} was made of it; put back what "
                f"it was, or compare anew with `polychromic evaluate`. {folder.report} is of what it was"
            )


def _about(experiment: ExternalExperiment, task: Task) -> About:
    """Says what is known of generations made elsewhere: their files, and what judged them."""
    facts = [("task", task_in_words(experiment.task, task.pass_threshold))]
    names = _names(_files(experiment))
    for arm, files in experiment.generations.items():
        facts.append((f"arm {arm}", f"generations of {', '.join(names[file] for file in files)}"))
    return About(
        tuple(facts), first_example(task, experiment.evaluation.split), own_folders(experiment.model_dump(mode="json"))
    )


def _names(files: Sequence[str]) -> dict[str, str]:
    """Names files as shortly as tells them apart: without folders, or below the one that all are in."""
    if len({Path(file).name for file in files}) == len(set(files)):
        return {file: Path(file).name for file in files}
    common = os.path.commonpath([Path(file).resolve().parent for file in files])
    return {file: Path(os.path.relpath(Path(file).resolve(), common)).as_posix() for file in files}


def _require_no_run(folder: RunFolder) -> None:
    of_a_run = folder.experiment.exists() and "generations" not in read_resolved(folder.experiment)
    if of_a_run or folder.has_training:
        raise ConfigError(
            f"{folder.root} holds a run with trained arms; choose another place for the comparison of files with "
            "--out, or another name with name=..."
        )


def _require_nothing_lost(experiment: ExternalExperiment, folder: RunFolder) -> None:
    """Raises ConfigError where a folder that the rows are written to, in place of all that it holds, has one of the
    files in it, or was not made by an earlier comparison."""
    for arm in experiment.arms:
        place = folder.root / arm
        inside = [file for file in _files(experiment) if Path(file).resolve().is_relative_to(place.resolve())]
        if inside or (place.exists() and not folder.experiment.exists()):
            what = f"{inside[0]} lies in" if inside else "something lies in"
            raise ConfigError(
                f"{what} {place}, which the rows of arm {arm} would replace; choose another place with --out, or "
                "another name with name=..."
            )


def _files(experiment: ExternalExperiment) -> list[str]:
    return [file for paths in experiment.generations.values() for file in paths]


def _primary_sampling(rows: RowsByArmSeed, preferred: str) -> str:
    """Chooses a sampling setting that all arms and seeds share, with a prompt in common; the experiment's own first.

    Raises DataError where there is none.
    """
    prompts: dict[tuple[str, int], dict[str, set[str]]] = {key: {} for key in rows}
    for key, members in rows.items():
        for row in members:
            prompts[key].setdefault(row.sampling.label, set()).add(row.prompt_id)
    shared = [label for label in next(iter(prompts.values())) if all(label in others for others in prompts.values())]
    if not shared:
        sampled = "; ".join(f"{arm}: {', '.join(by_label)}" for (arm, _), by_label in prompts.items())
        raise DataError(
            f"no sampling setting is common to all files ({sampled}); sample at equal settings, or remove temperature, "
            "top_p and other settings from the lines to compare them as they are"
        )
    useful = [label for label in shared if set.intersection(*(by_label[label] for by_label in prompts.values()))]
    if not useful:
        answered = {key: by_label[shared[0]] for key, by_label in prompts.items()}
        have = "; ".join(
            f"{arm}, seed {seed}: {plural(len(ids), 'prompt')} such as {min(ids)!r}"
            for (arm, seed), ids in answered.items()
        )
        raise DataError(
            f"no prompt is answered in all files at {shared[0]} ({have}); expected answers of every arm and seed to "
            "the same prompts"
        )
    return preferred if preferred in useful else useful[0]


def _notes(external: ExternalGenerations, assumed_label: str, n_prompts: int) -> list[ResultWarning]:
    """Lists what the files leave open, and how it was taken."""
    unstated = f"lines do not say how they were sampled and are taken for {assumed_label}"
    notes = [ResultWarning("sampling not stated", arm, f"{arm}: {unstated}") for arm in external.assumed]
    unsure = "without a word on how they ended are taken for finished"
    stopped = "stopped by a filter or an error count as truncated"
    for counts, words in ((external.open_ends, unsure), (external.interrupted, stopped)):
        notes += [ResultWarning("truncated", arm, f"{arm}: {plural(n, 'text')} {words}") for arm, n in counts.items()]
    if external.unnamed_seeds:
        text = f"lines of {listed(list(external.unnamed_seeds))} name no seed: the order of the files numbers them"
        notes.append(ResultWarning("seeds", "", text))
    answered = {row.prompt_id for members in external.rows.values() for row in members}
    if len(answered) < n_prompts:
        text = f"{n_prompts - len(answered)} of the split's {n_prompts} prompts are in no file of generations"
        notes.append(ResultWarning("left out", "", text))
    if external.counted_in_words:
        text = "lengths are words, not tokens: not every line has its n_tokens"
        notes.append(ResultWarning("length", "", text))
    return notes


def _one_answer_per_seed(rows: RowsByArmSeed) -> list[ResultWarning]:
    """Warns by arm where seeds look like those of samples: none has two answers to a prompt."""
    seeds = Counter(arm for arm, _ in rows)
    most: dict[str, int] = {}
    for (arm, _), members in rows.items():
        most[arm] = max(most.get(arm, 0), *Counter((row.prompt_id, row.sampling) for row in members).values())
    return [
        ResultWarning(
            "seeds",
            arm,
            f"{arm}: one answer per prompt and seed ({n} seeds): these look like samples, not training seeds; remove "
            "`seed` from the lines, and put all answers into one file, to have them compared as answers to one prompt",
        )
        for arm, n in seeds.items()
        if n > 1 and most[arm] == 1
    ]


def _notes_of_copies(copies: Mapping[str, Sequence[tuple[int, int]]]) -> list[ResultWarning]:
    """Names the seeds that are left out because they are another one's answers."""
    return [
        ResultWarning(
            "seeds",
            arm,
            f"{arm}: {listed([f'seed {copy} has the very same answers as seed {seed}' for copy, seed in pairs])}; a "
            "model that is trained anew answers otherwise, so that each is counted once",
        )
        for arm, pairs in copies.items()
    ]


def _write_inputs(experiment: ExternalExperiment, folder: RunFolder, rows: RowsByArmSeed) -> None:
    """Writes what the comparison was made from: settings, hashes of the files, and the checked rows."""
    for arm in experiment.arms:
        remove_folder(folder.root / arm)
    write_text(folder.experiment, resolved_yaml(experiment))
    hashes = {os.fspath(file): sha256_file(Path(file)) for file in _files(experiment)}
    write_json(folder.provenance, {"packages": installed_versions(), "data_sha256": hashes})
    for (arm, seed), members in rows.items():
        write_generations(folder.arm(arm, seed).generations, members)
