"""The sampler: answers of the trained policy as it stands, drawn by vLLM."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

from polychromic.errors import EngineError
from polychromic.models.chat import encode_prompt
from polychromic.models.loading import LanguageModel
from polychromic.records import Generation, Prompt, SamplingParameters
from polychromic.sampling.local import generation_of
from polychromic.sampling.vllm.engine import Draw, EngineRestartedError, Request, sampling_keys, tells_logprobs
from polychromic.sampling.vllm.handover import ServedPolicy
from polychromic.sampling.vllm.pool import served_policy
from polychromic.sampling.vllm.settings import VllmSettings

logger = logging.getLogger(__name__)

_MOST_RESTARTS = 5
"""Times that a server may come back without its adapters while one batch is sampled."""


class VllmSampler:
    """Samples with vLLM; before it does, an adapter that has changed is handed over and probed."""

    def __init__(self, language_model: LanguageModel, served: ServedPolicy) -> None:
        self.language_model = language_model
        self.served = served

    @classmethod
    def opened(cls, language_model: LanguageModel, settings: VllmSettings) -> VllmSampler:
        """Makes one with the engine that this process shares, started where there is none yet."""
        return cls(language_model, served_policy(language_model, settings))

    def sample(
        self, prompts: Sequence[Prompt], num_samples: int, parameters: SamplingParameters, seeds: Sequence[int]
    ) -> list[list[Generation]]:
        """Draws generations for each prompt, in order.

        Raises DataError for prompts longer than the context, and EngineError where the engine cannot be reached or
        answers for another policy.
        """
        if not prompts:
            return []
        model = self.language_model
        keys = sampling_keys(parameters, num_samples, model.stop_ids)
        encoded = [encode_prompt(model.tokenizer, prompt, **model.chat_options) for prompt in prompts]
        model.require_room(prompts, encoded, parameters.max_new_tokens)
        requests = [Request(tuple(ids), seed) for ids, seed in zip(encoded, seeds, strict=True)]
        for _ in range(_MOST_RESTARTS):
            try:
                adapter = self.served.follow(model, requests, parameters)
                started = time.perf_counter()
                drawn = self.served.engine.draw(requests, keys, adapter)
                break
            except EngineRestartedError:
                logger.warning("%s: is back; the adapter is handed over again", self.served.engine.place)
                self.served.forget()
        else:
            raise EngineError(
                f"{self.served.engine.place}: came back {_MOST_RESTARTS} times without sampling one batch; look at "
                "what it wrote, most often its memory is too small"
            )
        self._require_whole(drawn, num_samples, parameters)
        tokens = sum(len(one.token_ids) for group in drawn for one in group)
        self.served.note("engine/tokens_per_second", tokens / (time.perf_counter() - started))
        told = tells_logprobs(parameters)
        return [
            [generation_of(model, one.token_ids, one.logprobs if told else None) for one in group] for group in drawn
        ]

    def take_metrics(self) -> dict[str, float]:
        """Returns what the hand-over, the probe and the speed were since it was last asked."""
        return self.served.take_metrics()

    def _require_whole(self, drawn: Sequence[Sequence[Draw]], num_samples: int, parameters: SamplingParameters) -> None:
        """Raises EngineError where an answer is missing, not a number, or cut before the limit that was asked for."""
        place, stop_ids = self.served.engine.place, self.language_model.stop_ids
        for group in drawn:
            if len(group) != num_samples:
                raise EngineError(f"{place}: answered with {len(group)} of {num_samples} generations")
            for one in group:
                length = len(one.token_ids)
                if any(math.isnan(logprob) for logprob in one.logprobs):
                    raise EngineError(f"{place}: its log-probabilities are not numbers; use model.dtype: float32")
                if length < parameters.max_new_tokens and (not length or one.token_ids[-1] not in stop_ids):
                    raise EngineError(
                        f"{place}: cut a generation at {length} of {parameters.max_new_tokens} tokens; start vLLM "
                        "with a max_model_len that holds prompt and answer"
                    )
