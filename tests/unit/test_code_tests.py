"""Tests as people write them: pytest's, unittest's, of classes, of errors, of what is changed; and tests that test
nothing."""

import json
import re

import pytest

from polychromic.errors import DataError
from polychromic.tasks.checking.sandbox import Limits, Sandbox, run_isolated
from polychromic.tasks.code import CodeTask, Problem, judged, load_problems
from polychromic.tasks.code.behaviour import behaviour, ordered, probes_of


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


ADD, WRONG = "def add(a, b): return a + b", "def add(a, b): return a - b"
STACK = """
class Stack:
    def __init__(self): self.items = []
    def push(self, x): self.items.append(x); return self
    def pop(self): return self.items.pop()
    def __len__(self): return len(self.items)
    def __contains__(self, x): return x in self.items
    def __getitem__(self, i): return self.items[i]
    def __iter__(self): return iter(self.items)
    def __str__(self): return f"Stack of {len(self.items)}"
"""
# Past bugs: of each of these the wrong answer passed, or the right one failed.
TESTS = {
    "functions of pytest": ("def test_sum():\n    assert add(1, 2) == 3", ADD, WRONG),
    "pytest's parametrize": (
        "import pytest\n@pytest.mark.parametrize('a, b, c', [(1, 2, 3), pytest.param(2, 2, 4)])\n"
        "def test_sum(a, b, c):\n    assert add(a, b) == c",
        ADD,
        "def add(a, b): return 3",
    ),
    "a class of pytest": ("class TestSum:\n    def test_sum(self):\n        assert add(1, 2) == 3", ADD, WRONG),
    "unittest": (
        "import unittest\nclass SumTest(unittest.TestCase):\n    def setUp(self):\n        self.one = 1\n"
        "    def test_sum(self):\n        self.assertEqual(add(self.one, 2), 3)\n"
        "unittest.main()",
        ADD,
        WRONG,
    ),
    "HumanEval's without the call": ("def check(candidate):\n    assert candidate(1, 2) == 3", ADD, WRONG),
    "an import of the candidate": ("from solution import add as plus\nassert plus(1, 2) == 3", ADD, WRONG),
    "pytest.raises": (
        "import pytest\nwith pytest.raises(ValueError, match='small') as raised:\n    add(-1, 2)\n"
        "assert str(raised.value) == 'too small'",
        "def add(a, b): raise ValueError('too small')",
        "def add(a, b): raise TypeError('too small')",
    ),
    "try and except": (
        "try:\n    add(-1, 2)\n    assert False\nexcept ZeroDivisionError:\n    pass",
        "def add(a, b): return 1 / 0",
        ADD,
    ),
    "a subclass of an error": (
        "import pytest\nwith pytest.raises(LookupError):\n    add(1, 2)",
        "class Missing(KeyError): pass\ndef add(a, b): raise Missing(a)",
        ADD,
    ),
    "a class": (
        "s = Stack()\ns.push(1).push(2)\nassert len(s) == 2 and 2 in s and s[0] == 1 and list(s) == [1, 2]\n"
        "assert str(s) == 'Stack of 2' and s.items == [1, 2] and s.pop() == 2 and not Stack() and s",
        STACK,
        STACK.replace("pop()", "pop(0)"),
    ),
    "a solution's method": (
        "assert Solution().add(1, 2) == 3",
        "class Solution:\n    def add(self, a, b): return a + b",
        "class Solution:\n    def add(self, a, b): return a - b",
    ),
    "objects that functions give": (
        "head = turned(Node(1, Node(2)))\nassert head.val == 2 and head.next.val == 1 and head.next.next is None",
        "class Node:\n    def __init__(self, val, next=None): self.val, self.next = val, next\n"
        "def turned(a):\n    b = None\n    while a: a.next, b, a = b, a, a.next\n    return b",
        "class Node:\n    def __init__(self, val, next=None): self.val, self.next = val, next\n"
        "def turned(a): return a",
    ),
    "attributes that tests set": (
        "root = Node(1)\nroot.left, root.right = Node(2), Node(3)\nroot.left.left = Node(4)\nassert depth(root) == 3",
        "class Node:\n    def __init__(self, val): self.val, self.left, self.right = val, None, None\n"
        "def depth(a): return 1 + max(depth(a.left), depth(a.right)) if a else 0",
        "class Node:\n    def __init__(self, val): self.val, self.left, self.right = val, None, None\n"
        "def depth(a): return 2",
    ),
    "bytes that may change": (
        "assert add(b'a', b'b') == b'ab'",
        "def add(a, b): return bytearray(a + b)",
        "def add(a, b): return bytearray(b + a)",
    ),
    "what is changed": (
        "xs = [3, 1]\nadd(xs, 2)\nassert xs == [1, 2, 3]",
        "def add(a, b):\n    a.append(b)\n    a.sort()",
        "def add(a, b): return sorted([*a, b])",
    ),
    "what a method changes": (
        "d = {1: 2}\nSolution().add(d, 3)\nassert d == {1: 2, 3: 3}",
        "class Solution:\n    def add(self, a, b): a[b] = b",
        "class Solution:\n    def add(self, a, b): return {**a, b: b}",
    ),
    "numbers of numpy": (
        "assert add(1, 2) == 3 and add(1, 2) is not None",
        "import numpy\ndef add(a, b): return numpy.array([a, b]).sum()",
        "import numpy\ndef add(a, b): return numpy.array([a, b]).max()",
    ),
    "a truth of numpy": (
        "assert add(1, 2) is True or add(1, 2) == True",
        "import numpy\ndef add(a, b): return numpy.int64(a) < b",
        "import numpy\ndef add(a, b): return numpy.int64(a) > b",
    ),
    "fractions": (
        "assert add(1, 2) == 1.5",
        "from fractions import Fraction\ndef add(a, b): return Fraction(3, 2)",
        "from fractions import Fraction\ndef add(a, b): return Fraction(3, 4)",
    ),
    "decimal numbers": (
        "from decimal import Decimal\nassert add(Decimal('1.1'), 2) == Decimal('3.1')",
        ADD,
        WRONG,
    ),
    "a coroutine": (
        "import asyncio\nassert asyncio.run(add(1, 2)) == 3\nasync def both():\n"
        "    return await add(1, 2), await asyncio.gather(add(2, 2), add(3, 3))\n"
        "assert asyncio.run(both()) == (3, [4, 6])",
        "import asyncio\nasync def add(a, b):\n    await asyncio.sleep(0)\n    return a + b",
        "async def add(a, b): return a - b",
    ),
    "a function of Python's own": ("assert add([1], len) == 1", "def add(a, b): return b(a)", "def add(a, b): pass"),
    "a function of the answer's own": (
        "assert add(3, one) == 4",
        "def one(): return 1\ndef add(a, b): return a + b()",
        "def one(): return 2\ndef add(a, b): return a + b()",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TESTS)
def test_the_right_answer_passes_and_the_wrong_one_does_not(sandbox, kind):
    test, right, wrong = TESTS[kind]
    problem = Problem("p", "", (test,), "add" if "check" in test else None)
    assert judged(problem, right, sandbox).reason == ""
    assert not judged(problem, wrong, sandbox).passed


# What an object claims is believed of no function's value.
CLAIMS = {
    "a method of a text": ("assert add(1, 2).isdigit()", "class A:\n    def isdigit(self): return True"),
    "a length": ("assert len(add(1, 2)) == 3", "class A:\n    def __len__(self): return 3"),
    "what it holds": ("assert 3 in add(1, 2)", "class A:\n    def __contains__(self, x): return True"),
    "equality": ("assert add(1, 2) == 3", "class A:\n    def __eq__(self, x): return True"),
    "equality of an object": ("assert A() == 3", "class A:\n    def __eq__(self, x): return True"),
    "equality of an attribute": ("assert A().one == 3", "class A:\n    @property\n    def one(self): return A()\n"
                                 "    def __eq__(self, x): return True"),
    "the arguments": ("xs = [2, 1]\nassert add(xs, 0) == sorted(xs)", "class A: pass\ndef take(a, b):\n    a.clear()\n"
                      "    return a\n"),
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_an_answer_claims_is_not_believed(sandbox, claim):
    test, code = CLAIMS[claim]
    code += "\ndef add(a, b): return take(a, b) if 'take' in globals() else A()"
    assert not judged(Problem("p", "", (test,)), code, sandbox).passed


@pytest.mark.parametrize(
    ("tests", "told"),
    [
        (["assert sum([1, 2]) == 3"], "tests call nothing that an answer defines"),
        (["assert True"], "tests call nothing that an answer defines"),
        (["import nowhere_at_all\nassert add(1, 2) == 3"], "tests import nowhere_at_all, which is not installed here"),
        (["from my_answer.code import add\nassert add(1, 2) == 3"], "imported from solution"),
        (["def test_add(tmp_path):\n    assert add(1, 2) == 3"], "test_add takes tmp_path, which nothing gives"),
    ],
)
def test_tests_that_say_the_same_of_every_answer_are_refused(tmp_path, tests, told):
    """Past bug: of the first two every answer passed, an empty one too; of the others none did, or every one."""
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"prompt": "p", "tests": tests}) + "\n")
    with pytest.raises(DataError, match=told):
        load_problems(file)


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ("def late():\n    assert add(1, 2) == 3", "test not run: no test calls what an answer defines"),
        ("assert add(lambda: 1, 2) == 3", "test not run: a test passes a function to the code, which is no plain data"),
        ("assert np.sum(add(1, 2)) == 3", r"wrong answer \(AttributeError: the tests ask np for .sum; .* import what"),
        ("assert add(1, 2)[0] == 3", r"wrong answer \(TypeError: 'int' object is not subscriptable\)"),
    ],
)
def test_the_reason_names_a_test_that_is_at_fault(sandbox, test, told):
    """Past bug: "wrong answer (TypeError)", or a pass."""
    verdict = judged(Problem("p", "", (test,)), ADD, sandbox)
    assert not verdict.passed
    assert re.search(told, verdict.reason)


