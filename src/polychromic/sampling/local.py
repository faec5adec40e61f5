"""Batched decoding on the machine's own device: one prefill a prompt for all its generations; finished rows leave.

Each token is drawn by inverting the cumulative distribution at a uniform number fixed beforehand from the prompt's
own seed, so a prompt's randomness does not depend on which prompts share its batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from polychromic.errors import ModelError
from polychromic.models.chat import decode, encode_prompt
from polychromic.models.loading import LanguageModel, merged_adapter
from polychromic.records import Finish, Generation, Prompt, SamplingParameters
from polychromic.seeding import deterministic

if TYPE_CHECKING:
    from transformers.cache_utils import DynamicCache

# Below this share of unfinished rows the batch is repacked; repacking copies the cache, so not after every row.
_REPACK_BELOW = 0.75


class LocalSampler:
    """Samples from a model in this process; `max_sequences` bounds how many are decoded at once."""

    def __init__(self, language_model: LanguageModel, max_sequences: int = 256) -> None:
        self.language_model = language_model
        self.max_sequences = max_sequences

    def sample(
        self, prompts: Sequence[Prompt], n: int, parameters: SamplingParameters, seeds: Sequence[int]
    ) -> list[list[Generation]]:
        """n generations for each prompt, in order. Prompts longer than the context raise DataError."""
        model = self.language_model.model
        was_training = model.training
        model.eval()
        groups: list[list[Generation]] = []
        chunk = max(1, self.max_sequences // n)
        with deterministic(), torch.inference_mode(), merged_adapter(model):
            for start in range(0, len(prompts), chunk):
                groups += self._sample_chunk(
                    prompts[start : start + chunk], n, parameters, seeds[start : start + chunk]
                )
        model.train(was_training)
        return groups

    def _sample_chunk(
        self, prompts: Sequence[Prompt], n: int, parameters: SamplingParameters, seeds: Sequence[int]
    ) -> list[list[Generation]]:
        language_model = self.language_model
        encoded = [
            encode_prompt(language_model.tokenizer, prompt, **language_model.chat_options)
            for prompt in prompts
        ]
        language_model.require_room(prompts, encoded, parameters.max_new_tokens)
        uniforms_BT = torch.cat(
            [
                torch.rand(
                    n,
                    parameters.max_new_tokens,
                    dtype=torch.float64,
                    generator=torch.Generator().manual_seed(seed),
                )
                for seed in seeds
            ]
        ).to(language_model.device)
        decoded = _decode(language_model, encoded, n, parameters, uniforms_BT)
        # From a distribution that is nan every draw is the last token of the vocabulary.
        broken = sum(math.isnan(logprob) for _, logprob in decoded)
        if broken:
            raise ModelError(
                f"the model's logits are not numbers for {broken} of {len(decoded)} generations: its weights hold nan "
                "or infinite values, or overflow in their dtype; mend the weights, or use model.dtype=float32"
            )
        rows = [self._generation(tokens, logprob) for tokens, logprob in decoded]
        return [rows[start : start + n] for start in range(0, len(rows), n)]

    def _generation(self, token_ids: list[int], logprob: float) -> Generation:
        stopped = token_ids[-1] in self.language_model.stop_ids
        finish: Finish = "stop" if stopped else "length"
        content = token_ids[:-1] if stopped else token_ids
        text = decode(self.language_model.tokenizer, content)
        return Generation(text, tuple(token_ids), finish, logprob)


def _decode(
    language_model: LanguageModel,
    encoded: Sequence[Sequence[int]],
    n: int,
    parameters: SamplingParameters,
    uniforms_BT: torch.Tensor,
) -> list[tuple[list[int], float]]:
    """Token ids of n generations a prompt, each ended by a stop token or by the length limit, and their
    log-probability."""
    device = language_model.device
    stop_ids = torch.tensor(sorted(language_model.stop_ids), device=device)
    logits_BV, cache, mask_BT = _prefill(language_model, encoded, n)
    positions_B = mask_BT.sum(dim=1)
    active_B = torch.arange(len(mask_BT), device=device)  # original row of each row still decoding
    drawn: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for step in range(parameters.max_new_tokens):
        tokens_B = draw_tokens(logits_BV, parameters, uniforms_BT[active_B, step])
        drawn.append((active_B, tokens_B, _logprobs(logits_BV, tokens_B, parameters.temperature)))
        going_B = ~torch.isin(tokens_B, stop_ids)
        n_going = int(going_B.sum())
        if n_going == 0 or step + 1 == parameters.max_new_tokens:
            break
        if n_going < _REPACK_BELOW * len(going_B):
            keep = going_B.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            active_B, tokens_B, mask_BT, positions_B = (
                tensor[keep] for tensor in (active_B, tokens_B, mask_BT, positions_B)
            )
        mask_BT = torch.nn.functional.pad(mask_BT, (0, 1), value=1)
        logits_BV = _forward(language_model, tokens_B[:, None], mask_BT, positions_B[:, None], cache)
        positions_B = positions_B + 1
    return _collect_rows(drawn, len(uniforms_BT), set(language_model.stop_ids))


def _logprobs(logits_BV: torch.Tensor, tokens_B: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probability [B] of the drawn tokens under the tempered policy, before any truncation of its tail."""
    tempered_BV = logits_BV / temperature
    return tempered_BV.gather(1, tokens_B[:, None])[:, 0] - tempered_BV.logsumexp(dim=1)


