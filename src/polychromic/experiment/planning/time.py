"""Estimates time from counted floating-point operations and bytes, and a stated efficiency of the hardware.

A token is multiplied by every weight once in the forward pass (2 operations a weight) and, the base being frozen, once
in the backward pass; gradient checkpointing adds a forward pass. Decoding reads all weights and the cache for each
step, whatever the batch, until the batch is large enough to be bound by arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from polychromic.experiment.planning.memory import (
    SamplingLoad,
    TrainingLoad,
    element_bytes,
    kept_activation_bytes,
    weight_bytes,
)
from polychromic.experiment.planning.shapes import ModelShape
from polychromic.models.settings import ModelSettings


@dataclass(frozen=True, slots=True)
class Hardware:
    """One device. Peaks are the vendor's for dense bfloat16; efficiencies say how much of them is expected."""

    name: str
    memory: float
    """Bytes."""
    flops: float
    """Operations per second."""
    bandwidth: float
    """Bytes per second."""
    training_efficiency: float
    decoding_efficiency: float
    """Share of the bandwidth."""
    seconds_per_layer: float
    """Time that Python and kernel starts take for one layer of one decoding step, whatever its size."""
    seconds_per_kept_byte: float
    """Time of what is done element by element in training (norms, gates, residuals), by what autograd keeps of it."""
    seconds_per_score: float
    """Time of one attention score of training, beside its two products."""
    sky_name: str | None = None
    """The accelerator as SkyPilot writes it."""

    @property
    def is_gpu(self) -> bool:
        """Tells a GPU from a processor."""
        return self.sky_name is not None


def _gpu(name: str, gigabytes: float, teraflops: float, terabytes: float) -> Hardware:
    # Assumed, not measured: 40 % of the peak in products, half the bandwidth in decoding, 0.4 ms a layer for the dozen
    # kernels that the Python decode loop starts one by one, eight passes over what is kept, scores within their kernel.
    bandwidth = terabytes * 1e12
    return Hardware(name, gigabytes * 1e9, teraflops * 1e12, bandwidth, 0.4, 0.5, 4e-4, 8 / bandwidth, 0.0, name)


HARDWARE: Mapping[str, Hardware] = {
    "L4": _gpu("L4", 24, 121, 0.30),
    "A10G": _gpu("A10G", 24, 70, 0.60),
    "L40S": _gpu("L40S", 48, 362, 0.86),
    "A100-80GB": _gpu("A100-80GB", 80, 312, 2.04),
    "H100": _gpu("H100", 80, 989, 3.35),
    "H200": _gpu("H200", 141, 989, 4.8),
    "B200": _gpu("B200", 180, 2250, 8.0),
}
"""Data sheets: dense bfloat16, without sparsity."""

CPU_CORE = Hardware("one CPU core", 16e9, 70e9, 10e9, 0.90, 0.22, 0.0, 5.6e-9, 3.65e-9)
"""A core of the machine that `benchmarks/planning.py` ran on, in float32: the peak is its own matrix product; the share
of the bandwidth, and the last two, are fitted to six training steps and decodings there."""

_QUANTIZED_TRAFFIC = 4.5
"""Bytes moved per nf4 weight and step: half a byte read, two written as bfloat16, two read by the product."""
_QUANTIZED_SLOWDOWN = 1.3
"""Of training, whose products wait for weights to be raised from 4 bits. Assumed."""


def training_flops(shape: ModelShape, model: ModelSettings, load: TrainingLoad) -> float:
    """Counts the operations of a forward and backward pass of one micro-batch.

    Matrices: 2 a weight and token forward, 2 backward (gradients of activations; the base has none), 2 more where the
    forward pass is made again. Adapters: 2 forward and 4 backward. Attention: 4 · width · row forward (scores and
    sums, all of the row: packed masks are not skipped), twice that backward. Output head: answer tokens only, 2
    forward, and in the backward pass logits made again and multiplied back.
    """
    passes = 2 if model.gradient_checkpointing else 1  # forward passes
    matrices = 2.0 * (passes + 1) * shape.linear_parameters * load.tokens
    adapters = 2.0 * (passes + 2) * shape.adapter_parameters(model.adapter) * load.tokens
    attention = 4.0 * (passes + 2) * shape.layers * shape.query_width * load.tokens * load.row_tokens
    head = 6.0 * load.answers * shape.hidden * shape.vocabulary
    return matrices + adapters + attention + head


def training_seconds(shape: ModelShape, model: ModelSettings, load: TrainingLoad, hardware: Hardware) -> float:
    """Returns the time of a forward and backward pass of one micro-batch: of its products, of what is done element by
    element (half as much again with gradient checkpointing), and of attention scores."""
    slowdown = _QUANTIZED_SLOWDOWN if model.quantization == "nf4" else 1.0
    products = training_flops(shape, model, load) / (hardware.flops * hardware.training_efficiency)
    whole = model.model_copy(update={"gradient_checkpointing": False})
    kept = kept_activation_bytes(shape, whole, load, on_gpu=hardware.is_gpu)
    elements = kept * (1.5 if model.gradient_checkpointing else 1.0) * hardware.seconds_per_kept_byte
    scores = 3.0 * shape.layers * shape.heads * load.tokens * load.row_tokens * hardware.seconds_per_score
    return products * slowdown + elements + scores


def reference_seconds(shape: ModelShape, model: ModelSettings, load: TrainingLoad, hardware: Hardware) -> float:
    """Returns the time of the base's forward pass of one micro-batch, which a KL is measured from: its products are
    half of those of a forward and backward pass."""
    whole = model.model_copy(update={"gradient_checkpointing": False})
    return training_seconds(shape, whole, load, hardware) / 2


def decoding_flops(shape: ModelShape, load: SamplingLoad, prompt_tokens: int, prompts: int) -> float:
    """Counts the operations of reading each prompt once and writing the rest of every sequence, whose last token is
    drawn and never read."""
    read = load.sequences * (load.tokens - prompt_tokens - 1)
    matrices = 2.0 * shape.linear_parameters * (prompts * prompt_tokens + read)
    head = 2.0 * shape.hidden * shape.vocabulary * (prompts + read)
    pairs = prompts * prompt_tokens**2 + read * (prompt_tokens + load.tokens) / 2
    attention = 4.0 * shape.layers * shape.query_width * pairs
    return matrices + head + attention


def decoding_seconds(
    shape: ModelShape, model: ModelSettings, load: SamplingLoad, prompt_tokens: int, prompts: int, hardware: Hardware
) -> float:
    """Returns the time of one decoding batch: each step waits for the slowest of memory and arithmetic, and for the
    Python loop."""
    new = load.tokens - prompt_tokens
    weights = weight_bytes(shape, model)
    if model.quantization == "nf4":
        weights = _QUANTIZED_TRAFFIC * shape.linear_parameters + 4.0 * shape.hidden * shape.vocabulary
    cache = 2.0 * shape.layers * shape.kv_width * element_bytes(model) * load.sequences
    # Read by attention, and copied to a longer one: read and written again.
    moved = new * weights + 3.0 * cache * new * (prompt_tokens + load.tokens) / 2
    by_memory = moved / (hardware.bandwidth * hardware.decoding_efficiency)
    by_arithmetic = decoding_flops(shape, load, prompt_tokens, prompts) / (
        hardware.flops * hardware.training_efficiency
    )
    return max(by_memory, by_arithmetic) + new * shape.layers * hardware.seconds_per_layer
