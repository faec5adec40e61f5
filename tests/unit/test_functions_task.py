"""Generated functions: every style passes its problem's tests, programs of others do not, splits are apart."""

from dataclasses import replace
from itertools import islice

import pytest

from polychromic.errors import ConfigError
from polychromic.models.loading import load_language_model
from polychromic.models.settings import ModelSettings
from polychromic.records import SamplingParameters
from polychromic.sampling.local import LocalSampler
from polychromic.tasks.base import split_of
from polychromic.tasks.checking.sandbox import Sandbox
from polychromic.tasks.code import CodeTask, functions, judged
from polychromic.tasks.code.forms import canonical_form
from polychromic.tasks.code.functions import SOURCES, Function, make_problems, random_functions
from polychromic.tasks.code.styles import draw_solution, solutions, style_of, styles_of


def passes(code, tests):
    names = {}
    exec(code, names)
    try:
        for test in tests:
            exec(test, names)
    except AssertionError:
        return False
    return True


def drawn(split, n, name="test"):
    return list(islice(random_functions(split, name), n))


def test_every_style_passes_the_tests_of_its_problem():
    """Tests come from what the parts mean, programs from how they are written: each checks the other."""
    wrong = []
    for function, draw in drawn("train", 400):
        code = draw_solution(function, draw)
        wrong += [] if passes(code, function.tests()) else [(function.text, code)]
    assert wrong == []


def test_every_part_is_written_as_it_is_meant():
    for source in SOURCES:
        for keep in source.keeps:
            function = Function(source, keep, None, source.gathers[0])
            assert all(passes(code, function.tests()) for code in solutions(function)), function.text
        for change in source.changes:
            function = Function(source, None, change, source.gathers[0])
            assert all(passes(code, function.tests()) for code in solutions(function)), function.text


def test_a_program_of_another_problem_fails():
    """A few problems are one in meaning: two conditions may leave the same items."""
    functions = [function for function, _ in drawn("train", 120)]
    pairs = [
        (one, other)
        for one in functions
        for other in functions
        if one.text != other.text and one.source is other.source and one.gather is other.gather
    ]
    lenient = [(one.text, other.text) for one, other in pairs if passes(solutions(other)[0], one.tests())]
    assert len(pairs) > 400
    assert len(lenient) <= len(pairs) // 200, lenient


def test_no_constant_passes():
    for function, _ in drawn("train", 200):
        assert len({test.partition(" == ")[2] for test in function.tests()}) >= 3


def test_solutions_are_different_forms_and_the_same_every_time():
    for function, _ in drawn("validation", 20):
        written = solutions(function)
        forms = [canonical_form(code) for code in written]
        assert len(set(forms)) == len(forms) >= 3
        assert written == solutions(function)


def test_a_style_is_told_from_the_program():
    seen = set()
    for function, _ in drawn("train", 200):
        for style, code in zip(styles_of(function), solutions(function), strict=True):
            # Without a lambda there is nothing that a reader would call filter and map.
            named = "other" if style.__name__ == "piped" and "lambda" not in code else style.__name__
            # Digits may be listed by a comprehension on the way.
            assert style_of(code) == named or "[int(d) for d" in code, code
            seen.add(style_of(code))
    assert seen >= {"recursion", "counting", "loop", "piped", "stepwise", "comprehension"}
    assert style_of("def f(:") == "no Python"


def test_a_problem_is_in_one_split_whatever_seed_draws_it():
    texts = {split: {f.text for f, _ in drawn(split, 200, name)} for split in ("train", "test") for name in (0, 1)}
    assert not texts["train"] & texts["test"]
    assert all(split_of("functions", f.text) == "test" for f, _ in drawn("test", 50, 7))


def test_problems_are_distinct_and_repeatable():
    problems = make_problems("test", 50, seed=3)
    assert len({problem.prompt for problem in problems}) == 50
    make_problems.cache_clear()
    assert make_problems("test", 50, seed=3) == problems
    assert make_problems("test", 50, seed=4) != problems


def test_more_problems_than_there_are_is_an_error(monkeypatch):
    one = replace(SOURCES[0], keeps=SOURCES[0].keeps[:3], changes=(None,), gathers=SOURCES[0].gathers[:2])
    monkeypatch.setattr(functions, "SOURCES", (one,))
    with pytest.raises(ConfigError, match="ask for fewer"):
        make_problems("train", 7, seed=0)


def test_every_style_of_one_problem_passes_in_the_sandbox():
    function = next(f for f, _ in drawn("train", 500) if len(styles_of(f)) == 6)
    problem = next(p for p in make_problems("train", 1, 0))
    problem = type(problem)(problem.id, function.text, tuple(function.tests()), "f")
    sandbox = Sandbox()
    try:
        assert all(judged(problem, code, sandbox).passed for code in solutions(function))
        assert not judged(problem, "def f(xs): return None", sandbox).passed
    finally:
        sandbox.close()


def test_the_packaged_model_reads_problems_whole_and_solves_some():
    language_model = load_language_model(ModelSettings(source="polychromic:functions-tiny"))
    tokenizer = language_model.tokenizer
    for function, draw in drawn("validation", 100):
        text, code = function.text, draw_solution(function, draw)
        assert tokenizer.decode(tokenizer.encode(text + code)) == text + code
        assert len(tokenizer.encode(code)) < 80
    problems = {"validation": make_problems("validation", 8, 0)}
    task = CodeTask("functions", problems)
    prompts = task.prompts("validation")
    groups = LocalSampler(language_model).sample(prompts, 4, SamplingParameters(max_new_tokens=80), range(8))
    asked = [prompt for prompt in prompts for _ in range(4)]
    checks = task.check(asked, [one.text for group in groups for one in group])
    assert 0 < sum(check.reward for check in checks) < 32