def _collect_rows(
    drawn: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], n_rows: int, stop_ids: set[int]
) -> list[tuple[list[int], float]]:
    """Tokens and log-probability by original row, cut after the first stop token (finished rows decode on until they
    are repacked)."""
    rows: list[list[int]] = [[] for _ in range(n_rows)]
    sums = [0.0] * n_rows
    for indices, tokens, logprobs in drawn:
        for row, token, logprob in zip(indices.tolist(), tokens.tolist(), logprobs.tolist(), strict=True):
            if not rows[row] or rows[row][-1] not in stop_ids:
                rows[row].append(token)
                sums[row] += logprob
    return list(zip(rows, sums, strict=True))


def _prefill(
    language_model: LanguageModel, encoded: Sequence[Sequence[int]], n: int
) -> tuple[torch.Tensor, DynamicCache, torch.Tensor]:
    """Next-token logits, key-value cache and attention mask of the left-padded prompts, each repeated n times."""
    from transformers.cache_utils import DynamicCache

    longest = max(map(len, encoded))
    pad = language_model.pad_id
    input_ids = torch.tensor([[pad] * (longest - len(ids)) + list(ids) for ids in encoded])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in encoded])
    input_ids, mask = input_ids.to(language_model.device), mask.to(language_model.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = DynamicCache(config=language_model.model.config)
    logits_PV = _forward(language_model, input_ids, mask, positions, cache)
    cache.batch_repeat_interleave(n)
    return logits_PV.repeat_interleave(n, dim=0), cache, mask.repeat_interleave(n, dim=0)


def _forward(
    language_model: LanguageModel,
    input_ids: torch.Tensor,
    mask: torch.Tensor,
    positions: torch.Tensor,
    cache: Any,
) -> torch.Tensor:
    """Logits of the token after the last position, [B, V] in float32."""
    output = language_model.model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1].float()


def draw_tokens(
    logits_BV: torch.Tensor, parameters: SamplingParameters, uniforms_B: torch.Tensor
) -> torch.Tensor:
    """One token a row by inverse transform sampling at `uniforms_B` in [0, 1).

    Temperature first, then min-p (Nguyen et al., 2024, arXiv:2407.01082) and nucleus (Holtzman et al., 2019,
    arXiv:1904.09751) filters on the tempered distribution, as Hugging Face and vLLM order them.
    """
    probabilities_BV = torch.softmax(logits_BV / parameters.temperature, dim=-1)
    if parameters.min_p > 0.0:
        floor_B1 = parameters.min_p * probabilities_BV.amax(dim=-1, keepdim=True)
        probabilities_BV = probabilities_BV.masked_fill(probabilities_BV < floor_B1, 0.0)
    if parameters.top_p < 1.0:
        probabilities_BV = _keep_nucleus(probabilities_BV, parameters.top_p)
    cumulative_BV = probabilities_BV.cumsum(dim=-1, dtype=torch.float64)
    thresholds_B1 = uniforms_B[:, None] * cumulative_BV[:, -1:]
    # right=True skips tokens of probability zero; the clamp guards the last bin against rounding.
    tokens_B = torch.searchsorted(cumulative_BV, thresholds_B1, right=True)[:, 0]
    return tokens_B.clamp(max=logits_BV.shape[-1] - 1)


def _keep_nucleus(probabilities_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero all but the smallest set of tokens whose probability reaches top_p."""
    ordered_BV, order_BV = probabilities_BV.sort(dim=-1, descending=True)
    before_BV = ordered_BV.cumsum(dim=-1) - ordered_BV
    total_B1 = ordered_BV.sum(dim=-1, keepdim=True)
    ordered_BV = ordered_BV.masked_fill(before_BV >= top_p * total_B1, 0.0)
    return torch.zeros_like(probabilities_BV).scatter(-1, order_BV, ordered_BV)
