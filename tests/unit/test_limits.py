"""Limits of context, positions and token ids are found before training, with counts, and in one sentence."""

import json

import pytest
import torch
from test_chat import SPECIAL, byte_tokenizer
from transformers import CONFIG_MAPPING, GPT2Config, GPT2LMHeadModel

from polychromic.errors import DataError
from polychromic.experiment.config import Experiment
from polychromic.experiment.preflight.lengths import length_lines, require_data_fits
from polychromic.experiment.references import score_references
from polychromic.experiment.run import run
from polychromic.files import read_jsonl
from polychromic.models.loading import load_language_model
from polychromic.models.settings import ModelSettings
from polychromic.models.sources import UNLIMITED, ModelLimits, model_limits
from polychromic.records import Prompt, as_messages
from polychromic.tasks.base import build_task

ROWS = len(SPECIAL) + 256


@pytest.mark.parametrize(
    ("model_type", "keys", "context"),
    [
        ("llama", {"max_position_embeddings": 77}, 77),
        ("gpt2", {"n_positions": 77}, 77),
        ("opt", {"max_position_embeddings": 77}, 77),  # its table has two rows more
        ("roberta", {"max_position_embeddings": 514, "pad_token_id": 1}, 512),  # its positions begin behind padding
        ("mpt", {"max_seq_len": 77, "attn_config": {"alibi": False}}, 77),
        ("mpt", {"max_seq_len": 77, "attn_config": {"alibi": True}}, UNLIMITED),
        ("falcon", {"alibi": True}, UNLIMITED),
        ("falcon", {"alibi": False, "max_position_embeddings": 77}, 77),
        ("bloom", {"seq_length": 77}, UNLIMITED),
        ("mamba", {}, UNLIMITED),
        ("whisper", {"max_target_positions": 77}, 77),
        ("gemma3", {"text_config": {"max_position_embeddings": 77}}, 77),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "max_position_embeddings": 50}, 200),
        (
            "qwen2",
            {
                "max_position_embeddings": 100,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100},
            },
            400,
        ),
        (
            "llama",
            {
                "max_position_embeddings": 800,
                "rope_scaling": {
                    "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 100,
                    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                },
            },
            800,
        ),
    ],
)  # fmt: skip
def test_the_context_is_found_wherever_a_configuration_keeps_it(model_type, keys, context):
    """Past bug: only `max_position_embeddings` was read, and models without it had room for a billion tokens."""
    assert model_limits(CONFIG_MAPPING[model_type](**keys)).context == context


@pytest.fixture
def short_model(tmp_path):
    """GPT-2 with 40 learned positions, whose tokenizer knows one token more than it has embeddings."""
    folder = tmp_path / "short"
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=ROWS, n_positions=40, n_embd=8, n_layer=1, n_head=1, eos_token_id=0, bos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer = byte_tokenizer(eos="<eos>")
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.add_tokens(["~~~"])
    tokenizer.save_pretrained(folder)
    return folder


