"""`training.engine: trl`: trains an arm of an experiment file through TRL and fills the same run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch

from polychromic import stopping
from polychromic.errors import ConfigError
from polychromic.files import atomic_folder
from polychromic.integrations.trl.checkpoints import latest_whole
from polychromic.integrations.trl.observing import is_sharded
from polychromic.models.adapters import save_adapter
from polychromic.models.loading import LanguageModel, load_language_model
from polychromic.run_folder import ArmFolder
from polychromic.seeding import child_seed
from polychromic.training.artifacts import is_trained, write_ending
from polychromic.training.base import ArmRun, Artifacts, OnStep
from polychromic.training.parallel import Processes, join_processes
from polychromic.training.schedule import total_steps

if TYPE_CHECKING:
    from trl import GRPOConfig  # pyright: ignore[reportMissingModuleSource]

    from polychromic.integrations.trl.arm import ArmGRPOTrainer

OLDEST, NEWEST = (1, 16), (2, 0)
_USERS_OWN = ("bf16", "fp16", "use_cpu")
"""Options with a value of ours that an experiment file may state otherwise."""


class TrlTrainer:
    """Trains by TRL's GRPOTrainer: its sampling (transformers or vLLM), its loss, its devices; our advantages."""

    @staticmethod
    def require_packages() -> None:
        """Raises ConfigError where TRL is missing, or of a version that has not been tried."""
        require_trl()

    def train(self, run: ArmRun, on_step: OnStep | None = None) -> Artifacts:
        """Trains until done; continues from the last whole checkpoint. Raises TrainingError with the cause, and
        ConfigError where TRL is missing or cannot do what the file asks for."""
        if is_trained(run.folder):
            return Artifacts(run.adapter)
        require_trl()
        from polychromic.integrations.trl.arm import ArmGRPOTrainer

        processes = join_processes()
        language_model = load_language_model(run.model, seed=child_seed(run.experiment, "adapter", run.seed) % 2**31)
        language_model.model.generation_config.eos_token_id = sorted(language_model.stop_ids)  # type: ignore[union-attr]
        args = grpo_config(run, processes)
        trainer = ArmGRPOTrainer(run, language_model, args, on_step)
        folder = ArmFolder(run.folder).checkpoints
        checkpoint = processes.from_first(latest_whole(folder) if processes.is_first else None)
        trainer.begin(int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            trainer.close()
        if trainer.state.global_step < args.max_steps:
            if not processes.is_first:
                stopping.request("the first process")
            stopping.stop_if_requested(f"{run.arm}/seed-{run.seed} is kept after step {trainer.state.global_step}")
        _save(run, language_model, trainer, processes)
        return Artifacts(run.adapter)


def require_trl() -> None:
    """Raises ConfigError where TRL is not installed, or in a version that has not been tried."""
    try:
        version = metadata.version("trl")
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            "training.engine: trl needs TRL, which is not installed: pip install 'polychromic[trl]'"
        ) from error
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not OLDEST <= found < NEWEST:
        raise ConfigError(
            f"training.engine: trl works with TRL from {'.'.join(map(str, OLDEST))} to below "
            f"{'.'.join(map(str, NEWEST))}, and {version} is installed: pip install 'polychromic[trl]'"
        )


def grpo_config(run: ArmRun, processes: Processes) -> GRPOConfig:
    """Returns the settings under which TRL makes the arm's steps: an update a batch, plain sampling, an unbiased loss.

    Raises ConfigError where the batch does not divide over the processes, or `engine_options` has a key that TRL does
    not know or that the file states elsewhere.
    """
    from trl import GRPOConfig  # pyright: ignore[reportMissingModuleSource]

    options = dict(run.training.engine_options)
    fields = {field.name for field in dataclasses.fields(GRPOConfig)}
    # The newer name where this version of transformers has it.
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    stated = {**_stated(run, processes), checkpointing: run.model.gradient_checkpointing}
    for key in options:
        if key not in fields:
            raise ConfigError(f"training.engine_options.{key}: TRL's GRPOConfig has no such option")
        if key in stated and key not in _USERS_OWN:
            raise ConfigError(
                f"training.engine_options.{key}: the experiment file states it elsewhere ({stated[key]!r} here); leave "
                "it out"
            )
    try:
        return on_one_gpu(GRPOConfig(**{**stated, **options}))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"training.engine_options: TRL refuses them: {error}") from error


def on_one_gpu(args: Any) -> Any:
    """Keeps a process that sees several GPUs to its first: transformers would spread each step over all of them, with
    as many times the prompts. Several are `accelerate launch`'s."""
    if args.n_gpu > 1:
        args._n_gpu = 1  # transformers has no other way, and does the same for models that lie on several
    return args


def _stated(run: ArmRun, processes: Processes) -> Mapping[str, Any]:
    settings = run.training
    prompts = min(settings.prompts_per_step, len(run.task.prompts("train")))
    per_device, accumulation = micro_batches(prompts * settings.num_samples, processes.size, settings.micro_batch_size)
    return {
        "output_dir": str(ArmFolder(run.folder).checkpoints),
        "max_steps": total_steps(settings, len(run.task.prompts("train"))),
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulation,
        "num_generations": settings.num_samples,
        "max_completion_length": settings.max_new_tokens,
        "temperature": settings.temperature,
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_gradient_norm,
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        # TRL averages its KL over tokens and this constant; ours is a sum over a generation's tokens.
        "beta": settings.kl_weight * settings.max_new_tokens,
        "disable_dropout": True,
        "shuffle_dataset": False,
        "seed": child_seed(run.experiment, run.arm, run.seed, "trl") % 2**31,
        "save_strategy": "steps",
        "save_steps": settings.checkpoint_every,
        "save_total_limit": settings.keep_checkpoints,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "fp16": False,
        "use_cpu": not torch.cuda.is_available(),
    }


def micro_batches(sequences: int, processes: int, largest: int) -> tuple[int, int]:
    """Returns how many sequences a device takes at once, at most `largest`, and how often: equal shares for all.

    Raises ConfigError where the sequences of a step do not divide over the processes.
    """
    share, rest = divmod(sequences, processes)
    if rest or not share:
        raise ConfigError(
            f"a step has {sequences} sequences (prompts × num_samples), which {processes} processes cannot share "
            "evenly: change training.prompts_per_step, training.num_samples or the number of processes"
        )
    size = max(size for size in range(1, min(largest, share) + 1) if share % size == 0)
    return size, share // size


def _save(run: ArmRun, language_model: LanguageModel, trainer: ArmGRPOTrainer, processes: Processes) -> None:
    """Writes the adapter and how training ended; parameters in pieces are put together by all processes first."""
    model: Any = language_model.model
    if "ref" in model.peft_config:  # TRL's copy of what training started from
        model.delete_adapter("ref")
    state: Any = trainer.accelerator.get_state_dict(trainer.model_wrapped) if is_sharded(trainer) else None
    if processes.is_first:
        with atomic_folder(run.adapter) as staging:
            save_adapter(model, staging, state)
        write_ending(run.folder, {"steps": trainer.state.global_step, "stopped_early": False, "references_too_long": 0})
    processes.from_first(None)
