"""Where the program stands in an answer to a code task."""

import pytest

from polychromic.tasks.code.judging import extracted

CODE = "def f(x):\n    return x"


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{CODE}\n```",
        f"Here:\n```\n{CODE}\n```\nDone.",
        f"Answer: ```python\n{CODE}\n```",
        f"It uses `x`: ```\n{CODE}\n```",
        f"```python\n{CODE}",
        # Past bugs: each of these was taken for no Python, or for what stands between two blocks.
        f"Sure:\r\n```python\r\n{CODE}\r\n```\r\n".replace(CODE, CODE.replace("\n", "\r\n")),
        f"Install:\n```bash\npip install x\n```\nThen:\n```python\n{CODE}\n```",
        f"It prints\n```text\n1\n```\nand is\n```\n{CODE}\n```",
        f"It prints\n```\n1\n```\nand is\n```python\n{CODE}\n```",
        f"```Python\n{CODE}\n```",
        f"```python3.12\n{CODE}\n```",
        f"```python title='f.py'\n{CODE}\n```",
        f"```{{.python}}\n{CODE}\n```",
        f"~~~python\n{CODE}\n~~~",
        f"````python\n{CODE}\n````",
        "1. Write\n\n   ```python\n   def f(x):\n       return x\n   ```\n2. Done.",
        "- ```python\n  def f(x):\n      return x\n  ```",
        f"Put it in ``` fences, ```so```:\n```python\n{CODE}\n```",
    ],
)
def test_the_program_of_an_answer_is_its_block_of_python(text):
    assert extracted(text) == CODE


def test_an_indented_fence_within_a_block_does_not_end_it():
    code = 'def f(x):\n    """\n    ```\n    f(1)\n    ```\n    """\n    return x'
    assert extracted(f"```python\n{code}\n```") == code


def test_a_text_without_a_block_of_python_is_taken_whole():
    for text in ("    return x", CODE, "```bash\nls\n```", "no `code` at all"):
        assert extracted(text) == text


@pytest.mark.parametrize(
    "text",
    [
        f"For example:\n```python\nf(1)\n```\nThe function:\n```python\n{CODE}\n```",
        f"```python\ndef g(x):\n    return f(x)\n```\nuses\n```\n{CODE}\n```",
        f"```python\n{CODE}\n```\nand so\n```python\nf(1)\n```",
    ],
)
def test_of_several_blocks_the_one_that_tests_call_is_taken(text):
    """Past bug: the first one was, which may be an example."""
    assert extracted(text, {"f"}) == CODE


def test_an_assignment_defines_too():
    assert extracted("```python\nf(1)\n```\n```python\nf = len\n```", {"f"}) == "f = len"


@pytest.mark.parametrize("begun", [f"{CODE}\n", "    return x\n", "\treturn x\n", "n = int(input())\nprint(n)\n"])
@pytest.mark.parametrize("rest", ["```", "```\n\nThis returns x.", "```\nAnother way:\n```python\nf = id\n```"])
def test_an_answer_that_began_within_a_block_ends_with_it(begun, rest):
    """Past bug: of an answer to a prompt that ends with an opening fence, the words behind it were taken for code."""
    assert extracted(begun + rest) == begun


@pytest.mark.parametrize("words", ["Answer", "Here you are:", "It is simple."])
def test_words_before_a_block_are_no_program(words):
    assert extracted(f"{words}\n```\n{CODE}\n```") == CODE
