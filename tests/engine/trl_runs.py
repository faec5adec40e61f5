"""Runs that the tests of TRL share; as a command, one update of a GRPOTrainer on given completions, in each process.

python -m torch.distributed.run --nproc-per-node 2 -m tests.engine.trl_runs HOW FILE
"""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from polychromic.integrations.trl import Answers, SetGRPOTrainer, group_reward, watch_diversity
from polychromic.models.loading import load_language_model
from polychromic.models.settings import AdapterSettings, ModelSettings
from polychromic.training.settings import DiversitySettings

N = 4
PROMPTS = ("1,2,3,4=5:", "1,2,3,6=7:", "1,4,6,8=24:")
TEXTS = {
    PROMPTS[0]: ("(1+2)*3-4", "1*2+3", "1*2+3", "4-3"),
    PROMPTS[1]: ("6", "7", "8+1", "(2+3)*6"),
    PROMPTS[2]: ("(8-6)*(1*4)", "(8-6)*(1*4)", "1+4", "8*4-6-1"),
}
REWARDS = {"(1+2)*3-4": 1.0, "1*2+3": 0.7, "7": 1.0, "8+1": 0.25, "(8-6)*(1*4)": 1.0, "8*4-6-1": 1.0}
ANSWERS = Answers(same_answer=lambda prompt, text: text, pass_threshold=0.7)


def quality(prompts, completions, **_columns):
    return [REWARDS.get(text, 0.0) for text in completions]


def config(folder, processes=1, **changes):
    values = {
        "output_dir": str(folder), "max_steps": 1, "per_device_train_batch_size": len(PROMPTS) * N // processes,
        "num_generations": N, "max_completion_length": 12, "scale_rewards": "none", "loss_type": "dr_grpo",
        "logging_steps": 1, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True,
        "bf16": False, "activation_checkpointing": False, "shuffle_dataset": False, "learning_rate": 1e-3,
        "max_grad_norm": 1e9,
    }  # fmt: skip
    return GRPOConfig(**(values | changes))


def language_model():
    """The packaged model with an adapter that changes its output."""
    settings = ModelSettings(source="polychromic:arithmetic-tiny", adapter=AdapterSettings(rank=2, alpha=4))
    loaded = load_language_model(settings, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            with torch.no_grad():
                parameter.normal_(0.0, 0.05, generator=generator)
    return loaded


def build(kind, args, reward=quality, model=None, prompts=PROMPTS, **keys):
    loaded = model or language_model()
    trainer = kind(
        model=loaded.model, reward_funcs=reward, args=args, processing_class=loaded.tokenizer,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]), **keys,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def give_completions(trainer, tokenizer, texts=TEXTS):
    """Makes the trainer "sample" the given texts: row i of a prompt gets its i-th one, on whatever process."""

    def given(prompt_ids, images, fields, num_generations, **_others):
        rank, n = trainer.accelerator.process_index, len(prompt_ids)
        completions = []
        for row, ids in enumerate(prompt_ids, start=rank * n):
            prompt = tokenizer.decode(ids, skip_special_tokens=True)
            text = texts[prompt][row % num_generations]
            completions.append([*tokenizer(text, add_special_tokens=False)["input_ids"], trainer.eos_token_ids[0]])
        return completions, None

    trainer._generate_single_turn = given


class Gradient(TrainerCallback):
    """Keeps the gradient that the optimizer is given."""

    def __init__(self):
        self.kept = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_keys):
        self.kept.append(torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.requires_grad]))


def one_update(how, processes, folder):
    """Returns the gradient and metrics of one update: of a reward function, the trainer, or a watched run."""
    diversity = DiversitySettings(objective="coverage", set_size=2, weight=1.5)
    args, loaded = config(folder, processes), language_model()
    if how == "reward":
        trainer = build(GRPOTrainer, args, group_reward(args, quality, diversity, ANSWERS), loaded)
    elif how == "trainer":
        keys = {"diversity": diversity, "answers": ANSWERS, "gradient_share_every": 1}
        trainer = build(SetGRPOTrainer, args, quality, loaded, **keys)
    else:
        trainer = build(GRPOTrainer, args, quality, loaded)
        watch_diversity(trainer, ANSWERS, diversity, gradient_share_every=1)
    give_completions(trainer, loaded.tokenizer)
    gradient = Gradient()
    trainer.add_callback(gradient)
    trainer.train()
    logged = next(row for row in trainer.state.log_history if "grad_norm" in row)
    return gradient.kept[0], logged


if __name__ == "__main__":
    from polychromic.training.parallel import join_processes

    processes = join_processes()
    found = one_update(sys.argv[1], processes.size, Path(sys.argv[2]).parent / "trl")
    if processes.is_first:
        torch.save(found, sys.argv[2])
