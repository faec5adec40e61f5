"""Where a run keeps its files, and whether an existing folder belongs to the same experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polychromic.errors import ConfigError, DataError
from polychromic.experiment.config import Experiment
from polychromic.files import read_json, remove_folder, sha256_file, write_text


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths below `runs/NAME`."""

    root: Path

    @property
    def experiment(self) -> Path:
        """The experiment with every value filled in."""
        return self.root / "experiment.yaml"

    @property
    def provenance(self) -> Path:
        """Versions, commit and hashes."""
        return self.root / "provenance.json"

    @property
    def preflight(self) -> Path:
        """What was checked before the work began."""
        return self.root / "preflight.json"

    @property
    def diagnosis(self) -> Path:
        """What `polychromic diagnose` found."""
        return self.root / "diagnosis.json"

    @property
    def ledger(self) -> Path:
        """Time and tokens by arm, seed and stage."""
        return self.root / "ledger.jsonl"

    @property
    def heartbeat(self) -> Path:
        """Ledger rows of what is running now; left behind by a kill."""
        return self.root / ".running.json"

    @property
    def lock(self) -> Path:
        """What the process that works here holds; never deleted, because another would then make one of its own."""
        return self.root / ".lock"

    @property
    def owner(self) -> Path:
        """Which process holds the folder's lock."""
        return self.root / ".owner.json"

    @property
    def comparison(self) -> Path:
        """The comparison and the verdict."""
        return self.root / "comparison.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report.html"

    @property
    def has_work(self) -> bool:
        """Whether any arm was begun or anything compared; arms have folders, what comes before them are files."""
        return self.comparison.exists() or any(path.is_dir() for path in self.root.iterdir())

    @property
    def has_training(self) -> bool:
        """Whether any arm was trained or has begun to be."""
        made = ("adapter", "checkpoints", "training.json", "metrics.jsonl")
        return any(next(self.root.glob(f"*/seed-*/{name}"), None) for name in made)

    def job(self, arm: str, seed: int) -> Path:
        """Folder of one arm with one seed."""
        return self.root / arm / f"seed-{seed}"

    def generations(self, arm: str, seed: int) -> Path:
        """Generations of one arm with one seed."""
        return self.job(arm, seed) / "generations.jsonl"

    def references(self, arm: str, seed: int) -> Path:
        """Cross-entropy of the evaluation prompts' references under one arm with one seed."""
        return self.job(arm, seed) / "references.jsonl"


def open_run_folder(experiment: Experiment, out: Path, *, fresh: bool = False) -> RunFolder:
    """The folder of this experiment below `out`, made if missing.

    Raises ConfigError where the folder holds work of other settings: mixing two would make neither true. A start
    that was stopped before any work (a path mistyped, a check that failed) holds nobody to its settings.
    """
    folder = RunFolder(out / experiment.name)
    if fresh:
        _empty(folder)
    content = resolved_yaml(experiment)
    if folder.experiment.exists():
        old, new = _with_new_keys(read_resolved(folder.experiment)), experiment.model_dump(mode="json")
        different = [
            ".".join(path) for path in _differing(old, new) if not _same_data(folder, path, old, new)
        ]
        if different and not folder.has_work:
            for made_before_work in (folder.provenance, folder.preflight):
                made_before_work.unlink(missing_ok=True)
            write_text(folder.experiment, content)
        elif different and not folder.comparison.exists() and _CRITERIA.issuperset(different):
            write_text(folder.experiment, content)
        elif different:
            raise ConfigError(
                f"{folder.root} holds a run with other settings ({', '.join(different[:5])}); continue it with its "
                "own settings, start anew with --fresh, or choose another place with --out"
            )
        elif any(old.get(key) != new.get(key) for key in _FREE):
            # The price of the machine, for example: what looks at the folder later has to know the last one.
            write_text(folder.experiment, _yaml(old | {key: new[key] for key in sorted(_FREE)}))
    elif folder.has_training:
        raise ConfigError(
            f"{folder.root} holds trained arms, but its {folder.experiment.name} is lost, and nothing else says with "
            "which settings they were made; put it back, start anew with --fresh, or give this run a name of its own "
            "with name=NEW"
        )
    else:
        write_text(folder.experiment, content)
    return folder


def _empty(folder: RunFolder) -> None:
    """Delete everything but the lock and the name of its owner: who deletes a lock that is held holds nothing."""
    for path in folder.root.iterdir():
        if path in (folder.lock, folder.owner):
            continue
        if path.is_dir():
            remove_folder(path)
        else:
            path.unlink()


def _same_data(folder: RunFolder, path: tuple[str, ...], old: Any, new: Any) -> bool:
    """Whether two different paths name one content: a project may move to another folder or machine."""
    for key in path:
        old, new = old.get(key), new.get(key)
        if old is None or new is None:
            return False
    if not isinstance(old, str) or not isinstance(new, str) or not folder.provenance.exists():
        return False
    (file, function), (old_file, old_function) = data_file(new), data_file(old)
    recorded = read_json(folder.provenance)["data_sha256"].get(old_file)
    return function == old_function and Path(file).is_file() and sha256_file(Path(file)) == recorded


def data_file(value: str) -> tuple[str, str]:
    """The file that a path in an experiment stands for, and what is named inside it: of a checker its function, of an
    adapter folder its weights."""
    file, separator, function = value.rpartition(".py:")
    if separator:
        return f"{file}.py", function
    adapter = Path(value) / "adapter_model.safetensors"
    return (str(adapter), "adapter") if Path(value).suffix == "" else (value, "")


def resolved_yaml(experiment: Experiment) -> str:
    """The experiment as YAML with every default written out."""
    return _yaml(experiment.model_dump(mode="json"))


def _yaml(content: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def read_resolved(path: Path) -> dict[str, Any]:
    """The mapping that `open_run_folder` wrote."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not a readable YAML file: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a resolved experiment")
    return content


def _with_new_keys(old: dict[str, Any]) -> dict[str, Any]:
    """A resolved experiment with the defaults of keys that its version did not know, so that an upgrade can continue
    it; as it is where this version cannot read it."""
    try:
        return Experiment.from_mapping(old).model_dump(mode="json")
    except ConfigError:
        return old


# How the work is spread does not change what it is: these may differ between starts.
_FREE = {"run", "budget"}
# Criteria may be corrected as long as nothing has been compared: afterwards they would be chosen by the result.
_CRITERIA = {"comparison.minimum", "comparison.strong"}


def _differing(
    old: dict[str, Any], new: dict[str, Any], above: tuple[str, ...] = ()
) -> list[tuple[str, ...]]:
    """Paths of the keys whose values differ."""
    different = []
    for key in sorted(old.keys() | new.keys()):
        if not above and key in _FREE:
            continue
        one, other = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            different += _differing(one, other, (*above, key))
        elif one != other:
            different.append((*above, key))
    return different
