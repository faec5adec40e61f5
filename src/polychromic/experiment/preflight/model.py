"""Checks of the model: it loads, samples and trains one policy, and knows how an answer begins and ends."""

from __future__ import annotations

from polychromic.experiment.preflight.checks import Finding
from polychromic.experiment.preflight.probe import Probe
from polychromic.models.chat import decode, encode_prompt, structure_tokens, turn_end_id
from polychromic.models.limits import UNLIMITED


def model_loads(probe: Probe) -> Finding:
    """The model loads with its adapter, and sampling and training agree with plain forward passes of it."""
    language_model = probe.language_model
    model = language_model.model
    n_all = sum(p.numel() for p in model.parameters())
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    size = f"{n_all / 1e6:.2f} M parameters, {n_trained / 1e6:.2f} M trained"
    check = probe.model_checks[probe.baseline.name]
    return Finding(
        "passed",
        f"{probe.baseline.model.source}: {size}; {check.describe()}",
        figures={"parameters": n_all, "check": check.to_json()},
    )


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
