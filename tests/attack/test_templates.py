"""Chat templates that do not end, take up the machine or fail: a sentence, in limited time."""

import shutil

import pytest

from polychromic.errors import ModelError
from polychromic.models.loading import load_tokenizer, require_template_ends
from polychromic.models.settings import ModelSettings
from polychromic.models.sources import resolve_source

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GOOD = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture
def tokenizer():
    return load_tokenizer(ModelSettings(source="polychromic:arithmetic-tiny"))


def refused(tokenizer, template):
    tokenizer.chat_template = template
    with pytest.raises(ModelError) as caught:
        require_template_ends("model.source: X", tokenizer, {}, seconds=1)
    return str(caught.value)


def test_a_template_without_an_end_is_refused(tokenizer):
    """Past bug: preflight, and any run, hung for ever."""
    assert "X: the tokenizer's chat template did not end within 1 s" in refused(tokenizer, LOOP)


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ("{{ 'a' * 99999999999 }}", "MemoryError"),
        ("{{ 1 + 'a' }}", "TypeError: unsupported operand"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ ''.__class__.__mro__ }}{{ nothing.at.all }}", ""),
    ],
)
def test_a_template_that_fails_is_refused_with_its_cause(tokenizer, template, cause):
    if cause:
        assert f"failed ({cause}" in refused(tokenizer, template)
    else:  # jinja's own errors are said where the template is used, with the prompt that it refused
        tokenizer.chat_template = template
        require_template_ends("X", tokenizer, {}, seconds=1)


def test_a_template_that_ends_is_used_as_it_is(tokenizer):
    tokenizer.chat_template = GOOD
    require_template_ends("X", tokenizer, {"enable_thinking": False})


def test_it_is_tried_when_a_tokenizer_is_loaded(tmp_path, monkeypatch):
    model = shutil.copytree(resolve_source("polychromic:arithmetic-tiny"), tmp_path / "model")
    (model / "chat_template.jinja").write_text("{{ 1 + 'a' }}")
    with pytest.raises(ModelError, match=r"model\.source: \S+: the tokenizer's chat template failed"):
        load_tokenizer(ModelSettings(source=str(model)))
