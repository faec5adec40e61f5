"""Models, adapters and embedders of others: damaged, mixed up or out to run code; each ends in one true sentence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from polychromic.diversity.embedders import SentenceEmbedder
from polychromic.errors import ModelError
from polychromic.models.loading import load_base, load_language_model, load_tokenizer
from polychromic.models.settings import ModelSettings
from polychromic.models.sources import resolve_source


@pytest.fixture
def embedder(tmp_path):
    """A small embedder of random weights: transformer, pooling and a dense layer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=7, **size)).save_pretrained(tmp_path / "bert")
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    modules = [Transformer(str(tmp_path / "bert")), Pooling(8), Dense(8, 4)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "embedder"))
    return tmp_path / "embedder"


def settings(folder):
    return ModelSettings(source=str(folder))


def refused(folder):
    with pytest.raises(ModelError) as caught:
        load_base(settings(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def change_weights(folder, change, name="model.safetensors"):
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name, metadata={"format": "pt"})


NORM = "model.layers.1.input_layernorm.weight"


def test_a_missing_tensor_is_named(model):
    """Past bug: it was drawn at random in silence, and drawn anew for the evaluation."""
    change_weights(model, lambda tensors: tensors.pop(NORM))
    assert f"of 39 tensors 1 are missing and would be random ({NORM})" in refused(model)


def test_an_unexpected_tensor_is_named(model):
    change_weights(model, lambda tensors: tensors.update(extra=torch.zeros(1)))
    assert "1 tensors in the file belong to nothing (extra)" in refused(model)


def test_a_tensor_of_another_shape_is_named_with_both(model):
    change_weights(model, lambda tensors: tensors.update({NORM: torch.zeros(3)}))
    message = refused(model)
    assert f"1 of 39 tensors have another shape ({NORM} is [3] instead of [" in message


def test_a_config_of_another_architecture_is_refused(model):
    change_config(model, architectures=["GPTNeoXForCausalLM"], model_type="gpt_neox")
    message = refused(model)
    assert "a GPTNeoXForCausalLM by its config.json, does not fit its weights" in message


def test_a_config_with_fewer_layers_is_refused(model):
    change_config(model, num_hidden_layers=1, layer_types=None)
    assert "tensors in the file belong to nothing (model.layers.1." in refused(model)


def test_what_the_architecture_ties_may_be_left_out(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    source = resolve_source("polychromic:arithmetic-tiny")
    shutil.copytree(source, tmp_path / "tied", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    tied = LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=True, **size))
    tied.save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    model, _ = load_base(settings(tmp_path / "tied"))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    change_config(tmp_path / "tied", tie_word_embeddings=False)
    assert "1 are missing and would be random (lm_head.weight)" in refused(tmp_path / "tied")


@pytest.mark.parametrize("name", ["../outside.bin", "inside.bin", "../outside.safetensors", "/tmp/x.safetensors"])
def test_an_index_that_leads_elsewhere_is_refused(model, marker, name, pickled):
    """Past bug: `../outside.bin` was read through torch.load."""
    (model / "model.safetensors").unlink()
    for place in (model / "inside.bin", model.parent / "outside.bin"):
        place.write_bytes(pickled)
    index = {"metadata": {}, "weight_map": {"model.norm.weight": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"names '{name}', expected *.safetensors inside the model's folder" in refused(model)
    assert not marker.exists()


def test_a_config_that_names_a_pickle_is_refused(model, marker, pickled):
    (model / "adapter_model.bin").write_bytes(pickled)
    change_config(model, transformers_weights="adapter_model.bin")
    assert "expected *.safetensors" in refused(model)
    assert not marker.exists()


def test_links_as_the_hubs_cache_has_them_are_followed(model, tmp_path):
    (tmp_path / "blob").write_bytes((model / "model.safetensors").read_bytes())
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to("../blob")
    assert load_base(settings(model))


def test_an_adapter_beside_a_model_is_not_put_on_in_silence(model, adapter):
    for file in adapter.iterdir():
        shutil.copy(file, model)
    assert "holds an adapter beside the model" in refused(model)


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: b"", lambda content: content[:50]])
def test_damaged_weights_are_called_damaged(model, damage):
    """Past bug: "cannot be written: free the disk"."""
    weights = model / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    message = refused(model)
    assert "damaged or cut short" in message
    assert "disk" not in message


@pytest.mark.parametrize("content", ["[]", "3", '{"model_type": 3}', "{", '{"model_type": "llama", "hidden_size": []}'])
def test_a_damaged_config_is_one_sentence(model, content):
    (model / "config.json").write_text(content)
    refused(model)


def test_a_quantized_model_is_told_what_to_name_instead(model):
    change_config(model, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "is quantized with gptq, which cannot be trained here; name the unquantized model" in refused(model)


@pytest.mark.parametrize("content", ["{", "[]", '{"version": "1.0"}', ""])
def test_a_damaged_tokenizer_is_one_sentence(model, content):
    (model / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"^model\.source: \S+ could not be loaded: [^\n]*$"):
        load_tokenizer(settings(model))


def test_an_adapter_without_a_tensor_is_refused(adapter, tiny_settings):
    name = next(iter(load_file(adapter / "adapter_model.safetensors")))
    change_weights(adapter, lambda tensors: tensors.pop(name), "adapter_model.safetensors")
    with pytest.raises(
        ModelError, match=rf"the adapter does not fit its weights: of 56 tensors 1 are missing .*{name}"
    ):
        load_language_model(tiny_settings, adapter=adapter)


def test_an_adapter_with_a_tensor_more_is_refused(adapter, tiny_settings):
    """Such as embeddings of the base: they would be lost when the adapter is saved again."""
    extra = {"base_model.model.model.embed_tokens.weight": torch.zeros(3)}
    change_weights(adapter, lambda tensors: tensors.update(extra), "adapter_model.safetensors")
    with pytest.raises(ModelError, match="embed_tokens"):
        load_language_model(tiny_settings, adapter=adapter)


@pytest.mark.parametrize("kind", ["IA3", "nonsense", None, ["LORA"]])
def test_an_adapter_of_another_kind_is_refused(adapter, tiny_settings, kind):
    """Past bug: a traceback with the KeyError 'nonsense'."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"peft_type": kind}))
    with pytest.raises(ModelError, match=r"peft_type is .*, expected 'LORA'"):
        load_language_model(tiny_settings, adapter=adapter)


@pytest.mark.parametrize("change", [{"r": "four"}, {"r": 0}, {"target_modules": 3}, {"r": 8}])
def test_a_damaged_adapter_config_is_one_sentence(adapter, tiny_settings, change):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=r"the adapter could not be loaded: [^\n]*$"):
        load_language_model(tiny_settings, adapter=adapter)


def test_a_whole_embedder_is_loaded(embedder):
    assert SentenceEmbedder(str(embedder)).encode(["a b"]).shape == (1, 4)


def test_a_pickled_layer_of_an_embedder_is_not_read(embedder, marker, pickled):
    """Past bug: `2_Dense/pytorch_model.bin` went through torch.load."""
    (embedder / "2_Dense" / "model.safetensors").unlink()
    (embedder / "2_Dense" / "pytorch_model.bin").write_bytes(pickled)
    with pytest.raises(ModelError, match=r"2_Dense/pytorch_model\.bin is pickled, which can run code"):
        SentenceEmbedder(str(embedder))
    assert not marker.exists()


def test_an_embedder_without_a_tensor_is_refused(embedder):
    change_weights(embedder, lambda tensors: tensors.pop("encoder.layer.1.output.dense.weight"))
    with pytest.raises(
        ModelError, match=r"are missing and would be random \(encoder\.layer\.1\.output\.dense\.weight\)"
    ):
        SentenceEmbedder(str(embedder))


def test_an_embedder_whose_config_has_fewer_layers_is_refused(embedder):
    change_config(embedder, num_hidden_layers=1)
    with pytest.raises(ModelError, match=r"belong to nothing \(encoder\.layer\.1\."):
        SentenceEmbedder(str(embedder))


def test_the_head_of_another_task_is_no_fault_of_an_embedder(embedder):
    change_weights(embedder, lambda tensors: tensors.update({"cls.predictions.bias": torch.zeros(7)}))
    change_weights(embedder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "pooler" in name])
    SentenceEmbedder(str(embedder))


def test_loading_leaves_the_libraries_as_they_were(model):
    from transformers import PreTrainedModel

    before = torch.load, PreTrainedModel.__dict__["from_pretrained"]
    change_weights(model, lambda tensors: tensors.pop(NORM))
    refused(model)
    assert (torch.load, PreTrainedModel.__dict__["from_pretrained"]) == before


def test_a_hub_id_is_checked_in_the_cache_and_its_links_are_followed(model, tmp_path, monkeypatch):
    """The cache keeps every file as a link to a blob outside the snapshot's folder."""
    from huggingface_hub import constants

    cache = tmp_path / "hub" / "models--owner--name"
    snapshot = cache / "snapshots" / ("0" * 40)
    for folder in (cache / "blobs", cache / "refs", snapshot):
        folder.mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    for file in model.iterdir():
        file.rename(cache / "blobs" / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    load_base(settings("owner/name"))
    change_config(cache / "blobs", quantization_config={"quant_method": "gptq"})
    assert "owner/name is quantized with gptq" in refused("owner/name")
