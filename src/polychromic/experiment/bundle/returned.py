"""Packs a run folder for the way home, and takes one in: nothing of it is used before every hash agrees."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from polychromic.errors import ConfigError, DataError
from polychromic.experiment.bundle.archive import SUMS, extract, read_sums, require_sums, sums_of, write_archive
from polychromic.experiment.config import Experiment
from polychromic.experiment.resuming.continuing import working_folder
from polychromic.experiment.resuming.folder import hold, read_resolved
from polychromic.files import remove_folder, write_bytes
from polychromic.run_folder import RunFolder

_SUFFIX = ".run.tar.gz"
_STAYS = ("checkpoints", "__pycache__")
"""Folders that stay behind: what a finished run never reads, and most of its bytes."""


def pack_run(root: Path) -> Path:
    """Writes `NAME.run.tar.gz` beside the run folder `root`, with a hash of every file, and `NAME.SHA256SUMS` for those
    who copy the folder itself. Checkpoints stay behind; a run that has not ended comes home with what is done.

    Raises ConfigError where `root` is no run folder, or another process works there: its files would differ from their
    hashes before they are packed.
    """
    read_resolved(RunFolder(root).experiment)
    root = root.resolve()
    with hold(RunFolder(root)):
        return _packed(root)


def _packed(root: Path) -> Path:
    files = {
        file.relative_to(root).as_posix(): file
        for file in sorted(root.rglob("*"))
        if file.is_file() and not file.is_symlink() and not _stays(file.relative_to(root))
    }
    sums = sums_of(files)
    write_bytes(root.with_name(f"{root.name}.{SUMS}"), sums)
    path = root.with_name(root.name + _SUFFIX)
    write_archive(path, {**{f"{root.name}/{name}": file for name, file in files.items()}, SUMS: sums})
    return path


def _stays(name: Path) -> bool:
    """Tells what does not travel: checkpoints, and the locks and temporary files of the machine's own processes."""
    hidden = name.name.startswith(".") and name.name != RunFolder(Path()).heartbeat.name
    return hidden or any(part in _STAYS for part in name.parts)


def fetch(experiment: Experiment, returned: Path, out: Path, *, fresh: bool = False, yes: bool = False) -> RunFolder:
    """Takes in what `pack_run` wrote, as archive or as folder with its SHA256SUMS beside it: verifies every hash, then
    that it is a run of this experiment (settings, prompts, checkers), and puts it to `out/NAME`.

    Raises DataError where a file is damaged, missing, unnamed or a link, ConfigError where the run is of another
    experiment or `out/NAME` holds work already (`fresh` moves that aside). Whatever is raised, `out/NAME` is as before.
    """
    target = out / experiment.name
    if not returned.exists():
        raise ConfigError(f"{returned}: no such file or folder")
    there = RunFolder(target)
    if not fresh and target.exists() and (there.has_work or there.foreign_files):
        what = "a run already" if there.has_work else f"{there.foreign_files[0]}, which is of no run"
        raise ConfigError(f"{target} holds {what}; --fresh moves it aside, or name another place with --out")
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=out, prefix=".fetch."))
    try:
        _take_in(returned, staging, experiment.name)
        # Held to the same rules as a run that is continued, and written down with the paths of this machine.
        with working_folder(experiment, staging) as folder:
            if not folder.has_work:
                raise DataError(f"{returned}: holds the settings of a run, and no work of it")
        _put(staging / experiment.name, experiment, out, fresh=fresh, yes=yes)
    finally:
        remove_folder(staging)
    return RunFolder(target)


def _take_in(returned: Path, staging: Path, name: str) -> None:
    """Copies or unpacks into `staging/NAME`, and verifies it there: what was verified cannot change afterwards."""
    if returned.is_dir():
        sums_file = returned.resolve().with_name(f"{returned.resolve().name}.{SUMS}")
        if not sums_file.is_file():
            raise DataError(
                f"{sums_file}: missing; copy it too (`polychromic pack` wrote it beside the run folder), or fetch the "
                f"{_SUFFIX} file"
            )
        sums = read_sums(sums_file)
        for file in sums:
            source = returned / file
            if source.is_symlink() or not source.resolve().is_relative_to(returned.resolve()):
                raise DataError(f"{returned}: {file} is a link or lies outside; nothing of it was used")
            if source.is_file():
                (staging / name / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, staging / name / file)
        require_sums(staging / name, sums, str(returned))
        return
    extract(returned, staging)
    found = {path.name for path in staging.iterdir()}
    if found != {name, SUMS}:
        raise DataError(
            f"{returned}: expected the run {name} with its {SUMS}, found {', '.join(sorted(found)) or 'nothing'}; name "
            "the experiment file that was bundled"
        )
    require_sums(staging / name, read_sums(staging / SUMS), str(returned))


def _put(verified: Path, experiment: Experiment, out: Path, *, fresh: bool, yes: bool) -> None:
    target = out / experiment.name
    if target.exists() and fresh:
        with working_folder(experiment, out, fresh=True, yes=yes):
            pass  # what it holds is aside now
    if target.exists():
        remove_folder(target)  # no work is in it: settings and locks of a start at most
    verified.replace(target)
