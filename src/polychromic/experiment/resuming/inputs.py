"""Hashes what a run is made of besides its settings, and says what has changed since it was recorded."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from polychromic.errors import DataError
from polychromic.experiment.config import Experiment
from polychromic.files import sha256_file, strict_json
from polychromic.models.settings import ModelSettings
from polychromic.models.sources import resolve_source
from polychromic.records import Prompt
from polychromic.tasks.base import Split, build_task
from polychromic.tasks.data.prompts import load_prompts
from polychromic.tasks.settings import FileSettings

Inputs = Mapping[str, Any]
"""The result of `record_inputs`: plain JSON."""

_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODEL_FILES = (
    "*.safetensors", "config.json", "generation_config.json", "tokenizer*", "vocab*", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template*", "*.py",
)  # fmt: skip
_EMBEDDER_FILES = ("*.safetensors", "*.json", "*.txt", "*/*.safetensors", "*/*.json")


def record_inputs(experiment: Experiment, previous: Inputs | None = None, *, models: bool = True) -> dict[str, Any]:
    """Hashes the prompts of each split, data files, checkers, and (`models`) base models and embedders.

    `previous` is an earlier record: model files whose size, time of change and inode are still those written there are
    not read again.
    """
    previous = previous or {"models": {}, "embedders": {}}
    prompts = stated_prompts(experiment)
    of_models = {_key(model): model for model in stated_models(experiment)} if models else {}
    return {
        "prompts_sha256": {split: prompts_sha256(members) for split, members in prompts.items()},
        "prompts": {split: len(members) for split, members in prompts.items()},
        "data_sha256": {name: sha256_file(Path(name)) for name in _data_files(experiment)},
        "checkers": {role: checker_code(name) for role, name in experiment.task.code.items()},
        "training_code": {role: checker_code(name) for role, name in training_code(experiment).items()},
        "metrics": {name.rpartition(":")[2]: checker_code(name) for name in experiment.evaluation.metrics},
        "models": {key: _model(model, previous["models"].get(key, {})) for key, model in of_models.items()},
        "embedders": {
            name: _hashes(
                Path(name) if Path(name).is_dir() else cached_snapshot(name, "main"),
                _EMBEDDER_FILES,
                previous["embedders"].get(name, {}),
            )
            for name in (_embedders(experiment) if models else [])
        },
    }


def changed_inputs(
    old: Experiment, new: Experiment, recorded: Inputs, current: Inputs, *, models: bool = True
) -> list[str]:
    """Lists what is no longer as recorded, each with its file: the prompts, the checkers' code, weights and tokenizer
    of the base models (`models`), adapters that training starts from. `old` and `new` may name the same content
    differently.

    Prompts added at the end of the evaluated split change nothing that was made. What a record of an earlier version
    does not hold, or cannot be found now, is passed over.
    """
    changed = _changed_prompts(new, recorded, current, only_evaluated=not models)
    for role, code in recorded["checkers"].items():
        now = current["checkers"].get(role) or code  # gone altogether: who has to run it says so
        changed += [f"the {role}'s code ({name})" for name in sorted(code) if code[name] != now.get(name)]
    if not models:
        return changed
    for role, code in recorded["training_code"].items():
        now = current["training_code"].get(role) or code
        changed += [f"the {role} ({name})" for name in sorted(code) if code[name] != now.get(name)]
    for name, before in recorded["embedders"].items():
        changed += _changed_files(name, before, current["embedders"].get(name, {}))
    for arm in sorted(old.arms.keys() & new.arms.keys()):
        before, now = old.arm(arm).model, new.arm(arm).model
        changed += _changed_files(
            now.source, recorded["models"].get(_key(before), {}), current["models"].get(_key(now), {})
        )
        start = recorded["data_sha256"].get(start_weights(before))
        if start and start != current["data_sha256"].get(start_weights(now)):
            changed.append(f"the adapter that training starts from ({start_weights(now)})")
    return list(dict.fromkeys(changed))


def as_now(recorded: Mapping[str, Any], old: Experiment) -> dict[str, Any]:
    """Adds the sections that the record's version of the program did not write; a checker's file stood among data."""
    data = recorded.get("data_sha256", {})
    checkers = {
        role: {Path(file).name: data[file]}
        for role, name in old.task.code.items()
        if (file := name.rpartition(":")[0]) in data
    }
    sections = (
        "packages", "prompts_sha256", "prompts", "data_sha256", "models", "embedders", "training_code", "metrics",
    )  # fmt: skip
    none = {key: {} for key in sections}
    return {**none, "checkers": checkers, **recorded}


def is_recorded(path: tuple[str, ...], before: Any, now: Any, recorded: Inputs, old: Experiment) -> bool:
    """Returns whether a setting names something whose content is recorded: then two names may stand for one content,
    and `changed_inputs` says whether they do. A project may move to another folder or machine."""
    key = path[-1]
    if path[0] == "task" and key.removesuffix("_problems") in _SPLITS:
        return recorded["prompts_sha256"].get(key.removesuffix("_problems")) is not None
    if not isinstance(before, str) or not isinstance(now, str):
        return False
    (file, _, function), (other, _, other_function) = before.rpartition(":"), now.rpartition(":")
    is_moved = file.endswith(".py") and other.endswith(".py") and function == other_function
    if path[0] == "task" and key in ("name", "checker", "judge"):
        return is_moved and bool(recorded["checkers"].get("task" if key == "name" else key))
    if key in ("objective", "engine"):
        kind = "sampler" if key == "engine" else key
        return is_moved and f"{kind} {function}" in recorded["training_code"]
    model = old.arm(path[1]).model if path[0] == "arms" else old.model
    if key == "start_from":
        return start_weights(model) in recorded["data_sha256"]
    folders = all(Path(name).is_absolute() or Path(name).is_dir() for name in (before, now))
    return key == "source" and folders and bool(recorded["models"].get(_key(model), {}).get("sha256"))


def start_weights(model: ModelSettings) -> str:
    """Returns the weights file of the adapter that training starts from; empty where it starts afresh."""
    start = model.adapter.start_from
    return str(Path(start) / "adapter_model.safetensors") if start else ""


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """Hashes prompts with their references, in order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        messages = [(message.role, message.content) for message in prompt.messages]
        digest.update(strict_json([prompt.id, messages, prompt.references, prompt.meta]).encode())
    return digest.hexdigest()


