"""Finds keys, tokens and passwords in files that are about to leave this machine.

Kinds of keys that have a form of their own are found in every text; assignments such as `password = "…"` in code and
settings only, since the texts of a data set speak of passwords too. What is found is named by file and line, and never
shown beyond its first characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from polychromic.errors import ConfigError

_FORMS: Mapping[str, str] = {
    "a private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a Google API key": r"\bAIza[0-9A-Za-z_-]{35}",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "a Slack token": r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    "a PyPI token": r"\bpypi-[A-Za-z0-9_-]{50,}",
    "an API key": r"\bsk-(?:[a-z0-9]+-){0,3}[A-Za-z0-9_-]{20,}",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]+:[^\s/@'\"{}$<>]{3,}@",
}
_ANY_FORM = re.compile("|".join(f"(?P<f{i}>{form})" for i, form in enumerate(_FORMS.values())))

_ASSIGNED = re.compile(
    r"""(?ix) \b [\w.-]* (?: api[_-]?key | secret(?:[_-]?(?:access[_-]?)?key)? | (?:access|auth|api|bearer)[_-]?token
    | passwd | password | hf[_-]?token | private[_-]?key ) ["']? \s* [:=] \s* ["']? (?P<value> [^\s"',;#}\]]{8,} )"""
)
_BEARER = re.compile(r"(?i)authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic)\s+(?P<value>[A-Za-z0-9+/=._-]{12,})")
_CODE = {".py", ".sh", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".json", ".txt", ".env", ""}

_NAMES = re.compile(
    r"(?i)^(\.env(\..+)?|\.netrc|\.npmrc|\.pypirc|\.git-credentials|credentials(\.json)?|id_(rsa|dsa|ecdsa|ed25519)"
    r"|.+\.(pem|p12|pfx|key|keystore|ppk)|service[_-]?account.*\.json|kubeconfig)$"
)


@dataclass(frozen=True, slots=True)
class Secret:
    """The place of one, in words that do not give it away."""

    file: str
    line: int | None
    """From 1; None where the file's name alone says what it holds."""
    kind: str

    def __str__(self) -> str:
        return f"{self.file}: {self.kind}" if self.line is None else f"{self.file}:{self.line}: {self.kind}"


def require_no_secrets(files: Iterable[tuple[str, bytes]]) -> None:
    """Raises ConfigError that lists every secret in the files, given by name and content."""
    found = [secret for name, content in files for secret in secrets_in(name, content)]
    if found:
        shown = "\n".join(f"  {secret}" for secret in found[:20])
        more = f"\n  and {len(found) - 20} more" if len(found) > 20 else ""
        raise ConfigError(
            f"a bundle leaves this machine, and {len(found)} secret{'s' * (len(found) > 1)} would leave with it:\n"
            f"{shown}{more}\nremove them from the files and read them from environment variables on the rented machine "
            "(HF_TOKEN, WANDB_API_KEY, …); a key that was in a file that others can read should be replaced"
        )


def secrets_in(name: str, content: bytes) -> Iterator[Secret]:
    """Yields the secrets of one file, by its name and line by line; of a binary file by its name alone."""
    path = PurePath(name)
    if _NAMES.match(path.name):
        yield Secret(name, None, "a file of secrets by its name")
    if b"\0" in content[:8192]:
        return
    is_code = path.suffix.lower() in _CODE
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        kind = _kind(line, is_code=is_code)
        if kind:
            yield Secret(name, number, kind)


def _kind(line: str, *, is_code: bool) -> str:
    """Says what kind of secret a line holds, with its first characters; empty where it holds none."""
    match = _ANY_FORM.search(line)
    if match is not None:
        kind = next(kind for i, kind in enumerate(_FORMS) if match[f"f{i}"])
        return f"{kind} ({match[0][:4]}…)"
    if (match := _BEARER.search(line)) and not _is_reference(match["value"]):
        return "an authorization header"
    if is_code:
        for match in _ASSIGNED.finditer(line):
            if not _is_reference(match["value"]) and _looks_random(match["value"]):
                name = match[0].partition(match["value"])[0].strip(" =:\"'")
                return f"a value of {name[:40]!r}"
    return ""


def _is_reference(value: str) -> bool:
    """Tells whether a value stands for a secret that is kept elsewhere, such as `$HF_TOKEN` or `os.environ[…]`."""
    return value.startswith(("$", "<", "{", "%")) or "(" in value or "environ" in value or "getenv" in value


def _looks_random(value: str) -> bool:
    """Tells a key from a word: letters and digits both, or signs that no name has."""
    has_letters, has_digits = any(map(str.isalpha, value)), any(map(str.isdigit, value))
    return (has_letters and has_digits) or any(sign in value for sign in "!@&*+/=")
