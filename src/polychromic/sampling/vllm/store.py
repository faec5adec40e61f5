"""Keeps adapters in memory-backed storage while an engine reads them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from polychromic.errors import EngineError
from polychromic.models.adapters import save_adapter
from polychromic.models.loading import LanguageModel

_MEMORY = Path("/dev/shm")
_PREFIX, _LOCK = "polychromic-adapters-", ".lock"


class AdapterStore:
    """A folder in memory for the adapters of one engine; what killed processes left beside it is removed."""

    def __init__(self, parent: str | None, *, shared: bool) -> None:
        """Makes it. parent: where, memory where None; shared: whether other users' processes read it."""
        memory = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
        place = Path(parent) if parent else memory
        try:
            _remove_abandoned(place)
            self.root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        except OSError as error:
            raise EngineError(
                f"sampling.adapter_folder: {place} cannot be written ({error.strerror}); name a folder that can"
            ) from error
        if shared:
            self.root.chmod(0o755)
        self._lock = (self.root / _LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def save(self, language_model: LanguageModel, name: str) -> Path:
        """Writes the model's adapter as it is now and returns its folder."""
        folder = self.root / name
        save_adapter(language_model.model, folder)  # type: ignore[arg-type]
        return folder

    def remove(self, name: str) -> None:
        """Deletes the folder of an adapter."""
        shutil.rmtree(self.root / name, ignore_errors=True)

    def clear(self) -> None:
        """Deletes the folders of all adapters."""
        for folder in self.root.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Deletes all."""
        shutil.rmtree(self.root, ignore_errors=True)
        self._lock.close()


def _remove_abandoned(place: Path) -> None:
    """Removes folders whose process is gone: memory they take up is never given back otherwise."""
    for folder in place.glob(f"{_PREFIX}*"):
        try:
            with (folder / _LOCK).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # held, another user's, or not locked yet
            continue
