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
