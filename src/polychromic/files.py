"""Writes files that survive a kill: atomic replacement, append-only JSON lines, strict JSON."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from polychromic.errors import ConfigError, DataError
from polychromic.run_folder import RUN_FILES, misfit

logger = logging.getLogger(__name__)

_MOST_DIGITS = 20
_CHECKSUM = "checksum"
_SURROGATE = re.compile("[\ud800-\udfff]")


def user_path(value: str | Path) -> Path:
    """Expands `~` to the user's home; raises ConfigError where that is not known."""
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{value}: no such home folder; write the path out") from error


def strict_json(value: Any, *, indent: int | None = None) -> str:
    """Writes JSON text that every parser reads: nan and infinities become null, numpy scalars become plain numbers.

    Lone surrogates, which a model can produce but UTF-8 cannot carry, are written as \\u escapes.
    """
    return json.dumps(_plain(value), indent=indent, ensure_ascii=_has_surrogates(value), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _has_surrogates(value: Any) -> bool:
    if isinstance(value, str):
        return not value.isascii() and _SURROGATE.search(value) is not None
    if isinstance(value, Mapping):
        return any(_has_surrogates(key) or _has_surrogates(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return any(_has_surrogates(item) for item in value)
    return False


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` so that a reader or a crash sees the old content or the new, never a mixture."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces `path` by `content`, whole or not at all."""
    with atomic_file(path) as stream:
        stream.write(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a stream whose content replaces `path` when the block ends, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes private files; a report or an adapter is meant to be read by others too.
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented strict JSON, whole or not at all."""
    write_text(path, strict_json(value, indent=2) + "\n")


def parse_json(text: str | bytes) -> Any:
    """Reads the value of a JSON text. Raises ValueError for what is no JSON, and for what readers read differently: a
    key that stands twice in an object, nan and infinities, numbers that no float holds."""
    return json.loads(
        text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_int=_moderate, parse_float=_finite
    )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:60]!r} stands twice in one object; remove one of them")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number; write null or leave the key out")


def _moderate(digits: str) -> int:
    """Refuses a whole number of more than 20 digits: seeds have 64 bits, and no float can hold one of 401 digits."""
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is larger than any number")
    return value


def read_json(path: Path) -> Any:
    """Reads a JSON file that `write_json` made.

    Raises DataError that names the file, what is wrong with it (a file of a run folder must hold what its name says)
    and the way on.
    """
    return _parsed(path, _content(path))


def read_derived(path: Path) -> Any:
    """Reads a JSON file that is made again when it is lost: None where it is missing, and with a warning where it
    is damaged."""
    if not path.exists():
        return None
    try:
        return read_json(path)
    except DataError as error:
        logger.warning("%s", error)
        return None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(_damage(path, os.strerror(error.errno or 0))) from error


def _parsed(path: Path, content: bytes, place: str = "") -> Any:
    """Parses a file, or one of its lines; raises DataError where it is no JSON, or not what the file's name says."""
    try:
        value = parse_json(content)
    except (ValueError, RecursionError) as error:
        raise DataError(_damage(path, f"no JSON: {error}", place)) from error
    run_file = RUN_FILES.get(path.name)
    departure = misfit(value, run_file.shape) if run_file else ""
    if departure:
        raise DataError(_damage(path, departure, place))
    return value


def _damage(path: Path, damage: str, place: str = "") -> str:
    way_on = RUN_FILES[path.name].way_on if path.name in RUN_FILES else "put a copy of it back"
    return f"{path}{place}: damaged ({damage}); {way_on}"


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling folder that becomes `path` if the block succeeds (an existing `path` is replaced).

    A folder cannot be renamed over another one: between two renames the old content is called `.NAME.retired`, and
    `remove_leftovers` puts it back if a kill left it there alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield staging
        for file in staging.rglob("*"):
            if file.is_file() or file.is_dir():
                _sync(file)
        _sync(staging)
        umask = os.umask(0)
        os.umask(umask)
        staging.chmod(0o777 & ~umask)
        if path.exists():
            retired = path.with_name(f".{path.name}.retired")
            remove_folder(retired)
            path.replace(retired)
            staging.replace(path)
            remove_folder(retired)
        else:
            staging.replace(path)
        _sync(path.parent)
    except BaseException:
        remove_folder(staging)
        raise


_LEFTOVER = re.compile(r"\..+\.([a-z0-9_]{8}|retired)")


def remove_leftovers(root: Path) -> None:
    """Deletes what writes that a kill cut short left below `root`; only for a folder in which nobody else writes.

    What was retired is put back where its successor never came to be.
    """
    leftovers = [path for path in root.rglob(".*") if _LEFTOVER.fullmatch(path.name)]
    for path in leftovers:
        retired = path.with_name(path.name.removeprefix(".").removesuffix(".retired"))
        if path.name.endswith(".retired") and not retired.exists():
            path.replace(retired)
        elif path.is_dir():
            remove_folder(path)
        else:
            path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Deletes a folder and what is in it; a missing folder is fine."""
    shutil.rmtree(path, ignore_errors=True)


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Appends rows, one JSON object per line, and fsyncs. A torn last line left by a crash is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = "".join(strict_json(row) + "\n" for row in rows)
    is_new = not path.exists()
    with path.open("ab+") as stream:
        _cut_torn_line(stream)
        stream.write(payload.encode("utf-8"))
        stream.flush()
        os.fsync(stream.fileno())
    if is_new:
        _sync(path.parent)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Reads all complete rows of a file that `append_jsonl` made, without a torn last line; other faults raise
    DataError."""
    if not path.exists():
        return []
    # The text after the last newline is empty, or the line a crash tore.
    lines = _content(path).split(b"\n")[:-1]
    return [_parsed(path, line, f":{number}") for number, line in enumerate(lines, start=1)]


@dataclass(frozen=True, slots=True)
class ScannedLines:
    """The rows of a JSON lines file that are whole, with their line numbers, and a sentence for each other line.

    `n_unsealed` rows have no checksum: an earlier version wrote them.
    """

    rows: list[tuple[int, dict[str, Any]]]
    faults: list[str]
    n_unsealed: int


def sealed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Adds a checksum over all that the row holds."""
    return {**row, _CHECKSUM: _checksum(row)}


def scan_jsonl(path: Path, *, trust_sealed: bool = False) -> ScannedLines:
    """Reads what of a JSON lines file of sealed rows can be trusted, the checksums taken off. A torn last line is
    dropped; a missing file has no rows. Raises DataError where it cannot be read at all.

    With `trust_sealed` the shape of rows that are as they were written is left for the caller to check.
    """
    rows, faults, n_unsealed = [], [], 0
    lines = _content(path).split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            faults.append(f"line {number}: not a JSON object")
            continue
        checksum = row.pop(_CHECKSUM, None)
        is_sealed = checksum is not None and _is_sealed(line, checksum)
        departure = ""
        if path.name in RUN_FILES and not (trust_sealed and is_sealed):
            departure = misfit(row, RUN_FILES[path.name].shape)
        if checksum is not None and not is_sealed and checksum != _checksum(row):
            departure = "not what was written (its checksum differs)"
        if departure:
            faults.append(f"line {number}: {departure}")
            continue
        n_unsealed += checksum is None
        rows.append((number, row))
    return ScannedLines(rows, faults, n_unsealed)


def _checksum(row: Mapping[str, Any]) -> str:
    return _short_hash(strict_json(row).encode())


def _is_sealed(line: bytes, checksum: Any) -> bool:
    """Returns True for a line as `sealed` rows are written, its checksum last; cheaper than writing it anew."""
    written, separator, seal = line.rpartition(f', "{_CHECKSUM}": '.encode())
    return bool(separator) and seal == f'"{checksum}"}}'.encode() and _short_hash(written + b"}") == checksum


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def sha256_file(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Makes what a file holds, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cut_torn_line(stream: Any) -> None:
    end = stream.seek(0, os.SEEK_END)
    position = end
    while position > 0:
        size = min(65536, position)
        stream.seek(position - size)
        cut = stream.read(size).rfind(b"\n")
        if cut >= 0:
            position += cut + 1 - size
            break
        position -= size
    if position != end:
        stream.truncate(position)
    stream.seek(0, os.SEEK_END)
