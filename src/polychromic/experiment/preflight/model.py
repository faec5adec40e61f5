"""Checks of the model: it loads, is causal, and knows how an answer begins and ends."""

from __future__ import annotations

from typing import Any

import torch

from polychromic.experiment.preflight.checks import Finding
from polychromic.experiment.preflight.probe import Probe
from polychromic.models.chat import decode, encode_prompt, structure_tokens, turn_end_id
from polychromic.models.limits import UNLIMITED


def model_loads(probe: Probe) -> Finding:
    """The model loads with its adapter, and no token sees a later one."""
    language_model = probe.language_model
    model = language_model.model
    n_all = sum(p.numel() for p in model.parameters())
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    size = f"{n_all / 1e6:.2f} M parameters, {n_trained / 1e6:.2f} M trained"
    embeddings: Any = model.get_input_embeddings()
    vocabulary: int = embeddings.num_embeddings
    ids = torch.arange(8, device=language_model.device)[None] % vocabulary
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 1) % vocabulary
    with torch.inference_mode():
        first, second = (model(input_ids=one).logits[0, :-1].float() for one in (ids, changed))
    if not torch.allclose(first, second, atol=1e-2):
        return Finding(
            "failed",
            f"{size}; not causal: a later token changes earlier predictions",
            "choose a causal language model",
        )
    return Finding("passed", f"{probe.baseline.model.source}: {size}, causal", figures={"parameters": n_all})


def answers_begin_and_end(probe: Probe) -> Finding:
    """Template, turn end and stop tokens agree: what training teaches to end, sampling stops at."""
    language_model = probe.language_model
    tokenizer = language_model.tokenizer
    end = turn_end_id(tokenizer, **language_model.chat_options)
    template = "chat template" if tokenizer.chat_template else "no chat template (plain text)"
    prompt = probe.evaluation_prompts[0]
    tail = decode(tokenizer, encode_prompt(tokenizer, prompt, **language_model.chat_options)[-8:])
    structure = structure_tokens(tokenizer, **language_model.chat_options)
    context = language_model.context_length
    result = (
        f"{template}; an answer ends with {tokenizer.convert_ids_to_tokens(end)!r}; a prompt ends {tail!r}; "
        f"{len(structure)} tokens of structure that no text may hold; "
        f"{'no limit of context' if context == UNLIMITED else f'a context of {context} tokens'}"
    )
    if end not in language_model.stop_ids:
        return Finding(
            "failed",
            f"{result}; but sampling does not stop there",
            "add the token to eos_token_id in the model's generation_config.json",
        )
    return Finding("passed", result)
