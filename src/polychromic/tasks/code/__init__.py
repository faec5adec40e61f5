"""Tasks in which a model writes Python and tests decide."""

from polychromic.tasks.code.judging import Verdict, judged
from polychromic.tasks.code.problems import Problem, load_benchmark, load_problems
from polychromic.tasks.code.task import CodeTask

__all__ = ["CodeTask", "Problem", "Verdict", "judged", "load_benchmark", "load_problems"]
