"""Sentence-transformers models, batched by token count and safe against running out of memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from polychromic.errors import ModelError


class SentenceEmbedder:
    """A sentence-transformers model by hub id or folder.

    `token_budget` bounds the padded tokens of one batch; texts are sorted by token count, so little is padding.
    Every text is truncated at the model's own `max_seq_length`.
    """

    def __init__(self, source: str, name: str | None = None, *, token_budget: int = 4096):
        from sentence_transformers import SentenceTransformer

        try:
            self._model = SentenceTransformer(source)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"could not load the embedder {source!r}: {error}; expected minilm, hash, "
                "or a sentence-transformers id or folder"
            ) from error
        self.token_budget = token_budget
        self.name = name or f"{source.rstrip('/').rpartition('/')[2]}@{_weights_hash(self._model)[:8]}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Float32 [n, d] with rows of length 1; duplicates are computed once."""
        unique = list(dict.fromkeys(texts))
        rows = {text: i for i, text in enumerate(unique)}
        dimensions = self._model.get_embedding_dimension()
        embeddings_UD = np.empty((len(unique), dimensions or 0), dtype=np.float32)
        for batch in self._batches(unique):
            embeddings_UD[batch] = self._encode_batch([unique[i] for i in batch])
        return embeddings_UD[[rows[text] for text in texts]]

    def _batches(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Indices of texts of similar length, at most `token_budget` padded tokens a batch."""
        lengths = [len(ids) for ids in self._model.tokenizer(list(texts))["input_ids"]] if texts else []
        batch: list[int] = []
        for i in sorted(range(len(texts)), key=lengths.__getitem__):
            if batch and (len(batch) + 1) * lengths[i] > self.token_budget:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _encode_batch(self, texts: list[str]) -> NDArray[np.float32]:
        """One forward pass; on running out of memory the halves are tried, and one text that fails is an error."""
        import torch

        try:
            return self._model.encode(
                texts, batch_size=len(texts), normalize_embeddings=True, show_progress_bar=False
            )
        except torch.OutOfMemoryError:
            if len(texts) == 1:
                raise
        half = len(texts) // 2
        return np.concatenate([self._encode_batch(texts[:half]), self._encode_batch(texts[half:])])


def _weights_hash(model) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
