"""Samples every evaluation prompt, a chunk of prompts at a time, into an append-only file that can be resumed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from polychromic.errors import DataError
from polychromic.evaluation.audits.checker import check_rows
from polychromic.generations import AGAIN, RowKey, append_generations, row_key, scan_generations, write_generations
from polychromic.records import Generation, GenerationRow, Prompt, SamplingParameters
from polychromic.sampling.base import Sampler
from polychromic.seeding import child_seed
from polychromic.tasks.base import Task

logger = logging.getLogger(__name__)

OnChunk = Callable[[int, int, int], None]
"""Called after every chunk with (generations done, generations in all, tokens sampled in the chunk)."""

Rows = Mapping[RowKey, GenerationRow]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Holds prompts whose generations from index `start` to before `stop` are drawn together, in one batch."""

    sampling: SamplingParameters
    prompts: tuple[Prompt, ...]
    start: int
    stop: int

    @property
    def keys(self) -> list[RowKey]:
        """Returns the keys of its rows, in order."""
        return [(self.sampling, prompt.id, index) for prompt in self.prompts for index in range(self.start, self.stop)]


@dataclass(frozen=True, slots=True)
class CollectionPlan:
    """Holds what is to be sampled: every prompt, `samples` times, at each of the sampling settings; seeded by `names`.

    `adapter` begins the hash of the weights that are sampled, None for an untrained model.
    """

    prompts: tuple[Prompt, ...]
    samples: int
    sampling_settings: tuple[SamplingParameters, ...]
    names: tuple[str | int, ...]
    max_decode_batch: int = 256
    adapter: str | None = None

    @property
    def n_rows(self) -> int:
        """Returns how many rows the plan asks for."""
        return len(self.sampling_settings) * len(self.prompts) * self.samples

    @property
    def keys(self) -> list[RowKey]:
        """Returns the keys of all rows that the plan asks for."""
        asked = product(self.sampling_settings, self.prompts, range(self.samples))
        return [(sampling, prompt.id, index) for sampling, prompt, index in asked]

    def chunks(self, rows: Rows) -> list[Chunk]:
        """Returns the units of work, given the rows that exist. A run that was resumed, or of which rows were lost,
        decodes the very batches it was begun with: rows say how many answers their prompt was to have when they were
        drawn, and more answers than that are a draw of their own."""
        stops = self._stops(rows)
        draws: dict[tuple[int, int, int], list[Prompt]] = {}
        for number, sampling in enumerate(self.sampling_settings):
            for prompt in self.prompts:
                ordered = sorted(stops[sampling, prompt.id])
                for start, stop in zip([0, *ordered], ordered, strict=False):
                    draws.setdefault((start, stop, number), []).append(prompt)
        chunks = []
        for (start, stop, number), prompts in sorted(draws.items(), key=lambda draw: draw[0]):
            size = max(1, self.max_decode_batch // (stop - start))
            for first in range(0, len(prompts), size):
                chunks.append(Chunk(self.sampling_settings[number], tuple(prompts[first : first + size]), start, stop))
        return chunks

    def _stops(self, rows: Rows) -> dict[tuple[SamplingParameters, str], set[int]]:
        """Returns where the draws of each prompt end. Rows of earlier versions do not say; theirs was one for all
        prompts."""
        unsaid: dict[SamplingParameters, int] = {}
        for (sampling, _, index), row in rows.items():
            if row.of is None:
                unsaid[sampling] = max(unsaid.get(sampling, 0), index + 1)
        stops = {
            (sampling, prompt.id): {self.samples} for sampling in self.sampling_settings for prompt in self.prompts
        }
        for (sampling, prompt_id, _), row in rows.items():
            stops[sampling, prompt_id].add(min(self.samples, unsaid[sampling] if row.of is None else row.of))
        return stops


def collect(
    plan: CollectionPlan,
    sampler_factory: Callable[[], Sampler],
    task: Task,
    path: Path,
    on_chunk: OnChunk | None = None,
    shard: tuple[int, int] | None = None,
) -> list[GenerationRow]:
    """Returns all generations of the plan, in order. Those in `path` are kept, what is missing is appended; rows that
    are damaged, doubled, lost or of another adapter are sampled again, which is said. The sampler is made only if
    needed.

    With `shard` (k, n) each n-th batch from the k-th is sampled, beside `path`, and those rows are returned; shards may
    be sampled at one time in many places. A later call without `shard` takes their rows in.
    """
    if shard is not None:
        chunks, file, rows = _shard(plan, path, *shard)
        _sample_missing(plan, chunks, sampler_factory, task, file, on_chunk, rows)
        return [rows[key] for chunk in chunks for key in chunk.keys]
    taken = _take_in_shards(plan, path)
    rows, repaired = _kept(plan, path)
    _sample_missing(plan, plan.chunks(rows), sampler_factory, task, path, on_chunk, rows)
    ordered = [rows[key] for chunk in plan.chunks(rows) for key in chunk.keys]
    if repaired or taken:
        write_generations(path, ordered)
    return ordered


def _sample_missing(
    plan: CollectionPlan,
    chunks: Sequence[Chunk],
    sampler_factory: Callable[[], Sampler],
    task: Task,
    path: Path,
    on_chunk: OnChunk | None,
    rows: dict[RowKey, GenerationRow],
) -> None:
    """Samples the chunks that are not whole; their rows are added to `rows` and appended to the file."""
    sampler: Sampler | None = None
    for chunk in chunks:
        if all(key in rows for key in chunk.keys):
            continue
        sampler = sampler or sampler_factory()
        further = (chunk.start,) if chunk.start else ()
        seeds = [
            child_seed(*plan.names, "evaluation", chunk.sampling.label, prompt.id, *further) for prompt in chunk.prompts
        ]
        groups = sampler.sample(chunk.prompts, chunk.stop - chunk.start, chunk.sampling, seeds)
        fresh = _missing_rows(plan, chunk, task, groups, seeds, rows)
        append_generations(path, fresh)
        rows.update({row_key(row): row for row in fresh})
        if on_chunk:
            on_chunk(len(rows), plan.n_rows, sum(row.n_tokens for row in fresh))


def _shard(
    plan: CollectionPlan, path: Path, number: int, of: int
) -> tuple[list[Chunk], Path, dict[RowKey, GenerationRow]]:
    """Returns a share of the batches, the file of its own that they are sampled into, and the rows that there are.
    Which batches there are is read from `path` alone, so that all shards agree on them."""
    there, _, _ = _found(plan, path)
    chunks = plan.chunks(there)[number::of]
    file = path.with_name(f"{path.stem}.shard-{number}-of-{of}{path.suffix}")
    own, faults, _ = _found(plan, file)
    if faults:
        logger.warning("%s: damaged or doubled rows are sampled again (%s)", file, "; ".join(faults[:3]))
        write_generations(file, own.values())
    return chunks, file, {**there, **own}


def _take_in_shards(plan: CollectionPlan, path: Path) -> bool:
    """Puts the rows that shards sampled to the others, in the plan's order, and deletes the shards' files; tells
    whether there were any."""
    files = sorted(path.parent.glob(f"{path.stem}.shard-*{path.suffix}"))
    if not files:
        return False
    rows, _, _ = _found(plan, path)
    for file in files:
        rows = {**_found(plan, file)[0], **rows}
    write_generations(path, [rows[key] for chunk in plan.chunks(rows) for key in chunk.keys if key in rows])
    for file in files:
        file.unlink()
    return True


def read_collected(plan: CollectionPlan, path: Path) -> list[GenerationRow]:
    """Returns the rows of a finished collection. Raises DataError where some are missing, damaged, or of another
    adapter."""
    rows, faults, n_unsealed = _found(plan, path)
    n_missing = plan.n_rows - len(rows)
    if faults or n_missing:
        why = f" ({faults[0]})" if faults else ""
        raise DataError(f"{path}: {n_missing} of {plan.n_rows} generations are missing or damaged{why}; {AGAIN}")
    if n_unsealed:
        logger.warning("%s: %d rows have no checksum, an earlier version wrote them", path, n_unsealed)
    return [rows[key] for chunk in plan.chunks(rows) for key in chunk.keys]


def _found(plan: CollectionPlan, path: Path) -> tuple[dict[RowKey, GenerationRow], list[str], int]:
    """Returns the rows of a file that the plan asks for, what is wrong with others, and how many have no checksum."""
    scan = scan_generations(path)
    wanted = set(plan.keys)
    rows = {key: row for row in scan.rows if (key := row_key(row)) in wanted}
    kept = {key: row for key, row in rows.items() if row.adapter in (None, plan.adapter)}
    faults = list(scan.faults)
    if len(kept) < len(rows):
        faults.append(f"{len(rows) - len(kept)} rows of another adapter than there is now")
    if len(rows) < len(scan.rows):
        faults.append(f"{len(scan.rows) - len(rows)} rows that this run does not ask for")
    return kept, faults, scan.n_unsealed


def _kept(plan: CollectionPlan, path: Path) -> tuple[dict[RowKey, GenerationRow], bool]:
    """Returns the rows of the file that are kept, and whether there were others; those are said, and off the file
    then."""
    rows, faults, _ = _found(plan, path)
    if faults:
        write_generations(path, rows.values())
    elif lost := _n_lost(plan, rows):
        faults = [f"{lost} lost"]
    if faults:
        summary = "; ".join(faults[:3])
        logger.warning("%s: damaged, doubled or lost rows are sampled again (%s)", path, summary)
    return rows, bool(faults)


def _n_lost(plan: CollectionPlan, rows: Rows) -> int:
    """Counts missing rows that were there once: later ones of the same draw are."""
    missing: dict[tuple[SamplingParameters, int], int] = {}
    lost = 0
    for chunk in plan.chunks(rows):
        draw = (chunk.sampling, chunk.start)
        for key in chunk.keys:
            if key not in rows:
                missing[draw] = missing.get(draw, 0) + 1
            else:
                lost += missing.pop(draw, 0)
    return lost


def _missing_rows(
    plan: CollectionPlan,
    chunk: Chunk,
    task: Task,
    groups: Sequence[Sequence[Generation]],
    seeds: Sequence[int],
    rows: Rows,
) -> list[GenerationRow]:
    """Returns rows of a chunk that do not exist yet, with the checker's and the judge's word on each generation."""
    sampled, fresh = [], []
    for prompt, group, seed in zip(chunk.prompts, groups, seeds, strict=True):
        for index, sample in enumerate(group, start=chunk.start):
            if (chunk.sampling, prompt.id, index) not in rows:
                sampled.append(prompt)
                fresh.append(
                    GenerationRow(
                        prompt.id, index, sample.text, len(sample.token_ids), sample.finish, chunk.sampling, seed,
                        reward=None, thinking=sample.thinking, of=chunk.stop, adapter=plan.adapter,
                    )
                )  # fmt: skip
    return check_rows(task, sampled, fresh)
