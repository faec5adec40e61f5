"""A model's answers without its thinking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from polychromic.models.loading import LanguageModel
from polychromic.models.thinking import Thinking, ThinkingMode, thinking_of_model
from polychromic.records import Generation, Prompt, SamplingParameters
from polychromic.sampling.base import Sampler
from polychromic.sampling.local import LocalSampler


class AnswerSampler:
    """Hands out another sampler's generations with the answer as their text and the thinking beside it."""

    def __init__(self, sampler: Sampler, thinking: Thinking) -> None:
        self.sampler = sampler
        self.thinking = thinking

    def sample(
        self, prompts: Sequence[Prompt], n: int, parameters: SamplingParameters, seeds: Sequence[int]
    ) -> list[list[Generation]]:
        """n generations for each prompt, their tokens those of thinking and answer."""
        groups = self.sampler.sample(prompts, n, parameters, seeds)
        return [[self._told_apart(one) for one in group] for group in groups]

    def _told_apart(self, generation: Generation) -> Generation:
        answer = self.thinking.read(generation.text, generation.finish)
        return replace(generation, text=answer.text, thinking=answer.thinking, finish=answer.finish)


def answer_sampler(language_model: LanguageModel, max_sequences: int, mode: ThinkingMode) -> Sampler:
    """The sampler of a loaded model for training and evaluation: what is checked and measured are its answers."""
    sampler = LocalSampler(language_model, max_sequences)
    thinking = thinking_of_model(mode, language_model.tokenizer, language_model.chat_options)
    return AnswerSampler(sampler, thinking) if thinking.strips else sampler
