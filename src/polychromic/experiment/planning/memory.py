"""Computes the memory that training and sampling need, in bytes, from the shape of the model and the settings.

Activations are what autograd keeps for the backward pass of this package's own forward (LoRA in float32 on a frozen
base, answers packed behind their prompt): tests count the kept tensors of real models and compare. What a device and
its allocator add is stated apart (`overhead`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from polychromic.experiment.planning.shapes import ModelShape
from polychromic.models.settings import ModelSettings

_FLOAT32 = 4
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a quantized weight: 4 bits, and its block's scale, which is quantized again (Dettmers et al., 2023, section 3)."""
LOGITS_AT_ONCE = 1 << 25  # objective.losses has it too; importing that loads torch, which `--help` must not

PROCESS_BYTES = 0.45e9
"""Python with torch, transformers and peft before any model: resident memory as measured on a CPU."""
CUDA_BYTES = 1.0e9
"""CUDA context, kernels and the allocator's fragments. Assumed: no GPU has been measured."""


@dataclass(frozen=True, slots=True)
class TrainingLoad:
    """One micro-batch: `rows` rows of `row_tokens` tokens (a prompt with its answers), `answers` tokens in the loss."""

    rows: int
    row_tokens: int
    answers: int

    @property
    def tokens(self) -> int:
        """Counts the tokens that the decoder sees, padding among them."""
        return self.rows * self.row_tokens


@dataclass(frozen=True, slots=True)
class SamplingLoad:
    """Sequences decoded side by side, each of `tokens` tokens at its end, prompt included."""

    sequences: int
    tokens: int
    nucleus: bool = False
    """True where top_p is below 1: the vocabulary is sorted for each token."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by what they hold. `peak` is the larger of training and sampling: the two take turns."""

    weights: float
    adapter: float
    """The adapter's weights, gradients and both moments of AdamW."""
    activations: float
    logits: float
    """Of training: one part of the answer tokens at a time."""
    cache: float
    sampling: float
    """What sampling holds beside the cache: logits of the next token, and weights with the adapter folded in."""
    overhead: float

    @property
    def training(self) -> float:
        """Returns the peak of a forward and backward pass."""
        return self.weights + self.adapter + self.activations + self.logits + self.overhead

    @property
    def decoding(self) -> float:
        """Returns the peak of sampling between two steps of training."""
        return self.weights + self.adapter + self.cache + self.sampling + self.overhead

    @property
    def peak(self) -> float:
        """Returns the most that is held at once."""
        return max(self.training, self.decoding)

    def to_json(self) -> dict[str, float]:
        """Returns every part and the three sums."""
        return {**asdict(self), "training": self.training, "decoding": self.decoding, "peak": self.peak}


def plan_memory(
    shape: ModelShape,
    model: ModelSettings,
    training: TrainingLoad | None,
    sampling: SamplingLoad,
    *,
    separate_terms: bool = True,
    on_gpu: bool = True,
) -> Memory:
    """Plans one job. training: None where no arm is trained. separate_terms: steps measure the gradient share, which
    keeps the gradient of each term."""
    return Memory(
        weights=weight_bytes(shape, model),
        adapter=adapter_bytes(shape, model, trained=training is not None, separate_terms=separate_terms),
        activations=activation_bytes(shape, model, training, on_gpu=on_gpu) if training else 0.0,
        logits=training_logit_bytes(shape, model, training) if training else 0.0,
        cache=cache_bytes(shape, model, sampling),
        sampling=sampling_bytes(shape, model, sampling),
        overhead=CUDA_BYTES if on_gpu else PROCESS_BYTES,
    )


def weight_bytes(shape: ModelShape, model: ModelSettings) -> float:
    """Returns the bytes of the frozen base. With nf4 only matrices of decoder layers have 4 bits: embedding, head and
    norms are raised to float32 (peft's `prepare_model_for_kbit_training`), 5 GB of Qwen3-8B."""
    if model.quantization == "nf4":
        return shape.linear_parameters * _NF4_BYTES + _FLOAT32 * (shape.embedding_parameters + shape.small_parameters)
    return float(shape.parameters * element_bytes(model))


def element_bytes(model: ModelSettings) -> int:
    """Returns the bytes of one element of the residual stream: float32 beside quantized weights (see above)."""
    return _FLOAT32 if model.dtype == "float32" or model.quantization == "nf4" else 2


def adapter_bytes(
    shape: ModelShape, model: ModelSettings, *, trained: bool = True, separate_terms: bool = True
) -> float:
    """Returns the bytes of the adapter in float32: weights, gradient and two moments; where terms are kept apart also
    the gradients of quality, of two halves of diversity, of its gate, and their sum."""
    copies = (4 + (5 if separate_terms else 0)) if trained else 1
    return float(copies * _FLOAT32 * shape.trained_parameters(model.adapter))


