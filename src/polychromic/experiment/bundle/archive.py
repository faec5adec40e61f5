"""Writes archives that are the same bytes every time, and reads archives of strangers."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from polychromic.errors import DataError
from polychromic.files import atomic_file, sha256_file

Content = bytes | Path
"""What an archive's file holds: these bytes, or those of a file here."""

SUMS = "SHA256SUMS"
"""The file that names the hash of every other one, as `sha256sum --check` reads it."""

_TIME = 315_532_800  # 1980-01-01, the oldest that zip files and some tools can hold
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_archive(path: Path, files: Mapping[str, Content], *, executable: frozenset[str] = frozenset()) -> None:
    """Writes a `.tar.gz` of the files by name: sorted, with one time and no owner, so that the same content makes the
    same bytes. Whole or not at all."""
    # Neither the name nor the time of writing: gzip would store both.
    with (
        atomic_file(path) as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(files):
            content = files[name]
            member = tarfile.TarInfo(name)
            member.mtime, member.mode = _TIME, 0o755 if name in executable else 0o644
            member.size = content.stat().st_size if isinstance(content, Path) else len(content)
            with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as source:
                archive.addfile(member, source)


def sums_of(files: Mapping[str, Content]) -> bytes:
    """Returns the content of a SHA256SUMS file for the files, sorted by name."""
    lines = [f"{_digest(content)}  {name}\n" for name, content in sorted(files.items())]
    return "".join(lines).encode()


def _digest(content: Content) -> str:
    return sha256_file(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()


def read_sums(path: Path) -> dict[str, str]:
    """Reads a SHA256SUMS file: hashes by name. Raises DataError for a line that is none, or names a place outside."""
    found = {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read; what it vouches for cannot be told from damage") from error
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None or not _is_inside(match[2]) or match[2] in found:
            raise DataError(f"{path}:{number}: expected the SHA-256 and the name of a file inside, each name once")
        found[match[2]] = match[1]
    return found


def require_sums(root: Path, sums: Mapping[str, str], source: str) -> None:
    """Raises DataError where a file below `root` is missing, damaged, a link, or not in the sums. source: what the
    message names."""
    there = {str(path.relative_to(root)) for path in _files_below(root, source)}
    damaged = [name for name in sums if name in there and sha256_file(root / name) != sums[name]]
    wrong = {
        "missing": sorted(sums.keys() - there),
        "damaged": sorted(damaged),
        f"not named in {SUMS}": sorted(there - sums.keys()),
    }
    more = {what: f" (and {len(names) - 1} more)" if len(names) > 1 else "" for what, names in wrong.items()}
    problems = [f"{names[0]} is {what}{more[what]}" for what, names in wrong.items() if names]
    if problems:
        raise DataError(f"{source}: {'; '.join(problems)}. Nothing of it was used; copy it again")


def _files_below(root: Path, source: str) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise DataError(f"{source}: {path.relative_to(root)} is a link or no plain file; nothing of it was used")
        if path.is_file():
            yield path


def extract(path: Path, folder: Path) -> None:
    """Unpacks a `.tar.gz` of plain files into an empty folder.

    Raises DataError, with nothing written outside, for a member that is a link or a device, names a place outside of
    the folder or stands twice; for more content than the disk has room for; and for what is no such archive.
    """
    room = shutil.disk_usage(folder).free
    try:
        with tarfile.open(path, mode="r:gz") as archive:
            seen: set[str] = set()
            for member in archive:
                _require_plain(path, member, seen)
                room -= member.size
                if room < 0:
                    raise DataError(f"{path}: holds more than the {shutil.disk_usage(folder).free} bytes left on disk")
                target = folder / member.name
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(member)
                assert source is not None  # of a plain file
                with source, target.open("xb") as stream:
                    shutil.copyfileobj(source, stream)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: no whole .tar.gz ({error}); copy it again") from error


def _require_plain(path: Path, member: tarfile.TarInfo, seen: set[str]) -> None:
    if not (member.isreg() or member.isdir()):
        raise DataError(f"{path}: {member.name} is a link or a device, expected plain files; nothing of it was used")
    if not _is_inside(member.name):
        raise DataError(f"{path}: {member.name} names a place outside of the archive; nothing of it was used")
    if member.name in seen and not member.isdir():
        raise DataError(f"{path}: {member.name} stands twice; nothing of it was used")
    seen.add(member.name)


def _is_inside(name: str) -> bool:
    """Tells whether a name stays below the folder that it is unpacked in."""
    parts = PurePosixPath(name).parts
    plain = "\\" not in name and "\0" not in name and "\n" not in name
    return bool(parts) and plain and not name.startswith("/") and not any(part in ("..", "~") for part in parts)
