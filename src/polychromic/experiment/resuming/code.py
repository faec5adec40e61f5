"""Finds the source files of a user's own code: what is named in an experiment file, and what that imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from polychromic.files import sha256_file


def checker_code(name: str) -> dict[str, str]:
    """Hashes a checker's source file and what it imports from its own folder (or the current one), by relative
    path; empty for a built-in checker. Imports are read off the source, which is not run: one that is made while
    running is not seen, nor is a file that the code opens."""
    files, roots = code_files(name)
    return {_relative(file, roots): sha256_file(file) for file in files}


def code_files(name: str) -> tuple[list[Path], list[Path]]:
    """Lists the source file of a checker and what it imports (see `checker_code`), and the folders that it may import
    from."""
    start, roots = _place_of_code(name.rpartition(":")[0])
    found: set[Path] = set()
    waiting = [start] if start else []
    while waiting:
        file = waiting.pop()
        if file not in found and file.is_file():
            found.add(file)
            waiting += _imports_beside(file, roots)
    return sorted(found), roots


def _place_of_code(place: str) -> tuple[Path | None, list[Path]]:
    """Finds the source file of a checker's file or module, and the folders that it may import from."""
    if place.endswith(".py"):
        return Path(place), [Path(place).parent, Path.cwd()]
    spec = find_spec(place.partition(".")[0]) if place else None
    if spec is None or spec.origin is None:
        return None, []
    top = Path(spec.origin)
    root = top.parent.parent if top.name == "__init__.py" else top.parent
    return (list(_modules(place, [root])) or [None])[-1], [root]


def _imports_beside(file: Path, roots: Sequence[Path]) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _modules(alias.name, roots)
        elif isinstance(node, ast.ImportFrom):
            places = [file.parents[node.level - 1]] if node.level else roots
            for name in [node.module, *(f"{node.module or ''}.{alias.name}" for alias in node.names)]:
                yield from _modules((name or "").strip("."), places)


def _modules(dotted: str, roots: Sequence[Path]) -> Iterator[Path]:
    """Yields the files of a module and of the packages around it, in the first folder that has the outermost."""
    parts = dotted.split(".")
    for root in roots:
        files = []
        for depth in range(1, len(parts) + 1):
            place = root.joinpath(*parts[:depth])
            files += [file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()]
        if files:
            yield from files
            return


def _relative(file: Path, roots: Sequence[Path]) -> str:
    root = next((root for root in roots if file.is_relative_to(root)), None)
    return str(file.relative_to(root) if root else file)
