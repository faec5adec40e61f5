import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from polychromic.diversity import load_embedder
from polychromic.diversity.embedding_cache import CachedEmbedder, text_key
from polychromic.diversity.hashed_ngrams import HashedNgramEmbedder
from polychromic.errors import DataError, ModelError

TEXTS = ["a b c", "c", "", "a b c", "b a b a b a b a", "c b", "c"]


class CountingEmbedder:
    """Embeds by hashing and remembers what it was asked for."""

    def __init__(self, name="counting@1"):
        self.name = name
        self.asked = []

    def encode(self, texts):
        self.asked.append(list(texts))
        return HashedNgramEmbedder(16).encode(texts)


def test_hashed_vectors_are_unit_and_know_spelling():
    embeddings = load_embedder("hash").encode(["colour", "colours", "", "\ud83d", "zebra"])
    assert embeddings.dtype == np.float32
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1.0, abs=1e-6)
    similarity = embeddings @ embeddings.T
    assert similarity[0, 1] > 0.7
    assert abs(similarity[0, 4]) < 0.2


def test_hashed_vectors_are_the_same_on_every_machine():
    # CRC-32 puts "\x02a" and "a\x03" into bucket 1 with sign +, "\x02a\x03" into bucket 0 with sign −.
    expected = np.array([-1, 2, 0, 0, 0, 0, 0, 0]) / np.sqrt(5)
    assert HashedNgramEmbedder(8).encode(["a"])[0] == pytest.approx(expected, abs=1e-7)
    assert load_embedder("hash").name == "hashed-char-ngrams-2-4-d1024"


def test_the_cache_computes_each_text_once(tmp_path):
    inner = CountingEmbedder()
    first = CachedEmbedder(inner, tmp_path).encode(TEXTS)
    again = CachedEmbedder(inner, tmp_path).encode([*TEXTS, "new"])
    assert inner.asked == [["a b c", "c", "", "b a b a b a b a", "c b"], ["new"]]
    assert (again[:-1] == first).all()
    np.testing.assert_array_equal(first, HashedNgramEmbedder(16).encode(TEXTS))


def test_embeddings_are_written_as_they_come(tmp_path):
    class FailingEmbedder(CountingEmbedder):
        def encode(self, texts):
            if "c" in texts:
                raise ModelError("stopped")
            return super().encode(texts)

    with pytest.raises(ModelError):
        CachedEmbedder(FailingEmbedder(), tmp_path, texts_a_write=2).encode(["a", "b", "c"])
    resumed = CountingEmbedder()
    CachedEmbedder(resumed, tmp_path).encode(["a", "b", "c"])
    assert resumed.asked == [["c"]]


def test_each_model_has_its_own_file(tmp_path):
    for name in ("owner/model@1", "owner/model@2"):
        CachedEmbedder(CountingEmbedder(name), tmp_path).encode(["a"])
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "owner_model@1.sqlite",
        "owner_model@2.sqlite",
    ]


def test_no_text_needs_no_embedding(tmp_path):
    assert CachedEmbedder(CountingEmbedder(), tmp_path).encode([]).shape == (0, 16)
    assert load_embedder("hash").encode([]).shape == (0, 1024)


def test_many_texts_and_lone_surrogates_are_kept_apart(tmp_path):
    texts = [f"text {i}" for i in range(1200)] + ["\ud83d", "\ud83e"]
    CachedEmbedder(CountingEmbedder(), tmp_path).encode(texts)
    inner = CountingEmbedder()
    embeddings = CachedEmbedder(inner, tmp_path).encode(texts)
    assert inner.asked == []
    np.testing.assert_array_equal(embeddings, HashedNgramEmbedder(16).encode(texts))
    assert text_key("\ud83d") != text_key("\ud83e")


def test_a_file_that_is_no_cache_is_named(tmp_path):
    cached = CachedEmbedder(CountingEmbedder(), tmp_path)
    cached.path.write_bytes(b"not a database, but long enough to be read as one" * 40)
    with pytest.raises(DataError, match=r"counting@1\.sqlite: not a cache of embeddings.*delete the file"):
        cached.encode(["a"])


