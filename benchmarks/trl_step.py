"""A training step from a reward beside TRL's GRPOTrainer: same model, LoRA, prompts, reward and numbers.

    pip install 'polychromic[trl]'
    python benchmarks/trl_step.py [--model polychromic:arithmetic-tiny] [--prompts 16] [--generations 8]
                                  [--new-tokens 24] [--weight 1.0] [--steps 8] [--rounds 3]
    python benchmarks/trl_step.py --model smollm2-135m-instruct --prompts 4 --new-tokens 32 --steps 4

Alternates the two in rounds of fresh trainers; a step is sampling, rewards, one update, and logging of its metrics. TRL
gets no KL, no division by the standard deviation, and one update a batch. `--weight` above 0 gives both the diversity
term (`coverage`), TRL through `SetGRPOTrainer`, and the measurement of its share of the gradient at the first step,
which is not timed. The first two steps of a trainer warm up. Prints sampled tokens a CPU second of both, each round,
and the median ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar
from trl import GRPOConfig, GRPOTrainer

from polychromic.integrations.trl import SetGRPOTrainer
from polychromic.models.loading import load_language_model
from polychromic.models.settings import AdapterSettings, ModelSettings
from polychromic.records import Check, Prompt, as_messages
from polychromic.tasks.arithmetic import ArithmeticTask, random_problems
from polychromic.training.base import ArmRun
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import ArmTrainer

WARM_UP = 2
LEARNING_RATE = 1e-5
WORDS = ("tonight", "the sea", "winter", "my cat", "work", "a journey", "old songs", "bread")


class DifferentCharacters(ArithmeticTask):
    """Any prompts; the reward is the share of different characters, so that neither side waits for a checker."""

    def __init__(self, prompts: Sequence[Prompt]):
        super().__init__()
        self._prompts = list(prompts)

    def prompts(self, split: str) -> list[Prompt]:
        """The same for every split."""
        return self._prompts

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """See `reward`."""
        return [Check(reward(text)) for text in texts]

    def cluster(self, prompt: Prompt, text: str) -> str:
        """The text itself."""
        return text


def reward(text: str) -> float:
    """Different characters of a text over all of them."""
    return len(set(text)) / max(len(text), 1)


def main() -> None:
    """Print tokens a CPU second of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="polychromic:arithmetic-tiny")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--weight", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    disable_progress_bar()
    prompts = make_prompts(options.model, options.prompts * (options.steps + WARM_UP))
    rates: dict[str, list[float]] = {"trl": [], "polychromic": []}
    for number in range(1, options.rounds + 1):
        for name, rate in (("trl", trl_rate), ("polychromic", our_rate)):
            with tempfile.TemporaryDirectory() as folder:
                rates[name].append(rate(options, prompts, Path(folder)))
        theirs, ours = rates["trl"][-1], rates["polychromic"][-1]
        print(f"round {number}: trl {theirs:.0f}, polychromic {ours:.0f} tokens a CPU second", flush=True)
    ratio = statistics.median(a / b for a, b in zip(rates["polychromic"], rates["trl"], strict=True))
    shape = f"{options.prompts} prompts × {options.generations}, up to {options.new_tokens} tokens"
    print(f"{options.model}, {shape}, weight {options.weight:g}, {torch.get_num_threads()} threads")
    print(f"median ratio {ratio:.2f}")


def make_prompts(model: str, n: int) -> list[Prompt]:
    """Problems for the packaged model, questions for any other."""
    if model.startswith("polychromic:"):
        problems = islice(random_problems("train", "trl"), n)
        return [Prompt(str(i), as_messages(problem.text), (), {}) for i, (problem, _) in enumerate(problems)]
    return [
        Prompt(str(i), as_messages(f"Write line {i} of a poem about {WORDS[i % len(WORDS)]}."), (), {})
        for i in range(n)
    ]


def model_settings(options: argparse.Namespace) -> ModelSettings:
    """The model with an adapter of rank 16 on all linear layers."""
    return ModelSettings(source=options.model, adapter=AdapterSettings(rank=16, alpha=32))


def our_rate(options: argparse.Namespace, prompts: Sequence[Prompt], folder: Path) -> float:
    """Tokens a CPU second of this project's trainer."""
    training = TrainingSettings(
        loss="rl", steps=options.steps + WARM_UP, prompts_per_step=options.prompts,
        num_samples=options.generations, max_new_tokens=options.new_tokens, learning_rate=LEARNING_RATE,
        checkpoint_every=10**6,
    )  # fmt: skip
    diversity = DiversitySettings(weight=options.weight, set_size=min(4, options.generations))
    trainer = ArmTrainer(
        ArmRun(
            experiment="trl", arm="arm", seed=0, folder=folder, task=DifferentCharacters(prompts),
            model=model_settings(options), training=training, diversity=diversity,
        )
    )  # fmt: skip
    for _ in range(WARM_UP):
        trainer.step()
    started = time.process_time()
    n_tokens = sum(trainer.step()["generation/total_tokens"] for _ in range(options.steps))
    return n_tokens / (time.process_time() - started)


def trl_rate(options: argparse.Namespace, prompts: Sequence[Prompt], folder: Path) -> float:
    """Tokens a CPU second of TRL's trainer on the same wrapped model."""
    language_model = load_language_model(model_settings(options), seed=0)
    is_chat = language_model.tokenizer.chat_template is not None
    rows = [{"prompt": [{"role": "user", "content": prompt.text}] if is_chat else prompt.text} for prompt in prompts]
    config = GRPOConfig(
        output_dir=str(folder), max_steps=options.steps + WARM_UP, learning_rate=LEARNING_RATE,
        per_device_train_batch_size=options.prompts * options.generations, num_generations=options.generations,
        max_completion_length=options.new_tokens, temperature=1.0, beta=0.0, scale_rewards="none",
        logging_steps=1, report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True, bf16=False,
        activation_checkpointing=False, loss_type="dr_grpo",
    )  # fmt: skip
    clock = Clock()
    diversity = DiversitySettings(weight=options.weight, set_size=min(4, options.generations))
    kind = partial(SetGRPOTrainer, diversity=diversity) if options.weight else GRPOTrainer
    trainer = kind(
        model=language_model.model,
        reward_funcs=rewards,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=language_model.tokenizer,
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    lengths = [row["completions/mean_length"] for row in trainer.state.log_history if "loss" in row][WARM_UP:]
    n_tokens = sum(lengths) * options.prompts * options.generations
    return n_tokens / sum(clock.seconds[WARM_UP:])


class Clock(TrainerCallback):
    """CPU seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_step_begin(self, *_arguments: Any, **_more: Any) -> None:
        """Sampling is part of a step; the first batch is prepared before it begins, and warms up."""
        self._started = self._started or time.process_time()

    def on_log(self, *_arguments: Any, logs: dict[str, float], **_more: Any) -> None:
        """The step is over when its metrics are logged; the time until the next one's log is that one's."""
        if "loss" in logs:
            now = time.process_time()
            self.seconds.append(now - self._started)
            self._started = now


def rewards(completions: Sequence[Any], **_columns: Any) -> list[float]:
    """`reward` of plain or conversational completions."""
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    return [reward(text) for text in texts]


if __name__ == "__main__":
    main()
