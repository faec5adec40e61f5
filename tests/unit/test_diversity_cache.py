"""The disk cache of embeddings: each text once, whatever happens to the file."""

import multiprocessing
import random
import sqlite3

import numpy as np
import pytest

from polychromic.diversity.cache import _TABLE, CachedEmbedder, text_key
from polychromic.diversity.embedders import HashedNgramEmbedder
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


def test_many_texts_and_lone_surrogates_are_kept_apart(tmp_path):
    texts = [f"text {i}" for i in range(1200)] + ["\ud83d", "\ud83e"]
    CachedEmbedder(CountingEmbedder(), tmp_path).encode(texts)
    inner = CountingEmbedder()
    embeddings = CachedEmbedder(inner, tmp_path).encode(texts)
    assert inner.asked == []
    np.testing.assert_array_equal(embeddings, HashedNgramEmbedder(16).encode(texts))
    assert text_key("\ud83d") != text_key("\ud83e")


def test_a_file_that_is_no_cache_is_set_aside(tmp_path, caplog):
    cached, other = (
        CachedEmbedder(CountingEmbedder(), tmp_path),
        b"not a database, but long enough for one" * 40,
    )
    cached.path.write_bytes(other)
    cached.encode(TEXTS)
    assert (tmp_path / "counting@1.sqlite.damaged").read_bytes() == other
    assert "counting@1.sqlite: not a cache of embeddings" in caplog.text
    again = CountingEmbedder()
    CachedEmbedder(again, tmp_path).encode(TEXTS)
    assert again.asked == []


@pytest.mark.filterwarnings("error")
def test_no_damage_to_the_file_changes_an_embedding(tmp_path):
    texts, rng = [f"text {i}" for i in range(200)], random.Random(0)
    cached = CachedEmbedder(CountingEmbedder(), tmp_path)
    expected = cached.encode(texts)
    whole = cached.path.read_bytes()
    for _ in range(100):
        torn = bytearray(whole)
        place = rng.randrange(len(whole))
        kind = rng.choice(["cut", "flip", "zeros", "header"])
        if kind == "cut":
            del torn[place:]
        elif kind == "flip":
            torn[place] ^= 1 << rng.randrange(8)
        elif kind == "zeros":
            torn[place : place + 512] = bytes(len(torn[place : place + 512]))
        else:
            torn[rng.randrange(100)] = rng.randrange(256)
        cached.path.write_bytes(torn)
        np.testing.assert_array_equal(cached.encode(texts), expected, err_msg=f"{kind} at {place}")


def test_rows_of_another_version_are_left_to_it(tmp_path, caplog):
    """Rows without checksums were once read as damaged here, and rows with them as NaN there."""
    cached = CachedEmbedder(CountingEmbedder(), tmp_path)
    with sqlite3.connect(cached.path) as file:
        file.execute("CREATE TABLE embeddings (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
        file.execute("INSERT INTO embeddings VALUES (?, ?)", [text_key("c"), b"as it was"])
    assert np.isfinite(cached.encode(["c"])).all()
    assert file.execute("SELECT vector FROM embeddings").fetchall() == [(b"as it was",)]
    file.close()
    assert not caplog.text


def test_a_changed_entry_is_noticed_and_replaced(tmp_path, caplog):
    # A flipped sign keeps a vector's length: without a checksum it would be believed.
    cached = CachedEmbedder(CountingEmbedder(), tmp_path)
    expected = cached.encode(["a b c", "c"])
    with sqlite3.connect(cached.path) as file:
        (blob,) = file.execute("SELECT vector FROM verified_embeddings WHERE key = ?", [text_key("c")]).fetchone()
        changed = np.frombuffer(blob[:-4], "<f4") * -1
        file.execute(
            "UPDATE verified_embeddings SET vector = ? WHERE key = ?",
            [changed.tobytes() + blob[-4:], text_key("c")],
        )
    file.close()
    inner = CountingEmbedder()
    np.testing.assert_array_equal(CachedEmbedder(inner, tmp_path).encode(["a b c", "c"]), expected)
    assert inner.asked == [["c"]]
    assert "1 embeddings fail their checksum" in caplog.text
    CachedEmbedder(inner, tmp_path).encode(["a b c", "c"])
    assert inner.asked == [["c"]]


def fill(folder, start, failures):
    """Work of one of several processes: 40 small batches, half of them shared with the next process."""
    cached = CachedEmbedder(CountingEmbedder(), folder, texts_a_write=5)
    for batch in range(start, start + 40):
        texts = [f"text {batch} {i}" for i in range(20)]
        if not np.array_equal(cached.encode(texts), HashedNgramEmbedder(16).encode(texts)):
            failures.put(batch)


def test_processes_share_one_file(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    failures = spawn.Queue()
    workers = [spawn.Process(target=fill, args=(tmp_path, start, failures)) for start in (0, 20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert failures.empty()
    inner = CountingEmbedder()
    CachedEmbedder(inner, tmp_path).encode([f"text {batch} {i}" for batch in range(60) for i in range(20)])
    assert inner.asked == []


def test_a_second_process_does_not_set_a_new_file_aside(tmp_path):
    cached = CachedEmbedder(CountingEmbedder(), tmp_path)
    cached.encode(["a"])
    error = sqlite3.DatabaseError("seen before the other process put this file in place")
    cached._file._set_aside(error)
    assert [file.name for file in tmp_path.iterdir()] == ["counting@1.sqlite"]


def test_a_locked_file_is_not_to_be_deleted(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    with pytest.raises(
        DataError,
        match=r"cannot use the cache of embeddings \(database is locked\); free its disk, or .*POLYCHROMIC_CACHE",
    ):
        CachedEmbedder(CountingEmbedder(), tmp_path).encode(["a"])


def test_another_texts_vector_is_not_believed(tmp_path):
    # Past bug: a flipped bit in the index led to a row that was whole in itself.
    cached = CachedEmbedder(CountingEmbedder(), tmp_path)
    expected = cached.encode(["a b c", "c"])
    with sqlite3.connect(cached.path) as file:
        file.execute(f"UPDATE {_TABLE} SET vector = (SELECT vector FROM {_TABLE} WHERE key = ?)", [text_key("c")])
    file.close()
    np.testing.assert_array_equal(cached.encode(["a b c", "c"]), expected)


def test_the_file_is_hardly_larger_than_the_vectors(tmp_path):
    # Past bug: two thirds of the file were empty pages.
    class Wide(CountingEmbedder):
        def encode(self, texts):
            return HashedNgramEmbedder(384).encode(texts)

    cached = CachedEmbedder(Wide(), tmp_path)
    cached.encode([f"text {i}" for i in range(2000)])
    assert cached.path.stat().st_size < 1.15 * 2000 * 384 * 4


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match=r"counting@1\.sqlite: cannot use the cache of embeddings"):
        CachedEmbedder(CountingEmbedder(), tmp_path / "taken").encode(["a"])
