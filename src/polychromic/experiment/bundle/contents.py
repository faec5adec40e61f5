"""Collects what an experiment needs on another machine: its files, the code of the package, the locked versions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import polychromic
from polychromic.errors import ConfigError
from polychromic.experiment.bundle.archive import Content
from polychromic.experiment.config import Experiment
from polychromic.experiment.paths import with_changed_paths
from polychromic.experiment.resuming.inputs import code_files, stated_models, training_code
from polychromic.experiment.yaml_file import yaml_text
from polychromic.registry import is_import_path
from polychromic.tasks.base import own_code

_PACKAGE = Path(polychromic.__file__).parent
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==")
_REQUIREMENT = re.compile(r"^[A-Za-z0-9._-]+")
FILES = "files"
"""The folder of a bundle that holds the experiment's own files, as they lie to each other here."""


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """The experiment's files on this machine, and where a bundle has them."""

    here: tuple[Path, ...]
    base: Path
    """The folder that all of them lie below."""
    import_folders: tuple[Path, ...]
    """Folders that the experiment's own code imports from."""
    packages: tuple[str, ...]
    """Installed packages that the experiment's code comes from, as `name==version`."""

    def place(self, file: Path) -> str:
        """Returns the name in the bundle of a file or folder below `base`."""
        below = file.relative_to(self.base).as_posix()
        return FILES if below == "." else f"{FILES}/{below}"


def own_files(experiment: Experiment, include: Sequence[Path] = ()) -> OwnFiles:
    """Finds data, adapters, local models and code that the experiment names, what that code imports from beside it,
    and the files and folders in `include` (what code opens by itself is seen nowhere).

    Raises ConfigError where one is missing.
    """
    here: set[Path] = set()
    folders: set[Path] = set()
    packages: set[str] = set()
    for value in _named_files(experiment):
        place = Path(value.rpartition(":")[0]) if ".py:" in value else Path(value)
        here.update(_files_of(place, value))
    for path in include:
        here.update(_files_of(path.expanduser().resolve(), str(path)))
    for name in _code(experiment):
        place = name.rpartition(":")[0]
        distribution = "" if place.endswith(".py") else _distribution(place)
        if distribution:
            packages.add(distribution)
            continue
        sources, roots = code_files(name)
        if not sources:
            raise ConfigError(f"{name}: its source is not on this machine; name a file, path/to/file.py:name")
        here.update(file.resolve() for file in sources)
        folders.update(_import_folders(sources, roots))
    around = [place if place.is_dir() else place.parent for place in (*here, *folders)]
    base = Path(os.path.commonpath(around)) if around else Path.cwd()
    return OwnFiles(tuple(sorted(here)), base, tuple(sorted(folders)), tuple(sorted(packages)))


def _import_folders(files: Sequence[Path], roots: Sequence[Path]) -> set[Path]:
    """Returns the folders that the files are imported from: of each the first root that has it, so that the current
    folder counts only for what is found nowhere else."""
    places = ([root.resolve() for root in roots if file.resolve().is_relative_to(root.resolve())] for file in files)
    return {having[0] for having in places if having}


def portable_yaml(experiment: Experiment, own: OwnFiles) -> str:
    """Returns the experiment with every value filled in and its files named as the bundle has them."""

    def placed(value: str) -> str:
        file, _, name = value.rpartition(":") if ".py:" in value else (value, "", "")
        return own.place(Path(file)) + (f":{name}" if name else "")

    content = with_changed_paths(experiment.model_dump(mode="json"), placed)
    return yaml_text(content)


def _named_files(experiment: Experiment) -> list[str]:
    """Lists the values of the experiment that name files."""
    named: list[str] = []

    def remember(value: str) -> str:
        named.append(value)
        return value

    with_changed_paths(experiment.model_dump(mode="json"), remember)
    return list(dict.fromkeys(named))


