"""Reads and writes rows of generations: under a checksum, read back with every fault named by its line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from polychromic.errors import DataError
from polychromic.files import append_jsonl, scan_jsonl, sealed, strict_json, write_text
from polychromic.records import GenerationRow, SamplingParameters

RowKey = tuple[SamplingParameters, str, int]
"""Key of a row: sampling settings, prompt and index; each key occurs once in a file."""

AGAIN = "`polychromic run` or `evaluate` samples them again"
"""The way on from rows that are missing or damaged."""


@dataclass(frozen=True, slots=True)
class FoundRows:
    """The whole rows of a file in its order, and a sentence for each line that is damaged or doubled.

    `n_unsealed` of them have no checksum, because an earlier version wrote them: of these, damage is seen only where
    it makes a row impossible.
    """

    rows: list[GenerationRow]
    faults: list[str]
    n_unsealed: int


def row_key(row: GenerationRow) -> RowKey:
    """Returns how a row was sampled, its prompt and its index."""
    return row.sampling, row.prompt_id, row.index


def scan_generations(path: Path) -> FoundRows:
    """Reads what can be trusted of a file of generations, and lists what cannot; a missing file has no rows.

    Of two rows that say the same one is kept, of two that contradict each other none.
    """
    scan = scan_jsonl(path, trust_sealed=True)
    faults = list(scan.faults)
    rows: dict[RowKey, tuple[int, GenerationRow]] = {}
    contradicted: set[RowKey] = set()
    for number, fields in scan.rows:
        try:
            row = GenerationRow.from_json(fields)
        except (KeyError, TypeError, ValueError) as error:
            faults.append(f"line {number}: {error}")
            continue
        key = row_key(row)
        first = rows.setdefault(key, (number, row))
        if first[0] != number:
            faults.append(f"line {number}: prompt {row.prompt_id!r} has its generation {row.index} in line {first[0]}")
            if first[1] != row:
                contradicted.add(key)
    whole = [row for key, (_, row) in rows.items() if key not in contradicted]
    return FoundRows(whole, faults, scan.n_unsealed)


def read_generations(path: Path) -> list[GenerationRow]:
    """Reads the rows of a file of generations. Raises DataError where a row is damaged or doubled."""
    scan = scan_generations(path)
    if scan.faults:
        more = f" and {len(scan.faults) - 1} more" if len(scan.faults) > 1 else ""
        raise DataError(f"{path}: damaged or doubled rows ({scan.faults[0]}{more}); {AGAIN}")
    return scan.rows


def append_generations(path: Path, rows: Iterable[GenerationRow]) -> None:
    """Appends rows with their checksums."""
    append_jsonl(path, (sealed(row.to_json()) for row in rows))


def write_generations(path: Path, rows: Iterable[GenerationRow]) -> None:
    """Replaces a file by these rows, whole or not at all."""
    write_text(path, "".join(strict_json(sealed(row.to_json())) + "\n" for row in rows))
