"""A device `gpu` that computes on the CPU and refuses what CUDA refuses: tensors of two devices in one operation, and
operations without a deterministic version where they are asked for. Run as a program, it trains on it.

A process can have it only from its start on: torch counts devices before the first backward pass.
"""

import json
import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
_MAY_MIX = {aten.copy_.default, aten._to_copy.default}
_TAKE_INDICES_OF_THE_CPU = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
# Of `torch.use_deterministic_algorithms`: refused on CUDA, most of them for numbers that are no whole ones.
_NOT_DETERMINISTIC = {"cumsum", "put_", "histc", "bincount", "median", "kthvalue", "nll_loss2d_forward", "cumprod"}


class OnGpu(torch.Tensor):
    """A tensor that says it is on the device; `inner` is where it really is."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=torch.device("gpu:0"), requires_grad=inner.requires_grad,
        )  # fmt: skip
        tensor.inner = inner
        return tensor

    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inners, *_):
        return OnGpu(inners["inner"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})

    @property
    def data(self):
        return OnGpu(self.inner.detach())

    @data.setter
    def data(self, value):
        self.inner = value.inner.detach()

    def tolist(self):
        return self.cpu().tolist()

    def untyped_storage(self):
        return self.inner.untyped_storage()


def _computed(func, args, kwargs):
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        return func.decompose(*args, **kwargs)
    flat = tree_flatten((args, kwargs))[0]
    tensors = [each for each in flat if isinstance(each, torch.Tensor)]
    ours = [each for each in tensors if isinstance(each, OnGpu)]
    devices = [each for each in flat if isinstance(each, torch.device)]
    if ours:
        looked_at = [args[0], *args[2:3]] if func in _TAKE_INDICES_OF_THE_CPU else tensors
        _require_one_device(func, [] if func in _MAY_MIX else looked_at)
        _require_deterministic(func, ours)
    on_cpu = tree_map(_on_cpu, (args, kwargs))
    result = func(*on_cpu[0], **on_cpu[1])
    stays = devices[0].type == "gpu" if devices else bool(ours)
    if not stays or func is aten._local_scalar_dense.default:
        return result
    result = tree_map(lambda each: OnGpu(each) if isinstance(each, torch.Tensor) else each, result)
    return return_and_correct_aliasing(func, args, kwargs, result) if ours else result


def _on_cpu(value):
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.inner if isinstance(value, OnGpu) else value


def _require_one_device(func, values):
    others = [each for each in values if isinstance(each, torch.Tensor) and not isinstance(each, OnGpu) and each.dim()]
    if others:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found gpu and cpu: {func}")


def _require_deterministic(func, tensors):
    name = func.name().partition("::")[2].partition(".")[0]
    refuses = torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    if refuses and name in _NOT_DETERMINISTIC and (name == "put_" or any(map(torch.is_floating_point, tensors))):
        raise RuntimeError(f"{name}_cuda_kernel does not have a deterministic implementation, but you set …")


def provide():
    """Makes the device known to torch."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend("gpu")
    library = torch.library.Library("aten", "IMPL")  # what makes tensors from nothing; the rest is asked of OnGpu
    for operation in (aten.empty.memory_format, aten.empty_strided.default, aten.copy_.default):
        library.impl(operation, lambda *args, func=operation, **kwargs: _computed(func, args, kwargs), "PrivateUse1")
    torch.inference_mode = torch.no_grad  # tensors of inference mode have no place in such a subclass
    return library


def main(folder):
    """Trains two small arms on the device and on the CPU, and prints what came out as JSON."""
    library = provide()
    print(json.dumps({device: _trained(Path(folder) / device, device) for device in ("gpu", "cpu")}))
    del library


def _trained(folder, device):
    """Trains each arm, stopped after a step and continued; returns its metrics and how it ended."""
    from polychromic.files import read_json, read_jsonl
    from polychromic.models import loading
    from polychromic.training import trainer

    def load(*arguments, **keys):
        torch.cuda.is_available = lambda: False
        language_model = loading.load_language_model(*arguments, **keys)
        language_model.model.to(device)
        torch.cuda.is_available = lambda: device == "gpu"  # decides how strict training is
        return language_model

    trainer.load_language_model = load
    found = {}
    for name, run in _runs(folder).items():
        trainer.ArmTrainer(run).step()
        continued = trainer.ArmTrainer(run)
        while not continued.finished:
            continued.step()
        continued.save_adapter()
        found[name] = {"metrics": list(read_jsonl(run.folder / "metrics.jsonl"))}
        found[name]["ending"] = read_json(run.folder / "training.json")
    return found


def _runs(folder):
    """A reward with KL, corrected weights, a fitted baseline and early stopping; references with a gated distance."""
    from polychromic.models.settings import AdapterSettings, ModelSettings
    from polychromic.sampling.base import SamplerSettings
    from polychromic.tasks.arithmetic import ArithmeticTask
    from polychromic.training.base import ArmRun
    from polychromic.training.settings import DiversitySettings, TrainingSettings

    class WithReferences(ArithmeticTask):
        def prompts(self, split):
            from dataclasses import replace

            return [replace(prompt, references=("(1+2)*3-4", "1*2*3*4")) for prompt in super().prompts(split)]

    def run(name, sampling, diversity, **training):
        return ArmRun(
            "devices", name, 0, folder / name, WithReferences(16, 8, 8),
            ModelSettings(source="polychromic:arithmetic-tiny", adapter=AdapterSettings(rank=2, alpha=4, dropout=0.1)),
            TrainingSettings(
                steps=2, prompts_per_step=2, num_samples=4, max_new_tokens=8, learning_rate=1e-3, checkpoint_every=1,
                gradient_share_every=1, **training,
            ),
            DiversitySettings(weight=1.0, set_size=2, num_samples=4, num_prompts=2, **diversity), sampling=sampling,
        )  # fmt: skip

    corrected = SamplerSettings(importance_correction="truncated", importance_level="group")
    stopping = {"check_every": 1, "num_prompts": 2, "num_samples": 2}
    return {
        "reward": run(
            "reward", corrected, {"baseline": "fitted"}, loss="rl", kl_weight=0.1, early_stopping=stopping
        ),
        "references": run(
            "references", SamplerSettings(), {"objective": "distance", "sample_every": 1}, loss="sft"
        ),
    }  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
