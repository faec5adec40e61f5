"""A chat template is a program of somebody else's: it is tried in a process of its own before it is used here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from polychromic.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CPU_SECONDS = 10
_PATIENCE = 300.0  # seconds until even a busy machine has started Python and imported the renderer
_MEMORY_BYTES = 4 << 30

# What the template says of the conversation is no fault here: it is said where it is used.
_CHILD = """
import json, resource, sys
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template
asked = json.load(sys.stdin)
used = resource.getrusage(resource.RUSAGE_SELF)
limit = 1 + int(used.ru_utime + used.ru_stime) + asked["seconds"]
resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
resource.setrlimit(resource.RLIMIT_AS, (asked["bytes"], asked["bytes"]))
try:
    render_jinja_template([asked["conversation"]], chat_template=asked["template"], **asked["variables"])
except TemplateError:
    pass
"""
_CONVERSATION = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"})


def require_template_ends(
    place: str, tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any], *, seconds: int = _CPU_SECONDS
) -> None:
    """Raise ModelError where a tokenizer's chat template does not end within `seconds` of computing, takes up 4 GB, or
    fails, on two short turns. place: what the message begins with."""
    if not tokenizer.chat_template:
        return
    variables = {**tokenizer.special_tokens_map, **options}
    failure = _failure(tokenizer.get_chat_template(), json.dumps(variables, default=str), seconds)
    if failure:
        raise ModelError(
            f"{place}: the tokenizer's chat template {failure} on a conversation of two short turns; take the "
            "template that the model was published with (chat_template.jinja or tokenizer_config.json)"
        )


@cache
def _failure(template: str, variables: str, seconds: int) -> str:
    """How the template fails, in words; empty where it ends. Asked once a process."""
    asked = {"template": template, "variables": json.loads(variables), "conversation": _CONVERSATION}
    asked |= {"seconds": seconds, "bytes": _MEMORY_BYTES}
    try:
        child = subprocess.run(
            [sys.executable, "-c", _CHILD], input=json.dumps(asked), capture_output=True, text=True,
            errors="replace", timeout=_PATIENCE, check=False, env=os.environ | {"USE_TORCH": "0"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "did not end"
    if child.returncode < 0:
        return f"did not end within {seconds} s"
    last_words = child.stderr.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
    return f"failed ({last_words[0][:200]})" if child.returncode else ""
