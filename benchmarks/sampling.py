"""The local sampler beside `generate` of transformers: same model, prompts, number of samples and token limit.

    python benchmarks/sampling.py [--model polychromic:arithmetic-tiny] [--prompts 16] [--samples 16] [--new-tokens 24]
    python benchmarks/sampling.py --model smollm2-135m-instruct --prompts 8 --samples 8 --new-tokens 32

Alternates the two in rounds; prints tokens a CPU second of each and the median ratio. `generate` gets what users
give it: a left-padded batch, `num_return_sequences`, and the adapter as peft wraps it. Every generated token up to
and with the end of the turn counts, padding does not.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from polychromic.models.chat import encode_prompt
from polychromic.models.loading import LanguageModel, load_language_model
from polychromic.models.settings import ModelSettings
from polychromic.records import Prompt, SamplingParameters, as_messages
from polychromic.sampling.local import LocalSampler
from polychromic.tasks.arithmetic import ArithmeticTask

QUESTIONS = (
    "What should I cook tonight?", "My train is late again.", "I finally finished my thesis!",
    "Does anybody here play chess?", "Why is the sky red in the evening?", "We are moving to a new town.",
    "I cannot sleep these days.", "Tell me about your weekend.",
)  # fmt: skip


def main() -> None:
    """Print tokens a second of both and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="polychromic:arithmetic-tiny")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    language_model = load_language_model(ModelSettings(source=options.model), seed=0)
    prompts = make_prompts(options.model, options.prompts)
    parameters = SamplingParameters(max_new_tokens=options.new_tokens)
    rates: dict[str, list[float]] = {"generate": [], "polychromic": []}
    for round_number in range(options.rounds + 1):
        for name, sample in (("generate", hf_tokens), ("polychromic", our_tokens)):
            started = time.process_time()
            n_tokens = sample(language_model, prompts, options.samples, parameters, round_number)
            if round_number:  # the first round warms up
                rates[name].append(n_tokens / (time.process_time() - started))
    ours, theirs = (statistics.median(rates[name]) for name in ("polychromic", "generate"))
    ratio = statistics.median(a / b for a, b in zip(rates["polychromic"], rates["generate"], strict=True))
    shape = f"{options.prompts} prompts × {options.samples} samples, up to {options.new_tokens} tokens"
    print(f"{options.model}, {shape}, {torch.get_num_threads()} threads")
    print(f"tokens a CPU second: generate {theirs:.0f}, polychromic {ours:.0f}; median ratio {ratio:.2f}")


def make_prompts(model: str, n: int) -> list[Prompt]:
    """Arithmetic problems for the arithmetic model, chat messages for any other."""
    if "arithmetic" in model:
        return ArithmeticTask(validation_problems=n).prompts("validation")
    texts = [QUESTIONS[index % len(QUESTIONS)] for index in range(n)]
    return [Prompt(f"prompt-{index}", as_messages(text)) for index, text in enumerate(texts)]


def our_tokens(
    language_model: LanguageModel, prompts: list[Prompt], n: int, parameters: SamplingParameters, seed: int
) -> int:
    """Tokens that the local sampler made."""
    seeds = [seed * len(prompts) + index for index in range(len(prompts))]
    groups = LocalSampler(language_model).sample(prompts, n, parameters, seeds)
    return sum(len(one.token_ids) for group in groups for one in group)


def hf_tokens(
    language_model: LanguageModel, prompts: list[Prompt], n: int, parameters: SamplingParameters, seed: int
) -> int:
    """Tokens that `generate` made, up to and with the first stop token of each sequence."""
    torch.manual_seed(seed)
    encoded = [encode_prompt(language_model.tokenizer, one, **language_model.chat_options) for one in prompts]
    longest, pad = max(map(len, encoded)), language_model.pad_id
    input_ids = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in encoded])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in encoded])
    with torch.inference_mode():
        output = language_model.model.generate(  # type: ignore[operator]
            input_ids=input_ids,
            attention_mask=mask,
            do_sample=True,
            temperature=parameters.temperature,
            top_k=0,
            num_return_sequences=n,
            max_new_tokens=parameters.max_new_tokens,
            eos_token_id=sorted(language_model.stop_ids),
            pad_token_id=pad,
        )
    rows = output[:, longest:].tolist()
    ends = [[token in language_model.stop_ids for token in row] for row in rows]
    return sum(end.index(True) + 1 if True in end else len(end) for end in ends)


if __name__ == "__main__":
    main()
