"""Writes the experiments that ship with the package, with the data that they need."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from polychromic.errors import ConfigError
from polychromic.files import write_text

SHIPPED = Path(__file__).resolve().parents[2] / "shipped"
"""`experiments/` and `data/` of the repository: links there, copies in a wheel."""
EXAMPLES = ("quickstart", "replies", "code")
_CODE = re.compile(r"(?<![\w./])(\w+\.py):\w+")
_DATA = re.compile(r"\.\./(data/([\w.-]+))/[\w.-]+")


def write_example(name: str, path: Path | None, say: Callable[[str], None]) -> Path:
    """Writes the example's experiment file to `path` (`NAME.yaml` unless stated), its data into `data/` beside it, and
    the code that it names.

    Raises ConfigError for an unknown name, and before anything is written where something is in the way.
    """
    if name not in EXAMPLES:
        raise ConfigError(f"--example {name}: no such example; there are {', '.join(EXAMPLES)}")
    path = path or Path(f"{name}.yaml")
    text = (SHIPPED / "experiments" / f"{name}.yaml").read_text(encoding="utf-8")
    folders = dict.fromkeys(match[1] for match in _DATA.finditer(text))
    files = [
        file for file in dict.fromkeys(_CODE.findall(text)) if (SHIPPED / "experiments" / file).is_file()
    ]
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")
    for place in (path, *(path.parent / name for name in (*folders, *files))):
        if place.exists() or place.is_symlink():
            raise ConfigError(f"{place} exists already; name another file in another folder, or move it away")
    try:
        for folder in folders:
            shutil.copytree(SHIPPED / folder, path.parent / folder)
            say(f"wrote {path.parent / folder}/")
        for file in files:
            shutil.copyfile(SHIPPED / "experiments" / file, path.parent / file)
            say(f"wrote {path.parent / file}")
        write_text(path, _DATA.sub(lambda match: match[0].removeprefix("../"), text))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}); name a file in a folder that is there and that you may "
            "write to"
        ) from error
    say(f"wrote {path}")
    return path
