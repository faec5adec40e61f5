"""Samples every evaluation prompt, a chunk of prompts at a time, into an append-only file that can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from polychromic.evaluation.checking import check_rows
from polychromic.files import append_jsonl, read_jsonl, strict_json, write_text
from polychromic.records import Generation, GenerationRow, Prompt, SamplingParameters
from polychromic.sampling.base import Sampler
from polychromic.seeding import child_seed
from polychromic.tasks.base import Task

OnChunk = Callable[[int, int, int], None]
"""Called after every chunk with (generations done, generations in all, tokens sampled in the chunk)."""


@dataclass(frozen=True, slots=True)
class CollectionPlan:
    """What is to be sampled: every prompt, `samples` times, in each of the ways; seeded by `names`."""

    prompts: tuple[Prompt, ...]
    samples: int
    ways: tuple[SamplingParameters, ...]
    names: tuple[str | int, ...]
    max_sequences: int = 256

    def chunks(self) -> list[tuple[SamplingParameters, tuple[Prompt, ...]]]:
        """The units of work. They are the same on every start, so a resumed run decodes the very same batches."""
        size = max(1, self.max_sequences // self.samples)
        return [
            (way, self.prompts[start : start + size])
            for way in self.ways
            for start in range(0, len(self.prompts), size)
        ]


def collect(
    plan: CollectionPlan,
    sampler_factory: Callable[[], Sampler],
    task: Task,
    path: Path,
    on_chunk: OnChunk | None = None,
) -> list[GenerationRow]:
    """All generations of the plan, in order; those already in `path` are kept, the sampler is made only if needed."""
    rows = _whole_chunks(plan, path)
    chunks = plan.chunks()
    total = plan.samples * len(plan.prompts) * len(plan.ways)
    done = 0
    sampler: Sampler | None = None
    for way, prompts in chunks:
        done += len(prompts) * plan.samples
        if done <= len(rows):
            continue
        sampler = sampler or sampler_factory()
        seeds = [child_seed(*plan.names, "evaluation", way.label, prompt.id) for prompt in prompts]
        groups = sampler.sample(prompts, plan.samples, way, seeds)
        fresh = _rows(task, prompts, groups, way, seeds)
        append_jsonl(path, [row.to_json() for row in fresh])
        rows += fresh
        if on_chunk:
            on_chunk(done, total, sum(row.n_tokens for row in fresh))
    return rows


def read_generations(path: Path) -> list[GenerationRow]:
    """The rows of a generations file that `collect` made."""
    return [GenerationRow.from_json(row) for row in read_jsonl(path)]


def _whole_chunks(plan: CollectionPlan, path: Path) -> list[GenerationRow]:
    """Rows of the chunks that were finished; the rest of a chunk cut short by a kill is dropped from the file."""
    rows = read_generations(path)
    whole = 0
    for _, prompts in plan.chunks():
        size = len(prompts) * plan.samples
        if whole + size > len(rows):
            break
        whole += size
    if whole < len(rows):
        write_text(path, "".join(strict_json(row.to_json()) + "\n" for row in rows[:whole]))
    return rows[:whole]


def _rows(
    task: Task,
    prompts: Sequence[Prompt],
    groups: Sequence[Sequence[Generation]],
    way: SamplingParameters,
    seeds: Sequence[int],
) -> list[GenerationRow]:
    """Rows of a chunk with the checker's and the judge's word on each generation."""
    asked = [prompt for prompt, group in zip(prompts, groups, strict=True) for _ in group]
    rows = [
        GenerationRow(
            prompt.id,
            index,
            one.text,
            len(one.token_ids),
            one.finish,
            way,
            seed,
            reward=None,
            thinking=one.thinking,
        )
        for prompt, group, seed in zip(prompts, groups, seeds, strict=True)
        for index, one in enumerate(group)
    ]
    return check_rows(task, asked, rows)
