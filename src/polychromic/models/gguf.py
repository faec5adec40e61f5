"""GGUF files turned once into float32 safetensors with their tokenizer: an ordinary model folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polychromic.errors import ModelError
from polychromic.files import atomic_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def convert_gguf(source: Path, folder: Path, extra_files: Sequence[Path] = ()) -> None:
    """Write a GGUF file's model and tokenizer to `folder`, as a whole or not at all, with `extra_files`.

    Raises ModelError when the `gguf` package is missing or the file carries no end-of-sequence token.
    """
    _require_gguf_package()
    tokenizer = _read_tokenizer(source)
    model = _read_model(source)
    with atomic_folder(folder) as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        for file in extra_files:
            shutil.copyfile(file, staging / file.name)
        for file in staging.iterdir():
            file.chmod(0o644)  # safetensors writes for its owner alone; a shared cache is read by all


def _require_gguf_package() -> None:
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise ModelError("reading GGUF weights needs the gguf package: pip install 'polychromic[gguf]'")


def _read_model(source: Path) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # A model read from GGUF counts as quantised and cannot be saved, though its weights are plain float32.
    config = read.config
    delattr(config, "quantization_config")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    return model


def _read_tokenizer(source: Path) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    metadata = _tokenizer_metadata(source)
    tokenizer.chat_template = tokenizer.chat_template or metadata.get("tokenizer.chat_template")
    end = metadata.get("tokenizer.ggml.eos_token_id")
    if end is None:
        raise ModelError(
            f"{source.name}: no end-of-sequence token in its metadata; generation would never stop"
        )
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(int(end))
    if metadata.get("tokenizer.ggml.pre") == "smollm":
        _split_digits(tokenizer)
    return tokenizer


def _tokenizer_metadata(source: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    wanted = ("tokenizer.chat_template", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.pre")
    fields = GGUFReader(source).fields
    return {name: fields[name].contents() for name in wanted if name in fields}


def _split_digits(tokenizer: PreTrainedTokenizerFast) -> None:
    """Split off each digit first: the model's own tokenizer does, the GGUF reader of transformers does not.

    Without it white space before a number is cut differently from how the model was trained.
    """
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