def test_what_setup_prints_is_not_shown(sandbox, capfd):
    problem = Problem("p", "", ("print(add(1, 2))\nassert add(1, 2) == 3",), setup="print('hello')")
    assert judged(problem, ADD, sandbox).passed
    assert capfd.readouterr() == ("", "")


FORGED = """
import os
def add(a, b):
    for fd in range(3, 64):
        try: os.write(fd, b'{"value": %s, "raised": null}\\n')
        except OSError: pass
"""


@pytest.mark.parametrize(
    "code",
    [
        "def add(a, b): return 10**5000",
        FORGED % '{"handle": [Infinity, "int"]}',
        FORGED % ('{"complex": [1' + "0" * 400 + ", 0]}"),
        FORGED % '{"decimal": "1e999999999"}',
        FORGED % '{"fraction": ["1", "0"]}',
    ],
)
def test_no_value_ends_a_run_that_compares_behaviour(sandbox, code):
    """Past bugs: a number of more than 4,300 digits, and two forged values, were ValueError and OverflowError."""
    problem = Problem("p", "", ("assert add(1, 2) == 3",))
    assert behaviour(problem, code, probes_of(problem, sandbox), sandbox)
    assert not judged(problem, code, sandbox).passed


def test_isolated_code_cannot_forge_an_exception():
    words = (
        '{"answers": [{"value": {"complex": [1' + "0" * 400 + ', 0]}, "error": null}], "printed": "", "error": null}'
    )
    code = f"import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'{words}\\n')\n    except OSError: pass"
    assert run_isolated(code, ["1"]).errors == ("the code wrote something else in place of its outcome",)