def stated_prompts(experiment: Experiment) -> dict[str, list[Prompt]]:
    """Reads the prompts by split, without one that cannot be read: not every run needs all three. No checker is
    started."""
    settings = experiment.task
    prompts: dict[str, list[Prompt]] = {}
    for split in _SPLITS:
        with suppress(DataError):
            if isinstance(settings, FileSettings):
                prompts[split] = load_prompts(settings.files[split], settings.keys)
            else:
                prompts[split] = list(build_task(settings).prompts(split))
    return prompts


def _changed_prompts(experiment: Experiment, recorded: Inputs, current: Inputs, *, only_evaluated: bool) -> list[str]:
    """Names the splits whose prompts have changed: every one, or the evaluated one where it can be read."""
    changed = []
    for split, digest in recorded["prompts_sha256"].items():
        evaluated = split == experiment.evaluation.split
        if only_evaluated and not (evaluated and split in current["prompts"]):
            continue
        n, now = recorded["prompts"].get(split), current["prompts_sha256"].get(split)
        if evaluated and n and current["prompts"].get(split, 0) > n:
            now = prompts_sha256(stated_prompts(experiment)[split][:n])
        if digest is not None and now != digest:
            file = getattr(experiment.task, split, None)
            changed.append(f"the {split} prompts" + (f" ({file})" if file else ""))
    return changed