def _files_of(place: Path, value: str) -> Iterator[Path]:
    if place.is_file():
        yield place.resolve()
        return
    if not place.is_dir():
        raise ConfigError(
            f"{value}: the experiment names it, and it is not there; a bundle needs every file that is named; put it "
            "back or leave its key out"
        )
    for file in sorted(place.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts and ".git" not in file.parts:
            yield file.resolve() if not file.is_symlink() else file


def _code(experiment: Experiment) -> list[str]:
    """Lists the import paths of the experiment's own code."""
    named = [*own_code(experiment.task), *training_code(experiment).values(), *experiment.evaluation.metrics]
    return [name for name in dict.fromkeys([*named, experiment.run.executor]) if is_import_path(name)]


def _distribution(module: str) -> str:
    """Returns the installed package that a module comes from, as `name==version`; empty for one from a folder."""
    names = metadata.packages_distributions().get(module.partition(".")[0], [])
    return f"{names[0]}=={metadata.version(names[0])}" if names and names[0] != "polychromic" else ""


def package_files() -> dict[str, Content]:
    """Returns the package's own source, with what pip needs to install it. Its links to the examples that ship become
    copies, as in a wheel."""
    files: dict[str, Content] = {
        f"package/src/polychromic/{file.relative_to(_PACKAGE).as_posix()}": file
        for folder, _, names in os.walk(_PACKAGE, followlinks=True)
        for file in sorted(Path(folder) / name for name in names)
        if "__pycache__" not in file.parts and file.suffix != ".pyc"
    }
    checkout = _PACKAGE.parents[1]
    if (checkout / "pyproject.toml").is_file():
        top = [checkout / name for name in ("pyproject.toml", "README.md", "LICENSE")]
        return files | {f"package/{file.name}": file for file in top if file.is_file()}
    return files | {"package/pyproject.toml": _pyproject().encode()}


def _pyproject() -> str:
    """Writes a pyproject.toml from the metadata of the installed package, which came without its own."""
    about = metadata.metadata("polychromic")
    plain, extras = [], {name: [] for name in about.get_all("Provides-Extra") or []}
    for requirement in metadata.requires("polychromic") or []:
        wanted, _, condition = requirement.partition(";")
        extra = re.search(r"extra == ['\"](.+?)['\"]", condition)
        (extras[extra[1]] if extra else plain).append(wanted.strip())
    options = "\n".join(f"{name} = {wanted}" for name, wanted in sorted(extras.items()))
    return (
        '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n\n[project]\n'
        f'name = "polychromic"\nversion = "{about["Version"]}"\nrequires-python = ">=3.11"\ndependencies = {plain}\n\n'
        f"[project.optional-dependencies]\n{options}\n\n"
        '[project.scripts]\npolychromic = "polychromic.cli:main"\n\n'
        '[tool.setuptools.packages.find]\nwhere = ["src"]\n\n[tool.setuptools.package-data]\npolychromic = ["**/*"]\n'
    )


def needed_extras(experiment: Experiment) -> list[str]:
    """Lists the optional dependencies of the package that the experiment uses."""
    partitions = [getattr(experiment.task, key, None) for key in ("same_answer", "second_same_answer")]
    wanted = {
        "qlora": any(model.quantization != "none" for model in stated_models(experiment)),
        "vllm": experiment.sampling.engine == "vllm",
        "trl": any(experiment.arm(arm).training.engine == "trl" for arm in experiment.arms),
        "ray": experiment.run.executor == "ray",
        "puzzles": experiment.task.name == "reasoning_gym",
        "math": "math" in (getattr(experiment.task, role, None) for role in ("checker", "judge")),
        "judge": any(getattr(partition, "kind", None) == "judge" for partition in partitions),
        "sandbox": experiment.task.name in ("humaneval", "mbpp", "mbpp_sanitized", "code", "functions"),
        **{name: name in experiment.run.tracking for name in ("wandb", "tensorboard", "trackio")},
    }
    return [name for name, needed in wanted.items() if needed]


def constraints() -> str:
    """Returns the locked versions: those of the checkout's constraints.txt, else of what is installed here.

    Lines that hold only on this machine are left out: a build of torch (`+cpu`) is another on a GPU.
    """
    locked = _PACKAGE.parents[1] / "constraints.txt"
    pins = locked.read_text(encoding="utf-8").splitlines() if locked.is_file() else _installed_pins()
    return "".join(f"{pin.partition('+')[0]}\n" for pin in pins if _PIN.match(pin))


def unlocked(extras: Sequence[str], pins: str) -> list[str]:
    """Lists the requirements of the extras that no pin fixes: the newest of them is installed on the machine."""
    fixed = {_normal(match[1]) for line in pins.splitlines() if (match := _PIN.match(line))}
    needed = []
    for requirement in metadata.requires("polychromic") or []:
        condition = requirement.partition(";")[2]
        name = _REQUIREMENT.match(requirement)
        if name and any(re.search(rf"extra == ['\"]{extra}['\"]", condition) for extra in extras):
            needed.append(name[0])
    return [name for name in dict.fromkeys(needed) if _normal(name) not in fixed]


def _installed_pins() -> list[str]:
    """Pins every package that the installed polychromic needs, and what those need in turn."""
    pins: dict[str, str] = {}
    waiting = ["polychromic"]
    while waiting:
        name = waiting.pop()
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if _normal(name) in pins:
            continue
        pins[_normal(name)] = f"{found.metadata['Name']}=={found.version}"
        plain = [requirement for requirement in found.requires or [] if "extra ==" not in requirement]
        waiting += [match[0] for match in map(_REQUIREMENT.match, plain) if match]
    pins.pop("polychromic", None)
    return sorted(pins.values())


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