def test_numbers_of_libraries_are_values_of_isolated_code():
    done = run_isolated("import numpy, fractions", ["numpy.int64(3)", "fractions.Fraction(1, 2)", "numpy.array([1])"])
    assert done.values == (3, 0.5, None)


def test_iterators_are_one_by_what_they_give(sandbox):
    """Past bug: each was another behaviour, by the place in memory where it lay, and another one in every run."""
    problem = Problem("p", "", ("assert list(f([1, 2])) == [1, 2]",))
    probes = probes_of(problem, sandbox)
    codes = ["def f(a): return map(int, a)", "def f(a): return (int(x) for x in a)", "def f(a): return iter(a[:1])"]
    first, second, other = (behaviour(problem, code, probes, sandbox) for code in codes)
    assert first == second != other
    later = [f"async def f(a): return a[:{n}]" for n in (1, 1, 2)]
    first, second, other = (behaviour(problem, code, probes, sandbox) for code in later)
    assert first == second != other
    assert ordered(iter([{1}])) == "iterator(set(['1']))"


def test_behaviour_is_refused_where_tests_show_objects_alone():
    """What a class makes is no value, so that all programs would be one."""
    stack = Problem("p", "", ("s = Stack()\ns.push(1)\nassert s.pop() == 1",), solutions=(STACK,))
    named = Problem("p", "", ("def check(candidate):\n    assert candidate(1, 2) == 3\ncheck(add)",), "add")
    for problem in (stack, named):
        with pytest.raises(DataError, match="show none"):
            CodeTask("code", {"test": [problem]}, same_answer="behaviour")


@pytest.mark.parametrize(
    "code", ["", "x = 1", "import os\ndef add(a, b): os._exit(0)", "def add(a, b):\n    while True: pass"]
)
@pytest.mark.parametrize("kind", ["Exception", "KeyError", "NameError"])
def test_no_error_that_a_test_expects_is_that_of_an_answer_that_is_not_there(sandbox, code, kind):
    test = f"try:\n    add(1, 2)\nexcept {kind}:\n    pass\nelse:\n    assert False"
    assert not judged(Problem("p", "", (test,)), code, sandbox, Limits(seconds=1.0)).passed
    assert judged(Problem("p", "", (test,)), f"def add(a, b): raise {kind}('x')", sandbox).passed


def test_what_a_program_makes_of_its_arguments_is_its_behaviour(sandbox):
    """Past bug: of functions that give nothing all were one, right and wrong."""
    problem = Problem("p", "", ("xs = [3, 1]\norder(xs)\nassert xs == [1, 3]",), solutions=("def order(a): a.sort()",))
    probes = probes_of(problem, sandbox)
    assert probes[0] == ("order", ([3, 1],))
    codes = [
        "def order(a): a.sort()",
        "def order(a): a[:] = sorted(a)",
        "def order(a): a.reverse()",
        "def order(a): pass",
    ]
    done = [behaviour(problem, code, probes, sandbox) for code in codes]
    assert done[0] == done[1] and len(set(done)) == 3
