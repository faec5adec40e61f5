"""Programs drawn at random, and their mirror images: where both have one form, both do the same."""

import ast
import contextlib
import io
import random

from polychromic.tasks.code.forms import canonical_form

HEAD = """
import math
class Box:
    def __init__(self, v): self.v = v
    def get(self):
        self.v += 1
        return self.v
calls = 0
def shown(x):
    print(x)
    return x
def doubled(x): return x * 2 + 1
def counted(x):
    global calls
    calls += x
    return calls
def grown(q):
    q.append(1)
    return len(q)
def added(q):
    q += [1]
    return len(q)
def fact(n): return 1 if n < 2 else n * fact(n - 1)
n, a, t, s, d, box = 4, [5, 1, 4, 2, 6, 3, 1, 1, 9], iter([7, 8, 9, 10]), "banana", {1: 2, 4: 6}, Box(3)
lines = iter("5678")
def read(): return next(lines)
"""
TAIL = "\nprint(n, a, calls, box.v, list(t), d)"
QUIET = ["n", "len(a)", "a[0]", "calls", "3", "-2", "box.v", "sum(a)", "math.sqrt(n)", "abs(n)", "len(d)", "ord(s[0])"]
ACTING = [
    "a.pop()", "next(t)", "shown(n)", "counted(2)", "counted(n)", "grown(a)", "added(a)", "box.get()", "(n := n + 1)",
    "doubled(n)", "fact(n)", "sum(t)", "len(list(t))", "int(read())", "s.count('a')", "sum(map(doubled, a))",
    "sum(map(counted, a))", "sorted(a, key=counted)[0]", "max(a, key=lambda v: counted(v))", "sum(x for x in t)",
    "d.get(1, 5)", "d.setdefault(n, 1)", "d.pop(n, 2)",
]  # fmt: skip
MIRRORED = {ast.Gt: ast.Lt, ast.Lt: ast.Gt, ast.GtE: ast.LtE, ast.LtE: ast.GtE}


def expression(draw, depth):
    if not depth or draw.random() < 0.25:
        return draw.choice(draw.choice([QUIET, ACTING]))
    operator = draw.choice(["*", "*", "==", "!=", "<", ">", "<=", ">=", "+", "-"])
    return f"({expression(draw, depth - 1)} {operator} {expression(draw, depth - 1)})"


def mirrored(draw, program):
    tree = ast.parse(program)
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.BinOp, ast.Compare))]
    for node in draw.sample(nodes, min(len(nodes), 2)):
        if isinstance(node, ast.BinOp):
            node.left, node.right = node.right, node.left
        else:
            kind = type(node.ops[0])
            node.left, node.comparators, node.ops = node.comparators[0], [node.left], [MIRRORED.get(kind, kind)()]
    return ast.unparse(tree)


def printed(program):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            exec(program, {})
        except Exception as error:  # noqa: BLE001 - a program may end with any
            print(type(error).__name__)
    return out.getvalue()


def test_programs_of_one_form_do_the_same():
    """Past bug: of 163 pairs that were one form, 10 printed other things."""
    draw = random.Random(0)
    n_same = n_apart = 0
    for _ in range(250):
        body = [f"print({expression(draw, 2)})" for _ in range(draw.randint(1, 2))]
        program = HEAD + "\n".join([*body, f"n += {draw.choice(['1', 'len(a)', '-n', 'int(counted(1))'])}"]) + TAIL
        other = mirrored(draw, program)
        if canonical_form(program) != canonical_form(other):
            n_apart += 1
            continue
        n_same += ast.unparse(ast.parse(program)) != other
        assert printed(program) == printed(other), other
    assert min(n_same, n_apart) > 50
