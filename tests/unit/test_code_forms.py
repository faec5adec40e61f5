"""The canonical form of programs: pairs that one form would make the same wrongly, and pairs that are one."""

import pytest

from polychromic.tasks.code import CodeTask, Problem
from polychromic.tasks.code.forms import canonical_form

# Past bugs: each of these pairs was one program, and the two do other things.
APART = {
    "what is read first": (
        "print('Y' if int(input()) > int(input()) else 'N')",
        "print('Y' if int(input()) < int(input()) else 'N')",
    ),
    "what is taken off first": ("def f(a): return a.pop() * len(a)", "def f(a): return len(a) * a.pop()"),
    "an iterator": (
        "def f(a):\n    t = iter(a)\n    return next(t) == max(t)",
        "def f(a):\n    t = iter(a)\n    return max(t) == next(t)",
    ),
    "an iterator that is summed": (
        "def f(a):\n    t = map(int, a)\n    return sum(t) > len(list(t))",
        "def f(a):\n    t = map(int, a)\n    return len(list(t)) < sum(t)",
    ),
    "what is printed first": (
        "def g(x):\n    print(x)\n    return x\nprint(g(1) == g([2]))",
        "def g(x):\n    print(x)\n    return x\nprint(g([2]) == g(1))",
    ),
    "what is assigned on the way": ("def f(a): return (y := len(a)) * y", "def f(a): return y * (y := len(a))"),
    "what is changed from within": (
        "n = 2\ndef g():\n    global n\n    n += 1\n    return n\nprint(n * g())",
        "n = 2\ndef g():\n    global n\n    n += 1\n    return n\nprint(g() * n)",
    ),
    "a method of its own that acts": (
        "class A:\n    def count(self):\n        self.n = 1\n        return 1\ndef f(a): return a.count() * len(a.b)",
        "class A:\n    def count(self):\n        self.n = 1\n        return 1\ndef f(a): return len(a.b) * a.count()",
    ),
    "keywords of a class": (
        "class P:\n    def __init__(self, a, b): self.lo = a\ndef f(): return P(a=1, b=2).lo",
        "class P:\n    def __init__(self, b, a): self.lo = b\ndef f(): return P(a=1, b=2).lo",
    ),
    "keywords of partial": (
        "from functools import partial\ndef g(a, x): return a - x\ndef f(): return partial(g, x=1)(5)",
        "from functools import partial\ndef g(x, a): return x - a\ndef f(): return partial(g, x=1)(5)",
    ),
    "keywords that are collected": (
        "def g(**k): return k\ndef f(): return g(k=1)",
        "def g(**m): return m\ndef f(): return g(m=1)",
    ),
    "a field and an attribute": (
        "@dataclass\nclass A:\n    x: int = 1\ndef f(): return A(5).x",
        "@dataclass\nclass A:\n    x = 1\ndef f(): return A(5).x",
    ),
    "its own names": ("def f(x): return eval('x')", "def f(y): return eval('x')"),
    "its own docstring": ("def f():\n    'x'\n    return f.__doc__", "def f():\n    'y'\n    return f.__doc__"),
    "its own annotations": ("def f(x: int): return f.__annotations__", "def f(x): return f.__annotations__"),
}  # fmt: skip
# Past bugs, but for the first four: each of these pairs was two programs.
SAME = {
    "a factor before a call": ("def f(n): return n * f(n - 1)", "def f(n): return f(n - 1) * n"),
    "lengths": ("def f(a): return len(a) > max(a)", "def f(b): return max(b) < len(b)"),
    "a reversed text": ("def f(s): return s.lower() == s[::-1]", "def f(s): return s[::-1] == s.lower()"),
    "a function of a library": (
        "import math\ndef f(n): return math.sqrt(n) * len(n)",
        "import math as m\ndef f(n): return len(n) * m.sqrt(n)",
    ),
    "two names": ("def f(a, b): return a * b", "def f(x, y): return y * x"),
    "two names that are compared": ("def f(a, b): return a == b", "def f(a, b): return b == a"),
    "an import for annotations": ("from typing import List\ndef f(a: List[int]): return a", "def f(a): return a"),
    "an import that is not used": ("import os, math\ndef f(): return math.pi", "import math\ndef f(): return math.pi"),
    "an import twice": ("import math\nimport math\ndef f(): return math.pi", "import math\ndef f(): return math.pi"),
    "a function that is made anew": (
        "def f(a):\n    '''Doc.'''\n    pass\n\ndef f(b):\n    return b",
        "def f(a):\n    '''Doc.'''\n    return a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("pair", APART)
def test_programs_that_do_other_things_have_two_forms(pair):
    first, second = map(canonical_form, APART[pair])
    assert first is not None and second is not None and first != second


@pytest.mark.parametrize("pair", SAME)
def test_programs_that_differ_in_what_does_nothing_have_one(pair):
    first, second = map(canonical_form, SAME[pair])
    assert first is not None and first == second


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("import nowhere\ndef f(a): return a", "def f(a): return a"),
        ("import this\ndef f(a): return a", "def f(a): return a"),
        ("def f(a): return 1\nx = f(2)\ndef f(a): return a", "x = f(2)\ndef f(a): return a"),
        ("def f(): return 1\ndef g(b=f()): return b\ndef f(): return 2", "def g(b=f()): return b\ndef f(): return 2"),
        ("@cache\ndef f(a): return 1\ndef f(a): return a", "def f(a): return a"),
        ("import math\nmath = 3\nimport math\nprint(math)", "import math\nmath = 3\nprint(math)"),
        ("def f(a):\n    return a\n    yield a", "def f(a):\n    return a"),
        ("n = 1\ndef f(): return n\n", "n = 1\ndef f():\n    return n\n    n = 2\n"),
        ("def f(a):\n    if a:\n        return 1\n    return 2", "def f(a):\n    if a:\n        return 1"),
        ("def f(a):\n    while a:\n        a -= 1\n    return a", "def f(a):\n    while a:\n        a -= 1"),
        ("def f(a):\n    while True:\n        break\n    return a", "def f(a):\n    while True:\n        break"),
    ],
)  # fmt: skip
def test_what_does_something_is_not_dropped(first, second):
    assert canonical_form(first) != canonical_form(second)