def test_a_locked_file_is_not_to_be_deleted(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    with pytest.raises(DataError, match=r"cannot use the cache of embeddings: database is locked$"):
        CachedEmbedder(CountingEmbedder(), tmp_path).encode(["a"])


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """Folder of a sentence-transformers model: one BERT layer with random weights, eight tokens at most."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
    )
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    model = SentenceTransformer(modules=[Transformer(str(folder / "bert"), max_seq_length=8), Pooling(16)])
    model.save(str(folder / "model"))
    return folder / "model"


@pytest.fixture
def embedder(tiny_model):
    from polychromic.diversity.sentence_embedder import SentenceEmbedder

    return SentenceEmbedder(str(tiny_model), token_budget=12)


def plain_encode(embedder, texts):
    return embedder._model.encode(list(texts), normalize_embeddings=True)


def test_batches_give_what_plain_encoding_gives(embedder):
    import torch

    threads = torch.get_num_threads()
    embeddings = embedder.encode(TEXTS)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, plain_encode(embedder, TEXTS), atol=1e-6)
    np.testing.assert_array_equal(embeddings[0], embeddings[3])
    assert embedder.encode([]).shape == (0, 16)
    assert torch.get_num_threads() == threads


def test_batches_hold_similar_lengths_within_the_budget(embedder):
    batches = list(embedder._batches(TEXTS))
    lengths = embedder._token_counts(TEXTS)
    assert sorted(i for batch in batches for i in batch) == list(range(len(TEXTS)))
    assert all(len(batch) == 1 or len(batch) * lengths[batch[0]] <= 12 for batch in batches)
    assert [lengths[i] for batch in batches for i in batch] == sorted(lengths, reverse=True)


def test_callers_in_several_threads_do_not_disturb_each_other(embedder):
    expected = embedder.encode(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for embeddings in pool.map(embedder.encode, [TEXTS] * 20):
            np.testing.assert_allclose(embeddings, expected, atol=1e-6)


def test_the_name_tells_weights_apart(embedder, tiny_model, tmp_path):
    import torch
    from sentence_transformers import SentenceTransformer

    from polychromic.diversity.sentence_embedder import SentenceEmbedder

    changed = SentenceTransformer(str(tiny_model))
    with torch.no_grad():
        next(changed.parameters()).add_(1)
    changed.save(str(tmp_path / "model"))
    names = [SentenceEmbedder(str(folder)).name for folder in (tiny_model, tmp_path / "model")]
    assert names[0] == embedder.name != names[1]
    assert all(name.startswith("model@") for name in names)


@pytest.mark.parametrize("message", [None, "[enforce fail] DefaultCPUAllocator: can't allocate memory"])
def test_running_out_of_memory_halves_the_batch(embedder, monkeypatch, message):
    import torch

    expected, forward, sizes = embedder.encode(TEXTS), embedder._forward, []

    def small_memory(texts):
        sizes.append(len(texts))
        if len(texts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory") if message is None else RuntimeError(message)
        return forward(texts)

    embedder.token_budget = 1000
    monkeypatch.setattr(embedder, "_forward", small_memory)
    np.testing.assert_allclose(embedder.encode(TEXTS), expected, atol=1e-6)
    assert sizes == [5, 2, 1, 1, 3, 1, 2, 1, 1]


def test_memory_too_small_for_one_text_is_an_error(embedder, monkeypatch):
    import torch

    def no_memory(texts):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(embedder, "_forward", no_memory)
    with pytest.raises(ModelError, match="out of memory on a single text of 5 characters"):
        embedder.encode(["a b c"])


def test_other_failures_are_not_taken_for_memory(embedder, monkeypatch):
    def broken(texts):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(embedder, "_forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        embedder.encode(TEXTS)


def test_texts_past_the_models_limit_are_cut_with_a_warning(embedder, caplog):
    with caplog.at_level(logging.WARNING):
        embeddings = embedder.encode(["a b c a b c a a a", "a b c a b c b b b", "c"])
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-6)  # [CLS], six tokens, [SEP]
    assert "embeds only the first 8 tokens of 2 texts" in caplog.text


def test_a_model_that_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"could not load the embedder .*missing"):
        load_embedder(str(tmp_path / "missing"))


@pytest.mark.network
@pytest.mark.filterwarnings("default")  # loading third-party weights may warn; the values below decide
def test_the_pinned_model_keeps_meaning_together(tmp_path):
    embedder = load_embedder("minilm", cache_folder=tmp_path)
    embeddings = embedder.encode(["I am happy", "I feel great joy", "The train is late"])
    similarity = embeddings @ embeddings.T
    assert embedder.name == "all-MiniLM-L6-v2@53aa5117"
    assert similarity[0, 1] > 2 * similarity[0, 2]
