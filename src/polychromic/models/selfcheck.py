"""Checks on the model itself that the sampled policy is the trained policy, and chooses how to compute it.

A plain `model(input_ids, attention_mask)` of each sequence alone is the truth. The sampler's and the training path's
log-probabilities are compared with it on several prompts of different lengths, with adapter weights that are not zero.
The fast ways are tried first; where one does not agree, the next plainer one is; where none does, ModelError says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import product
from typing import Any

import torch

from polychromic.errors import ModelError
from polychromic.models.adapters import replaced_weights
from polychromic.models.agreement import (
    FAILURES,
    ModelCheck,
    gradient_difference,
    gradient_norm,
    largest_difference,
    reason,
    reraise_out_of_memory,
    tolerance_of,
)
from polychromic.models.chat import encode_prompt
from polychromic.models.decoding import decode_samples, decoding
from polychromic.models.loading import ForwardPath, LanguageModel
from polychromic.models.logprobs import TokenSequence, answer_logprobs, head_disagreement, plain_logprobs
from polychromic.records import Prompt, SamplingParameters
from polychromic.seeding import deterministic

logger = logging.getLogger(__name__)

NEW_TOKENS = 12
_COPIES = 2
_PROMPTS_LOOKED_AT = 2000
_NOISE = 0.05
_SHORT = 64
"""Tokens up to which gradients are compared too, and several answers of one prompt: long sequences cost seconds."""
_LONGEST = 1024
"""Tokens of the longest sequence looked at, where no window or other change of behaviour lies beyond."""
_CHANGES_AT = (
    "sliding_window", "attention_window_size", "attention_chunk_size", "window_size", "local_attention",
    "original_max_position_embeddings",
)  # fmt: skip
"""Numbers of tokens in configurations at which a model starts to compute differently."""

_LAYOUTS = ("packed", "padded", "single")
_HEADS = ("product", "own", "whole")
_DECODINGS = ("merged", "unmerged", "by_prompt", "uncached")

_TIMES_ROUNDING = 20.0


def self_check(
    language_model: LanguageModel, encoded: Sequence[Sequence[int]], longest: int, *, trains: bool
) -> ModelCheck:
    """Finds the fastest way of computing the model that agrees with plain forward passes, and sets it as its path.

    encoded: token ids of prompts that are going to be used; longest: tokens of the longest prompt with its answer.
    trains: also compare gradients, with noise in the adapter's weights while the check lasts.
    Raises ModelError where the model is not causal, holds weights that are not finite, or agrees in no way.
    """
    started = time.perf_counter()
    prompts = check_prompts(language_model, encoded, longest)
    check = _Check(language_model, prompts)
    noise = _noise_in_trained_weights(language_model.model) if trains else nullcontext()
    with deterministic(), noise:
        causality = check.causality()
        check.allow_for_rounding()
        sampling, sequences, plain = check.choose_decoding()
        training, gradient = check.choose_training_path(sequences, plain, gradients=trains)
    result = ModelCheck(
        path=language_model.path,
        sampling=sampling,
        training=training,
        gradient=gradient,
        causality=causality,
        lengths=tuple(len(sequence.token_ids) for sequence in sequences),
        dtype=str(check.dtype).removeprefix("torch."),
        seconds=time.perf_counter() - started,
        refused=tuple(check.refused),
    )
    logger.debug("%s: %s", language_model.source, result.describe())
    return result


def check_on_prompts(
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    reference_tokens: int | None = None,
    trains: bool,
) -> ModelCheck:
    """Runs `self_check` on the prompts of an experiment, at the lengths that it is going to use.

    max_new_tokens: of sampled answers. reference_tokens: most tokens of a prompt with a reference, where references are
    learnt. Raises DataError where a prompt cannot be encoded, and ModelError as `self_check` does.
    """
    looked_at = prompts[:_PROMPTS_LOOKED_AT]
    tokenizer, options = language_model.tokenizer, language_model.chat_options
    encoded = [encode_prompt(tokenizer, prompt, **options) for prompt in looked_at]
    longest = max(map(len, encoded)) + max_new_tokens
    if reference_tokens is not None:
        pairs = [
            len(ids) + len(tokenizer(reference, add_special_tokens=False)["input_ids"]) + 1
            for prompt, ids in zip(looked_at, encoded, strict=True)
            for reference in prompt.references
        ]
        longest = max([longest, *(pair for pair in pairs if pair <= reference_tokens)])
    return self_check(language_model, encoded, longest, trains=trains)


def check_prompts(language_model: LanguageModel, encoded: Sequence[Sequence[int]], longest: int) -> list[list[int]]:
    """Makes prompts of different lengths from real tokens: a short one, a middle one, one as long as any, and for each
    number of tokens at which the model computes differently one just before it and one just behind."""
    by_length = sorted((list(ids) for ids in encoded if ids), key=len)
    if not by_length:
        raise ModelError(f"{language_model.source}: no prompt has a token to check the model with")
    tokens = [token for ids in by_length for token in ids]
    most = max(1, min(longest, language_model.context_length) - NEW_TOKENS)
    config: Any = language_model.model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    changes = {
        value
        for source in (config.to_dict(), getattr(config, "rope_parameters", None) or {})
        for key, value in source.items()
        if key in _CHANGES_AT and isinstance(value, int) and 0 < value < most + NEW_TOKENS
    }
    lengths = {len(by_length[0]), len(by_length[len(by_length) // 2]), min(most, _LONGEST)}
    lengths |= {length for change in changes for length in (change - NEW_TOKENS // 2, change + NEW_TOKENS)}
    repeats = -(-max(lengths) // len(tokens)) + 1
    return [(tokens * repeats)[:length] for length in sorted(lengths) if 0 < length <= most]


class _Check:
    """The comparisons for one model, and what was refused on the way."""

    def __init__(self, language_model: LanguageModel, prompts: Sequence[Sequence[int]]) -> None:
        self.language_model = language_model
        self.prompts = prompts
        self.dtype = language_model.dtype
        self.tolerance = tolerance_of(self.dtype)
        self.trained = [p for p in language_model.model.parameters() if p.requires_grad]
        self.refused: list[str] = []

    def causality(self) -> float:
        """Returns how far earlier log-probabilities move with the last token; raises ModelError where they do."""
        ids = tuple(self.prompts[len(self.prompts) // 2])
        other_last = next((token for prompt in self.prompts for token in prompt if token != ids[-1]), ids[-1])
        with self._required(f"a plain forward pass of {len(ids)} tokens"), torch.inference_mode():
            first, second = (
                plain_logprobs(self.language_model, TokenSequence(tokens, 1))[:-1]
                for tokens in (ids, (*ids[:-1], other_last))
            )
        if not bool(first.isfinite().all()):
            raise ModelError(self._not_finite())
        difference = float((first - second).abs().max()) if len(first) else 0.0
        if difference > self.tolerance.largest:
            raise ModelError(
                f"{self.language_model.source} is not causal: changing a later token moves the log-probability of an "
                f"earlier one by {difference:.2g} nats; choose a causal language model"
            )
        return difference

    def allow_for_rounding(self) -> None:
        """Widens the tolerance to what a plain forward of some prompts in one batch differs from one of each alone."""
        prompts = [tuple(prompt) for prompt in self.prompts[:2] if len(prompt) > 1]
        whole = replace(self.language_model, path=ForwardPath(layout="padded", head="whole"))
        sequences = [TokenSequence(prompt, 1) for prompt in prompts]
        if not sequences:
            return
        try:
            with torch.inference_mode():
                batch = answer_logprobs(whole, sequences)
                alone = torch.cat([plain_logprobs(whole, sequence) for sequence in sequences])
        except FAILURES as error:  # batches may be what this model cannot do
            reraise_out_of_memory(error)
            return
        difference = (batch.logprobs_BT[batch.mask_BT.bool()] - alone).abs()
        largest, mean = float(difference.max()), float(difference.mean())
        if mean <= self.tolerance.mean:  # else padding changes the result, which is no rounding
            self.tolerance = replace(
                self.tolerance,
                largest=max(self.tolerance.largest, _TIMES_ROUNDING * largest),
                mean=max(self.tolerance.mean, _TIMES_ROUNDING * mean),
            )

    def choose_decoding(self) -> tuple[float, list[TokenSequence], list[torch.Tensor]]:
        """Sets the fastest way of decoding that agrees; returns its largest difference, the sequences that it drew, and
        the log-probabilities of their answers by plain forward passes."""
        for way in _DECODINGS:
            self.language_model.path = replace(self.language_model.path, decoding=way)
            with self._attempt(f"{way.replace('_', ' ')} decoding"):
                sequences, sampled = self._sample()
                with torch.inference_mode():
                    plain = [plain_logprobs(self.language_model, sequence) for sequence in sequences]
                return largest_difference(sampled, plain, self.tolerance), sequences, plain
        raise self._unsupported("sampling")

    def choose_training_path(
        self, sequences: Sequence[TokenSequence], plain: Sequence[torch.Tensor], *, gradients: bool
    ) -> tuple[float, float]:
        """Sets the fastest way of computing log-probabilities that agrees; returns its largest difference, and the
        relative difference of its gradient on the shorter sequences (nan where not asked for)."""
        short = [each for each in sequences if len(each.token_ids) <= _SHORT] or sequences[:_COPIES]
        plain_gradient = self._plain_gradient(short) if gradients else []
        for layout, head in product(_LAYOUTS, _HEADS):
            if (layout, head) == ("packed", "whole"):
                continue  # the model's own forward keeps no answers apart
            self.language_model.path = replace(self.language_model.path, layout=layout, head=head)
            with self._attempt(f"{layout} answers with {head} head"):
                if head == "product":
                    self._require_plain_head(sequences[-1])
                with torch.inference_mode():
                    answers = self._answers(sequences)
                difference = largest_difference(answers, plain, self.tolerance)
                gradient = self._gradient(short) if gradients else []
                return difference, gradient_difference(gradient, plain_gradient, self.tolerance)
        raise self._unsupported("training")

    def _require_plain_head(self, sequence: TokenSequence) -> None:
        """Raises ValueError where the model does more after its decoder than multiply by its output matrix."""
        with torch.inference_mode():
            difference = head_disagreement(self.language_model, sequence)
        if not difference <= self.tolerance.head:
            raise ValueError(f"logits are more than the product with the output matrix (off by {difference:.2%})")

    @contextmanager
    def _required(self, stage: str) -> Iterator[None]:
        """Raises ModelError where the model's code fails in the block."""
        try:
            yield
        except FAILURES as error:
            reraise_out_of_memory(error)
            raise ModelError(f"{self.language_model.source}: {stage} fails: {reason(error)}") from error

    @contextmanager
    def _attempt(self, way: str) -> Iterator[None]:
        """Refuses a way where the model's code fails in the block, or a difference is too large."""
        try:
            yield
        except FAILURES as error:
            reraise_out_of_memory(error)
            self.refused.append(f"{way}: {reason(error)}")

    def _sample(self) -> tuple[list[TokenSequence], list[torch.Tensor]]:
        """Draws sequences from the model, none of which ends early, with the sampler's log-probabilities."""
        generator = torch.Generator().manual_seed(0)
        n_rows = len(self.prompts) * _COPIES
        uniforms_BT = torch.rand(n_rows, NEW_TOKENS, generator=generator, dtype=torch.float64)
        uniforms_BT = uniforms_BT.to(self.language_model.device)
        parameters = SamplingParameters(max_new_tokens=NEW_TOKENS)
        with decoding(self.language_model):
            rows = decode_samples(self.language_model, self.prompts, _COPIES, parameters, uniforms_BT, frozenset())
        sequences, logprobs = [], []
        for number, row in enumerate(rows):
            prompt, copy = self.prompts[number // _COPIES], number % _COPIES
            if copy == 0 or len(prompt) <= _SHORT:  # of long prompts one answer will do
                sequences.append(TokenSequence((*prompt, *row.token_ids), len(prompt)))
                logprobs.append(torch.tensor(row.logprobs, device=self.language_model.device))
        return sequences, logprobs

    def _answers(self, sequences: Sequence[TokenSequence]) -> list[torch.Tensor]:
        """Returns the log-probabilities of each answer by the path that is set."""
        answers = answer_logprobs(self.language_model, sequences)
        return [row[mask.bool()] for row, mask in zip(answers.logprobs_BT, answers.mask_BT, strict=True)]

    def _gradient(self, sequences: Sequence[TokenSequence]) -> list[torch.Tensor]:
        """Computes the gradient of the weighted log-probabilities by the path that is set."""
        with self.language_model.training_pass():
            return self._gradient_of([_weighted(self._answers(sequences), 0)])

    def _plain_gradient(self, sequences: Sequence[TokenSequence]) -> list[torch.Tensor]:
        """Computes the same by plain forward passes, one sequence at a time. Raises ModelError where there is none."""
        with self._required("the gradient of a plain forward pass"):
            total = self._gradient_of(
                _weighted([plain_logprobs(self.language_model, sequence)], number)
                for number, sequence in enumerate(sequences)
            )
        if gradient_norm(total) == 0.0:
            raise ModelError(
                f"{self.language_model.source}: the adapter's weights have no influence on any log-probability, so "
                "nothing would be trained; choose other model.adapter.target_modules"
            )
        return total

    def _gradient_of(self, losses: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """Sums the gradients of the trained parameters, one backward pass per loss."""
        total = [torch.zeros_like(parameter) for parameter in self.trained]
        for loss in losses:
            gradients = torch.autograd.grad(loss, self.trained, allow_unused=True)
            for part, gradient in zip(total, gradients, strict=True):
                if gradient is not None:
                    part.add_(gradient)
        return total

    def _unsupported(self, stage: str) -> ModelError:
        return ModelError(
            f"{self.language_model.source}: {stage} does not agree with a plain forward pass in any way that is known "
            f"here, so that it cannot be used ({'; '.join(self.refused)})"
        )

    def _not_finite(self) -> str:
        broken = [name for name, p in self.language_model.model.named_parameters() if not p.isfinite().all()]
        fault = (
            f"{len(broken)} of its weights hold nan or inf, such as {broken[0]}; the files are damaged: fetch them "
            "again"
            if broken
            else f"its log-probabilities are not finite in {self.dtype}; set model.dtype to float32 or bfloat16"
        )
        return f"{self.language_model.source}: {fault}"


def _weighted(rows: Sequence[torch.Tensor], first: int) -> torch.Tensor:
    """Sums the log-probabilities, answers weighted by 1, −1, 1, …: as with advantages, their sum is not all."""
    return torch.stack([(-1.0) ** (first + number) * row.sum() for number, row in enumerate(rows)]).sum()


@contextmanager
def _noise_in_trained_weights(model: torch.nn.Module) -> Iterator[None]:
    """Moves trained weights by a twentieth of their size within the block: a fresh adapter changes nothing, and leaving
    it out would not be seen."""
    generator = torch.Generator().manual_seed(0)
    noisy = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spread = float(parameter.detach().float().std()) if parameter.numel() > 1 else 0.0
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            noisy[name] = parameter.detach() + noise * (_NOISE * spread or _NOISE)
    with replaced_weights(model, noisy):
        yield
