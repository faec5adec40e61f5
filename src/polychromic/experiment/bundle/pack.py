"""Makes the bundle of an experiment: one archive with all that another machine needs, and no secret."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files as package_resources
from itertools import chain
from pathlib import Path

from polychromic.experiment.bundle.archive import SUMS, Content, sums_of, write_archive
from polychromic.experiment.bundle.contents import (
    constraints,
    needed_extras,
    own_files,
    package_files,
    portable_yaml,
    unlocked,
)
from polychromic.experiment.bundle.secrets import require_no_secrets
from polychromic.experiment.config import Experiment
from polychromic.files import sha256_file


@dataclass(frozen=True, slots=True)
class Bundle:
    """A written bundle."""

    path: Path
    sha256: str
    files: int
    bytes: int
    not_locked: tuple[str, ...]
    """Packages whose newest version is taken on the machine, because none is installed or locked here."""


def bundle_name(experiment: Experiment) -> str:
    """Returns the file name of an experiment's bundle."""
    return f"{experiment.name}.bundle.tar.gz"


def make_bundle(experiment: Experiment, folder: Path, include: Sequence[Path] = ()) -> Bundle:
    """Writes the bundle into `folder`: the same bytes for the same experiment, files, package and locked versions.

    Raises ConfigError where a file is missing or holds a secret.
    """
    own = own_files(experiment, include)
    yaml = portable_yaml(experiment, own)
    # What is the user's own; the package's source is public.
    own_texts = ((str(file), file.read_bytes()) for file in own.here)
    require_no_secrets(chain([("the resolved experiment", yaml.encode())], own_texts))
    extras = needed_extras(experiment)
    package = f"./package[{','.join(extras)}]" if extras else "./package"
    pins = constraints()
    inside: dict[str, Content] = {
        **package_files(),
        **{own.place(file): file for file in own.here},
        "experiment.yaml": yaml.encode(),
        "constraints.txt": pins.encode(),
        "requirements.txt": "".join(f"{line}\n" for line in (package, *own.packages)).encode(),
        "run.sh": _run_script(experiment.name, list(map(own.place, own.import_folders))).encode(),
        "README.txt": _readme(experiment.name).encode(),
    }
    inside[SUMS] = sums_of(inside)
    path = folder / bundle_name(experiment)
    below_top = {f"{experiment.name}/{name}": content for name, content in inside.items()}
    write_archive(path, below_top, executable=frozenset({f"{experiment.name}/run.sh"}))
    return Bundle(path, sha256_file(path), len(inside), path.stat().st_size, tuple(unlocked(extras, pins)))


def _run_script(name: str, import_folders: Sequence[str]) -> str:
    template = package_resources("polychromic.experiment.bundle").joinpath("run.sh").read_text(encoding="utf-8")
    folders = "".join(f":$PWD/{shlex.quote(folder)}" for folder in import_folders)
    return template.replace("@NAME@", name).replace("@SUMS@", SUMS).replace("@PYTHONPATH@", folders)


def _readme(name: str) -> str:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"The experiment {name}, packed by `polychromic bundle` with Python {python}.\n\n"
        "  bash run.sh                sets up an environment, checks, runs; run it again to continue\n"
        "  runs/                      the run folder, or wherever POLYCHROMIC_OUT says\n"
        f"  runs/{name}.run.tar.gz     what to take home: `polychromic fetch EXPERIMENT.yaml {name}.run.tar.gz`\n\n"
        "Keys are read from the environment (HF_TOKEN, WANDB_API_KEY); there is none in here.\n"
    )