def activation_bytes(shape: ModelShape, model: ModelSettings, load: TrainingLoad, *, on_gpu: bool = True) -> float:
    """Returns what autograd keeps of one micro-batch, and what the backward pass of one layer adds to it: with
    gradient checkpointing that is the layer itself, which is computed again."""
    working = 3.0 * load.tokens * shape.intermediate * element_bytes(model)
    if model.gradient_checkpointing:
        working += layer_activation_bytes(shape, model, load, on_gpu=on_gpu)
    return kept_activation_bytes(shape, model, load, on_gpu=on_gpu) + working


def kept_activation_bytes(shape: ModelShape, model: ModelSettings, load: TrainingLoad, *, on_gpu: bool = True) -> float:
    """Returns what autograd keeps between the forward and the backward pass: of every layer what
    `layer_activation_bytes` counts, or its input alone with gradient checkpointing; and the ends of the model."""
    h, b = shape.hidden, element_bytes(model)
    ends = load.tokens * h * _FLOAT32 + load.answers * h * b
    if model.gradient_checkpointing:
        return float(shape.layers * load.tokens * h * b + ends)
    return shape.layers * layer_activation_bytes(shape, model, load, on_gpu=on_gpu) + ends


def layer_activation_bytes(
    shape: ModelShape, model: ModelSettings, load: TrainingLoad, *, on_gpu: bool = True
) -> float:
    """Returns what autograd keeps of one decoder layer.

    The base is frozen, so its products keep nothing; kept are the inputs of adapters (in float32: in half precision a
    copy for each), of norms (in float32), of attention (queries, keys and values of all heads, output, mask) and of the
    gated activation.
    """
    h, q, m, b = shape.hidden, shape.query_width, shape.intermediate, element_bytes(model)
    adapted = shape.adapted(model.adapter)
    norms = 2 * h * _FLOAT32
    if shape.kind == "qwen3":
        norms += (q + shape.kv_width) * _FLOAT32
    attention = 4 * q * b + shape.heads * _FLOAT32
    gated = 3 * m * b
    inputs = 0
    for group in (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)):
        inputs += _adapter_inputs(shape, model, [name for name in group if name in adapted], on_gpu=on_gpu)
    ranks = len(adapted) * model.adapter.rank * _FLOAT32
    mask = load.row_tokens * b  # of every row, for each query: the model adds it to the scores
    return float(load.tokens * (norms + attention + gated + inputs + ranks + mask))


def _adapter_inputs(shape: ModelShape, model: ModelSettings, names: list[str], *, on_gpu: bool) -> int:
    """Returns the bytes per token that adapters with one common input keep of it. Attention keeps its output itself, so
    that o_proj's adapter adds nothing in float32. With dropout each has a copy of its own and a mask, of a byte on a
    GPU and of a float32 on a CPU."""
    if not names:
        return 0
    width = shape.linears[names[0]][0]
    if model.adapter.dropout:
        return len(names) * width * (_FLOAT32 + (1 if on_gpu else _FLOAT32))
    if element_bytes(model) == _FLOAT32:
        return 0 if names == ["o_proj"] else width * _FLOAT32
    return len(names) * width * _FLOAT32


def training_logit_bytes(shape: ModelShape, model: ModelSettings, load: TrainingLoad) -> float:
    """Returns the logits of as many answer tokens as are made at once, in float32, with the exponentials of their
    normaliser and, in half precision, the product before it is raised."""
    rows = min(load.answers, max(1, LOGITS_AT_ONCE // shape.vocabulary))
    return float(rows * shape.vocabulary * (2 * _FLOAT32 + (0 if element_bytes(model) == _FLOAT32 else 2)))


def cache_bytes(shape: ModelShape, model: ModelSettings, load: SamplingLoad) -> float:
    """Returns keys and values of all layers at the end of the longest sequences, and one layer of it once more: each
    token copies a layer's cache to a longer one."""
    of_layer = 2 * shape.kv_width * element_bytes(model) * load.sequences * load.tokens
    return float((shape.layers + 1) * of_layer)


def sampling_bytes(shape: ModelShape, model: ModelSettings, load: SamplingLoad) -> float:
    """Returns logits, probabilities and their float64 sums for the next token of every sequence (with a nucleus also
    the sorted probabilities with their order); in float32 also the adapted matrices with the adapter folded in, beside
    the originals, which are put back."""
    per_token = 16 + (24 if load.nucleus else 0)
    folded = 0
    if model.quantization == "none" and element_bytes(model) == _FLOAT32:
        names = shape.adapted(model.adapter)
        folded = shape.layers * sum(inputs * outputs for inputs, outputs in map(shape.linears.get, names))  # type: ignore[misc]
    return float(load.sequences * shape.vocabulary * per_token + _FLOAT32 * folded)