def _changed_files(source: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names the files of a model that have changed; none where hashes are missing. A record without `stat` has weights
    alone."""
    if not before.get("sha256") or not now.get("sha256"):
        return []
    old, new = before["sha256"], now["sha256"]
    names = old.keys() | new.keys() if "stat" in before else old.keys()
    return [f"{_what(name)} of {source} ({name})" for name in sorted(names) if old.get(name) != new.get(name)]


def training_code(experiment: Experiment) -> dict[str, str]:
    """Returns the users' own objectives, trainers and samplers, by kind and name."""
    arms = [experiment.arm(arm) for arm in experiment.arms]
    named = {("sampler", experiment.sampling.engine)}
    named |= {("objective", arm.diversity.objective) for arm in arms}
    named |= {("trainer", arm.training.engine) for arm in arms}
    return {f"{kind} {name.rpartition(':')[2]}": name for kind, name in sorted(named) if ":" in name}


def _data_files(experiment: Experiment) -> list[str]:
    """Returns the task's files, and adapters that training continues from."""
    files = map(str, experiment.task.files.values())
    starts = [start_weights(model) for model in stated_models(experiment)]
    return [file for file in dict.fromkeys([*files, *starts]) if file and Path(file).is_file()]


def stated_models(experiment: Experiment) -> list[ModelSettings]:
    """Returns the model's settings of the experiment and of every arm."""
    return [experiment.model, *(experiment.arm(arm).model for arm in experiment.arms)]


def _key(model: ModelSettings) -> str:
    return model.source if model.revision is None else f"{model.source}@{model.revision}"


def _embedders(experiment: Experiment) -> list[str]:
    """Returns the embedders and classifiers that distances, rewards and the partition come from, as far as they have
    files of their own to change."""
    same = getattr(experiment.task, "same_answer", None)
    names = [getattr(experiment.task, "embedder", None), getattr(same, "embedder", None)]
    names += [getattr(same, "model", None)] if getattr(same, "kind", None) == "classifier" else []
    return [str(name) for name in dict.fromkeys(names) if name not in (None, "minilm", "hash")]


def _model(model: ModelSettings, previous: Mapping[str, Any]) -> dict[str, Any]:
    """Records the stated revision, and hashes of weights, configuration and tokenizer; of a hub id also the commit that
    was downloaded."""
    place = resolve_source(model.source)
    record: dict[str, Any] = {"revision": model.revision}
    if isinstance(place, str):
        snapshot = cached_snapshot(place, model.revision or "main")
        record["commit"] = snapshot.name if snapshot else None
        place = snapshot
    return record | _hashes(place, _MODEL_FILES, previous)


def _hashes(folder: Path | None, patterns: Sequence[str], previous: Mapping[str, Any]) -> dict[str, Any]:
    """Hashes the files that match by name, and records what tells cheaply that one is still the same: its size, time of
    change in nanoseconds and inode. What `previous` has for these is taken over."""
    files = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()} if folder else set()
    hashes, stats = {}, {}
    for file in sorted(files):
        name, status = str(file.relative_to(folder or Path())), file.stat()
        stats[name] = [status.st_size, status.st_mtime_ns, status.st_ino]
        same = previous.get("stat", {}).get(name) == stats[name] and name in previous.get("sha256", {})
        hashes[name] = previous["sha256"][name] if same else _weights_sha256(file)
    return {"sha256": hashes, "stat": stats}


def cached_snapshot(hub_id: str, revision: str) -> Path | None:
    """Returns the folder of a hub model in the local cache, named after its commit; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def _weights_sha256(file: Path) -> str:
    """Hashes a weights file. The hub's cache names large files by their SHA-256, which saves reading many gigabytes."""
    stored = file.resolve().name
    return stored if file.is_symlink() and _SHA256.fullmatch(stored) else sha256_file(file)


def _what(file: str) -> str:
    name = Path(file).name
    if file.endswith(".safetensors"):
        return "the weights"
    if name.startswith("chat_template"):
        return "the chat template"
    return "the configuration" if name in ("config.json", "generation_config.json") else "the tokenizer"


def checker_code(name: str) -> dict[str, str]:
    """Hashes a checker's source file and what it imports from its own folder (or the current one), by relative
    path; empty for a built-in checker. Imports are read off the source, which is not run: one that is made while
    running is not seen, nor is a file that the code opens."""
    files, roots = code_files(name)
    return {_relative(file, roots): sha256_file(file) for file in files}


def code_files(name: str) -> tuple[list[Path], list[Path]]:
    """Lists the source file of a checker and what it imports (see `checker_code`), and the folders that it may import
    from."""
    start, roots = _place_of_code(name.rpartition(":")[0])
    found: set[Path] = set()
    waiting = [start] if start else []
    while waiting:
        file = waiting.pop()
        if file not in found and file.is_file():
            found.add(file)
            waiting += _imports_beside(file, roots)
    return sorted(found), roots


def _place_of_code(place: str) -> tuple[Path | None, list[Path]]:
    """Finds the source file of a checker's file or module, and the folders that it may import from."""
    if place.endswith(".py"):
        return Path(place), [Path(place).parent, Path.cwd()]
    spec = find_spec(place.partition(".")[0]) if place else None
    if spec is None or spec.origin is None:
        return None, []
    top = Path(spec.origin)
    root = top.parent.parent if top.name == "__init__.py" else top.parent
    return (list(_modules(place, [root])) or [None])[-1], [root]


def _imports_beside(file: Path, roots: Sequence[Path]) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _modules(alias.name, roots)
        elif isinstance(node, ast.ImportFrom):
            places = [file.parents[node.level - 1]] if node.level else roots
            for name in [node.module, *(f"{node.module or ''}.{alias.name}" for alias in node.names)]:
                yield from _modules((name or "").strip("."), places)


def _modules(dotted: str, roots: Sequence[Path]) -> Iterator[Path]:
    """Yields the files of a module and of the packages around it, in the first folder that has the outermost."""
    parts = dotted.split(".")
    for root in roots:
        files = []
        for depth in range(1, len(parts) + 1):
            place = root.joinpath(*parts[:depth])
            files += [file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()]
        if files:
            yield from files
            return


def _relative(file: Path, roots: Sequence[Path]) -> str:
    root = next((root for root in roots if file.is_relative_to(root)), None)
    return str(file.relative_to(root) if root else file)
