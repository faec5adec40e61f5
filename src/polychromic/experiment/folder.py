"""Where a run keeps its files, and whether an existing folder belongs to the same experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polychromic.errors import ConfigError, DataError
from polychromic.experiment.config import Experiment
from polychromic.files import remove_folder, write_text


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
    def comparison(self) -> Path:
        """The comparison and the verdict."""
        return self.root / "comparison.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report.html"

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

    Raises ConfigError where the folder holds a run of other settings: mixing two would make neither true.
    """
    folder = RunFolder(out / experiment.name)
    if fresh:
        remove_folder(folder.root)
    content = resolved_yaml(experiment)
    if folder.experiment.exists():
        different = _differing_keys(read_resolved(folder.experiment), experiment.model_dump(mode="json"))
        if different and not folder.comparison.exists() and _CRITERIA.issuperset(different):
            write_text(folder.experiment, content)
        elif different:
            raise ConfigError(
                f"{folder.root} holds a run with other settings ({', '.join(different[:5])}); continue it with its "
                "own settings, start anew with --fresh, or choose another place with --out"
            )
    else:
        write_text(folder.experiment, content)
    return folder


def resolved_yaml(experiment: Experiment) -> str:
    """The experiment as YAML with every default written out."""
    import yaml

    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


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


# How the work is spread does not change what it is: these may differ between starts.
_FREE = {"run"}
# Criteria may be corrected as long as nothing has been compared: afterwards they would be chosen by the result.
_CRITERIA = {"comparison.minimum", "comparison.strong"}


def _differing_keys(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    different = []
    for key in sorted(old.keys() | new.keys()):
        if not prefix and key in _FREE:
            continue
        one, other = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            different += _differing_keys(one, other, f"{prefix}{key}.")
        elif one != other:
            different.append(f"{prefix}{key}")
    return different