def experiment(tmp_path, model, rows, **training):
    for split in ("train", "validation", "test"):
        lines = [json.dumps({"id": f"{split}-{i}", "prompt": p, "references": [r]}) for i, (p, r) in enumerate(rows)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    (tmp_path / "checker.py").write_text("def reward(prompt, text):\n    return 1.0\n")
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")}
    return Experiment.from_mapping({
        "name": "limits", "model": {"source": str(model)},
        "task": {"name": "custom", "checker": f"{tmp_path}/checker.py:reward", **files},
        "training": {"loss": "sft", "steps": 1, "max_new_tokens": 8, **training},
        "evaluation": {"num_prompts": len(rows), "num_samples": 4, "max_new_tokens": 8},
        "arms": {"baseline": {}, "other": {}}, "seeds": [0],
    })  # fmt: skip


def refusal(one):
    with pytest.raises(DataError) as refused:
        require_data_fits(one, build_task(one.task))
    return str(refused.value)


ROOM = [("a" * 10, "b" * 10), ("a" * 20, "b" * 10)]


def test_what_fits_is_counted(tmp_path, short_model):
    one = experiment(tmp_path, short_model, ROOM)
    assert require_data_fits(one, build_task(one.task)) == 4
    assert length_lines(one, build_task(one.task))[0].endswith("what the context leaves beside 8 new tokens")


def test_references_beyond_learned_positions_are_refused_before_training(tmp_path, short_model):
    """Past bug: an IndexError from the embedding in the middle of training."""
    rows = [*ROOM, ("a" * 20, "b" * 40), ("a", "b" * 39)]
    said = refusal(experiment(tmp_path, short_model, rows))
    assert said.startswith(f"2 training pairs of prompt and reference longer than the context of 40 of {short_model}")
    assert "train-2 (61 tokens), train-3 (41 tokens); set training.max_length=40" in said
    left_out = experiment(tmp_path, short_model, rows, max_length=40)
    assert require_data_fits(left_out, build_task(left_out.task)) == 8


def test_prompts_without_room_for_an_answer_are_refused_before_training(tmp_path, short_model):
    """Past bug: those that are evaluated were found when all arms had been trained."""
    said = refusal(experiment(tmp_path, short_model, [*ROOM, ("a" * 33, "b")]))
    assert said.startswith("1 evaluated prompt of arm baseline without room for 8 new tokens in the context of 40")
    assert "test-2 (33 tokens); shorten them, or lower evaluation.max_new_tokens" in said
    said = refusal(experiment(tmp_path, short_model, [*ROOM, ("a" * 33, "b")], loss="rl"))
    assert "1 training prompt of arm baseline" in said
    assert "lower training.max_new_tokens" in said


def test_a_request_for_several_answers_needs_room_for_all_of_them(tmp_path, short_model):
    """Past bug: such an arm was found to have none when its turn came, behind all that was trained."""
    content = experiment(tmp_path, short_model, ROOM).model_dump(mode="json")
    arms = {"baseline": {}, "listed": {"untrained": True, "verbalized": 2}}
    said = refusal(Experiment.from_mapping(content | {"arms": arms}))
    assert said.startswith("2 verbalized prompts of arm listed without room for 64 new tokens in the context of 40")
    assert said.endswith("lower evaluation.max_new_tokens")


def test_token_ids_without_an_embedding_are_refused_before_training(tmp_path, short_model):
    """Past bug: an IndexError from the embedding."""
    said = refusal(experiment(tmp_path, short_model, [*ROOM, ("a~~~b", "c")]))
    assert said.startswith(
        f"1 training prompt with tokens that {short_model} has no embedding for (it has {ROWS} rows)"
    )
    assert f"train-2 (id {ROWS + 1})" in said


def test_a_padding_token_without_an_embedding_is_not_used(short_model):
    assert load_language_model(ModelSettings(source=str(short_model))).pad_id < ROWS


def test_refused_texts_are_counted(tmp_path, short_model):
    said = refusal(experiment(tmp_path, short_model, [*ROOM, ("a<eos>", "c"), ("a", "<turn>c")]))
    assert said.startswith("prompt 'train-2', user message: holds the special token '<eos>' as text")
    assert said.endswith("So it is with 1 more training prompts.")


def test_nothing_is_trained_first(tmp_path, short_model):
    one = experiment(tmp_path, short_model, [*ROOM, ("a" * 20, "b" * 40)])
    one = one.model_copy(update={"run": one.run.model_copy(update={"preflight": False})})
    with pytest.raises(DataError, match="1 training pair of prompt and reference longer than the context of 40"):
        run(one, out=tmp_path / "runs")
    assert not list((tmp_path / "runs" / "limits").glob("*/seed-*"))


def test_references_that_all_exceed_the_context_have_no_perplexity(tmp_path, short_model):
    """Past bug: they ended the run after training, with a sentence about training.max_length."""
    path = tmp_path / "references.jsonl"
    prompt = Prompt("p", as_messages("a"), ("b" * 99,))
    assert score_references(path, [prompt], lambda: load_language_model(ModelSettings(source=str(short_model))))
    assert [row["n_tokens"] for row in read_jsonl(path)] == [0]


def test_models_without_a_limit_show_none(tmp_path, short_model, monkeypatch):
    monkeypatch.setattr(
        "polychromic.experiment.preflight.lengths.load_limits", lambda settings: ModelLimits(UNLIMITED, None)
    )
    one = experiment(tmp_path, short_model, ROOM)
    assert length_lines(one, build_task(one.task))[0].endswith("(median 15, 95 % up to 19.5)")


FLOOR = {"diversity": {"weight": "auto", "mode": "floor", "floor_margin": 0.1, "objective": "distance", "gate": "none"}}


def test_references_that_a_floor_is_measured_on_have_to_fit_as_well(tmp_path, short_model):
    """Past bug: an IndexError from the embedding, or a measurement beyond the context."""
    one = experiment(tmp_path, short_model, ROOM, max_new_tokens=4)
    (tmp_path / "validation.jsonl").write_text(
        "".join(json.dumps({"id": f"v-{n}", "prompt": "a" * n, "references": ["b" * 10]}) + "\n" for n in (30, 38))
    )
    assert require_data_fits(one, build_task(one.task)) == 4
    content = one.model_dump(mode="json")
    follows = Experiment.from_mapping({**content, "arms": {"baseline": {}, "other": FLOOR}})
    assert refusal(follows).startswith("2 held-out pairs of prompt and reference longer than the context of 40 of")
    left_out = Experiment.from_mapping(
        {**content, "training": {**content["training"], "max_length": 40}, "arms": {"baseline": {}, "other": FLOOR}}
    )
    require_data_fits(left_out, build_task(left_out.task))


OPENS = (
    "{% for m in messages %}{{ m.role[0] }}{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}a<think>\n{% endif %}{# </think> #}"
)


def test_references_behind_thinking_that_the_template_opens_are_answers_only_once_it_is_closed(tmp_path, short_model):
    """Past bug: they were learnt as thinking, and every answer of the trained model was empty and counted as cut."""
    byte_tokenizer(OPENS, eos="<eos>").save_pretrained(short_model)
    said = refusal(experiment(tmp_path, short_model, [("a", "bc")]))
    assert said.startswith(
        "1 training prompt of arm baseline with a reference that would be learnt as thinking without"
    )
    closed = experiment(tmp_path, short_model, [("a", "</think>bc")])
    require_data_fits(closed, build_task(closed.task))
    content = experiment(tmp_path, short_model, [("a", "bc")]).model_dump(mode="json")
    kept = Experiment.from_mapping({**content, "task": {**content["task"], "thinking": "keep"}})
    require_data_fits(kept, build_task(kept.task))
