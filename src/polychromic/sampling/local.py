"""Samples with the training process's own model, with a budget for thoughts where asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from polychromic.errors import ModelError
from polychromic.models.chat import Thinking, decode, encode_prompt
from polychromic.models.decoding import decode_samples, decoding
from polychromic.models.loading import LanguageModel
from polychromic.records import Finish, Generation, Prompt, SamplingParameters
from polychromic.sampling.base import Sampler, taken_metrics
from polychromic.seeding import deterministic


class LocalSampler:
    """Samples from a model in this process; `max_decode_batch` bounds how many sequences are decoded at once."""

    def __init__(self, language_model: LanguageModel, max_decode_batch: int = 256) -> None:
        self.language_model = language_model
        self.max_decode_batch = max_decode_batch

    def sample(
        self, prompts: Sequence[Prompt], num_samples: int, parameters: SamplingParameters, seeds: Sequence[int]
    ) -> list[list[Generation]]:
        """Draws generations for each prompt, in order. Prompts longer than the context raise DataError."""
        groups: list[list[Generation]] = []
        chunk = max(1, self.max_decode_batch // num_samples)
        with deterministic(), decoding(self.language_model):
            for start in range(0, len(prompts), chunk):
                groups += self._sample_chunk(
                    prompts[start : start + chunk], num_samples, parameters, seeds[start : start + chunk]
                )
        return groups

    def _sample_chunk(
        self, prompts: Sequence[Prompt], num_samples: int, parameters: SamplingParameters, seeds: Sequence[int]
    ) -> list[list[Generation]]:
        language_model = self.language_model
        encoded = [encode_prompt(language_model.tokenizer, prompt, **language_model.chat_options) for prompt in prompts]
        language_model.require_room(prompts, encoded, parameters.max_new_tokens)
        uniforms_BT = torch.cat(
            [
                torch.rand(
                    num_samples,
                    parameters.max_new_tokens,
                    dtype=torch.float64,
                    generator=torch.Generator().manual_seed(seed),
                )
                for seed in seeds
            ]
        ).to(language_model.device)
        decoded = decode_samples(language_model, encoded, num_samples, parameters, uniforms_BT)
        # From a distribution that is nan every draw is the last token of the vocabulary.
        broken = sum(math.isnan(sum(row.logprobs)) for row in decoded)
        if broken:
            raise ModelError(
                f"the model's logits are not numbers for {broken} of {len(decoded)} generations: its weights hold nan "
                "or infinite values, or overflow in their dtype; fix the weights, or use model.dtype=float32"
            )
        rows = [generation_of(language_model, row.token_ids, row.logprobs) for row in decoded]
        return [rows[start : start + num_samples] for start in range(0, len(rows), num_samples)]


def generation_of(
    language_model: LanguageModel, token_ids: Sequence[int], logprobs: Sequence[float] | None
) -> Generation:
    """Returns the generation that sampled tokens make, the stop token included, with their log-probabilities under the
    tempered policy (None: not known).
    """
    stopped = token_ids[-1] in language_model.stop_ids
    finish: Finish = "stop" if stopped else "length"
    text = decode(language_model.tokenizer, token_ids[:-1] if stopped else token_ids)
    if logprobs is None:
        return Generation(text, tuple(token_ids), finish)
    return Generation(text, tuple(token_ids), finish, sum(logprobs), token_logprobs=tuple(logprobs))


class AnswerSampler:
    """Hands out another sampler's generations with the answer as their text and the thinking beside it."""

    def __init__(self, sampler: Sampler, thinking: Thinking) -> None:
        self.sampler = sampler
        self.thinking = thinking

    def sample(
        self, prompts: Sequence[Prompt], num_samples: int, parameters: SamplingParameters, seeds: Sequence[int]
    ) -> list[list[Generation]]:
        """Draws generations for each prompt; their tokens are those of thinking and answer."""
        groups = self.sampler.sample(prompts, num_samples, parameters, seeds)
        return [[self._without_thinking(generation) for generation in group] for group in groups]

    def take_metrics(self) -> dict[str, float]:
        """Returns what the other sampler measured."""
        return taken_metrics(self.sampler)

    def _without_thinking(self, generation: Generation) -> Generation:
        answer = self.thinking.read(generation.text, generation.finish)
        return replace(generation, text=answer.text, thinking=answer.thinking, finish=answer.finish)