@pytest.mark.parametrize(
    ("head", "behind"),
    [
        ("def f(a):\n    kept = a\n    return kept", "\n    return a"),
        ("def f(a):\n    b = a\n    return b", "\n    # b = a\n    b = b.count(1)\n    return b"),
        ("def f(a):\n    kept = a\n    return kept", "\n    def g(): return 1\n    for x in a:\n        g()"),
        ("def f(a):\n    kept = a\n    return kept", "\n    'and so on'\n    7"),
        ("def f(a):\n    if a:\n        return 1\n    else:\n        raise ValueError", "\n    return 3"),
        ("def f(a):\n    for x in a:\n        if x:\n            break", "\n            print(x)"),
        ("def f(a):\n    for x in a:\n        continue", "\n        a = x"),
        ("def f(a):\n    while True:\n        if a():\n            return 1", "\n    return 2"),
        ("def f(a):\n    'Doc.'\n    return a", "\n    'Doc.'"),
        ("def f(a):\n    return a\nraise SystemExit", "\nprint(f(1))"),
    ],
)  # fmt: skip
def test_what_is_never_reached_makes_no_other_program(head, behind):
    """Past bug: `coverage` taught a model to write on behind its `return`, where every line was another approach."""
    assert canonical_form(head + behind) == canonical_form(head)


ONE, TWO = "def one(x): return 2 * x\ndef two(x): return x + x", "def two(x): return 2 * x\ndef one(x): return x + x"


def test_which_function_is_called_by_the_tests_counts():
    """Past bug: of two functions, either of which may be the one that is asked for, the form did not know which."""
    assert canonical_form(ONE) == canonical_form(TWO)
    assert canonical_form(ONE, {"one"}) != canonical_form(TWO, {"one"})
    assert canonical_form(ONE, {"one"}) == canonical_form(ONE.replace("two", "twice"), {"one"})
    task = CodeTask("code", {"test": [Problem("p", "Double.", ("assert one(2) == 4",))]})
    [prompt] = task.prompts("test")
    assert task.cluster(prompt, ONE) != task.cluster(prompt, TWO)


def test_an_answer_that_continues_and_one_that_begins_anew_are_one():
    """Past bug: the same solution was two where one answer repeated the function's head, or the imports."""
    opening = 'from typing import List\n\n\ndef add(a: int, b: int) -> int:\n    """Adds."""\n'
    problem = Problem("p", opening, ("assert add(1, 2) == 3",), "add", opening=opening)
    task = CodeTask("code", {"test": [problem]})
    [prompt] = task.prompts("test")
    texts = [
        "    return a + b\n",
        "def add(a, b):\n    return a + b",
        f"```python\n{opening}    return a + b\n```",
        "```python\nfrom typing import List, Tuple\nimport math\n\ndef add(x, y):\n    # adds\n    return x + y\n```",
    ]
    assert [check.reward for check in task.check([prompt] * 4, texts)] == [1.0] * 4
    assert len({task.cluster(prompt, text) for text in texts}) == 1
