"""Puzzles: sample answers pass, traces of a score do not, and one solution has one form however it is written."""

import json
import random
import re
from fractions import Fraction  # noqa: F401  # for what is evaluated

import pytest

from polychromic import run
from polychromic.errors import ConfigError
from polychromic.records import Prompt, as_messages
from polychromic.tasks.expressions import parse_signed, value
from polychromic.tasks.puzzles import PuzzleTask, answer_in, form_of

SIZES = {"train": 4, "validation": 2, "test": 3}
FOUR = {"min_numbers": 4, "max_numbers": 4, "min_value": 1, "max_value": 9, "min_target": 1, "max_target": 20}
DATASETS = [
    "countdown",
    "puzzle24",
    "n_queens",
    "word_ladder",
    "jugs",
    "palindrome_generation",
    "knight_swap",
]


def scored(prompt, text):
    from polychromic.tasks.puzzle_scorer import scored

    return scored(prompt, text)


@pytest.fixture(scope="module")
def reasoning_gym():
    return pytest.importorskip("reasoning_gym", reason="the extra polychromic[puzzles] is not installed")


@pytest.mark.usefixtures("reasoning_gym")
@pytest.mark.filterwarnings("default")  # the package's own
class TestWithThePackage:
    @pytest.mark.parametrize("dataset", DATASETS)
    def test_sample_answers_pass_and_a_trace_of_a_score_does_not(self, dataset):
        task = PuzzleTask(dataset, SIZES)
        prompts = task.prompts("test")
        texts = [f"It is\n<answer>{prompt.references[0]}</answer>" for prompt in prompts]
        assert [scored(prompt, text) for prompt, text in zip(prompts, texts, strict=True)] == [1.0] * 3
        assert scored(prompts[0], "I do not know") == 0.0

    def test_the_task_asks_a_process_of_its_own(self):
        task = PuzzleTask("countdown", SIZES)
        prompts = task.prompts("test")
        checks = task.check(prompts, [prompts[0].references[0], "1+", prompts[2].references[0]])
        assert [check.reward for check in checks] == [1.0, 0.0, 1.0]

    def test_splits_share_no_question_and_come_again_from_their_seed(self):
        first, again = PuzzleTask("palindrome_generation", SIZES), PuzzleTask("palindrome_generation", SIZES)
        questions = [prompt.text for split in SIZES for prompt in first.prompts(split)]
        assert len(set(questions)) == 9
        assert questions == [prompt.text for split in SIZES for prompt in again.prompts(split)]

    def test_a_coloring_without_a_sample_answer_is_scored(self):
        [prompt, *_] = PuzzleTask("graph_color", SIZES).prompts("test")
        import reasoning_gym

        entry = reasoning_gym.create_dataset("graph_color", size=36, seed=0)[prompt.meta["index"]]
        right = json.dumps({str(k): v for k, v in entry["metadata"]["possible_answer"].items()})
        wrong = json.dumps(dict.fromkeys(json.loads(right), 1))
        assert (scored(prompt, right), scored(prompt, wrong)) == (1.0, 0.0)

    def test_a_coloring_is_one_whatever_is_said_of_other_vertices(self):
        """Past bug: `{"junk": 1}` beside a right coloring passed, and was another solution each time."""
        task = PuzzleTask("graph_color", SIZES)
        [prompt, *_] = task.prompts("test")
        right = {str(vertex): vertex % 3 for vertex in range(10)}
        texts = [json.dumps({**right, **more}) for more in ({}, {"junk": 1}, {"99": 2}, {"01": 1})]
        assert len({task.cluster(prompt, text) for text in texts}) == 1

    def test_any_four_numbers_are_no_solution_of_puzzle24(self):
        """Past bug: the package's scorer passes 6*4*1*1 for every problem of its own."""
        prompts = PuzzleTask("puzzle24", SIZES).prompts("train")
        assert sum(scored(prompt, text) for prompt in prompts for text in ("6*4*1*1", "8*3*1*1", "(9+9+6)*1")) <= 1

    @pytest.mark.parametrize("dataset", ["n_queens", "binary_matrix", "string_insertion", "polynomial_multiplication"])
    def test_scorers_that_execute_answers_are_given_none_that_call(self, dataset, tmp_path):
        """Past bug: these scorers hand an answer to `eval`, or to sympy's parser, which does."""
        [prompt, *_] = PuzzleTask(dataset, SIZES).prompts("test")
        mark = tmp_path / "mark"
        for text in (f"open({str(mark)!r}, 'w')", f"__import__('pathlib').Path({str(mark)!r}).touch()"):
            assert scored(prompt, text) == 0.0
        assert not mark.exists()
        assert scored(prompt, prompt.references[0]) == 1.0

    def test_a_prompt_may_be_stated(self):
        prompts = PuzzleTask("countdown", SIZES, options=FOUR, prompt="{numbers}={target}:").prompts("test")
        assert all(re.fullmatch(r"\d,\d,\d,\d=\d{1,2}:", prompt.text) for prompt in prompts)
        with pytest.raises(ConfigError, match=r"'sum' is no fact of countdown, expected question, .*numbers"):
            PuzzleTask("countdown", SIZES, prompt="{sum}:").prompts("test")

    def test_a_tiny_model_trains_on_countdown(self, tmp_path):
        """Goes from sampling to the verdict, with the package's own scorer as the reward."""
        few = ["seeds=[0]", "run.preflight=false", "task.train_problems=20", "task.test_problems=4", "training.steps=2",
               "training.prompts_per_step=4", "evaluation.num_prompts=4", "evaluation.num_samples=8",
               "evaluation.untrained=false", "model.adapter.rank=2", "run.workers=1"]  # fmt: skip
        run("experiments/puzzles.yaml", few, out=tmp_path)
        metrics = [
            json.loads(line) for file in tmp_path.rglob("metrics.jsonl") for line in file.read_text().splitlines()
        ]
        rows = [
            json.loads(line) for file in tmp_path.rglob("generations.jsonl") for line in file.read_text().splitlines()
        ]
        assert len(metrics) == 2 * 2
        assert len(rows) == 2 * 4 * 8
        assert {row["reward"] for row in rows} == {0.0, 1.0}
        right = [row for row in rows if row["reward"] == 1.0]
        assert all(row["cluster"] == form_of("countdown", row["text"]) for row in right)

    def test_what_is_not_known_is_named(self):
        with pytest.raises(ConfigError, match=r"task\.dataset: 'count' is not known, expected one of"):
            PuzzleTask("count", SIZES)
        with pytest.raises(ConfigError, match=r"task\.options: countdown does not take them"):
            PuzzleTask("countdown", SIZES, options={"nonsense": 1})
        with pytest.raises(ConfigError, match="different problems of 3000"):
            few = {"train": 1000, "validation": 1000, "test": 1000}
            PuzzleTask("palindrome_generation", few, options={"min_length": 1, "max_length": 1}).prompts("test")


@pytest.mark.usefixtures("reasoning_gym")
@pytest.mark.parametrize("attack", ["__import__('os').system('id')", "9**9**9**9", "2 * * 3", "1//1", "x" * 500])
def test_no_answer_reaches_a_parser_that_executes(attack):
    prompt = Prompt(
        "p", as_messages("?"), (), {"dataset": ("countdown", "{}", 0, 1)}
    )  # no dataset is made: KeyError if it were
    assert scored(prompt, attack) == 0.0


@pytest.mark.parametrize(
    ("dataset", "same", "other"),
    [
        ("countdown", ("94*4 - 61 - 6", "(4*94)-6-61"), "94*4 - (61 + 5)"),
        ("puzzle24", ("10*(8 - 5) - 6", "(8-5)*10-6"), "6*(10 - 8) * 2"),
        ("n_queens", ("_ Q\nQ _", "_Q\n\nQ_\n"), "Q _\n_ Q"),
        ("graph_color", ('{"0": 1, "1": 2, "2": 1}', '{"2": 3, "1": 1, "0": 3}'), '{"0": 1, "1": 2, "2": 2}'),
        ("word_ladder", ("TIPS,TOPS", "tips, tops"), "TIPS,TAPS"),
        ("jugs", ('["fill A", "pour A->B"]', '["fill  A","pour A -> B"]'), '["fill B", "pour B->A"]'),
        ("palindrome_generation", ("oucuo", "OUCUO"), "uocou"),
    ],
)
def test_one_solution_has_one_form(dataset, same, other):
    first, second = (form_of(dataset, text) for text in same)
    assert first == second != form_of(dataset, other)
    if dataset == "jugs":
        assert (
            form_of(dataset, '["fill A please", "pour A->B"]') == first
        )  # past bug: words that the scorer passes over
    unreadable = "" if dataset in ("n_queens", "word_ladder", "palindrome_generation") else "unreadable: "
    assert form_of(dataset, "{[") == f"{unreadable}{{["


def test_the_last_tagged_answer_counts():
    assert answer_in("<answer>1</answer> no, <ANSWER> 2 </ANSWER>") == "2"
    assert answer_in(" 3\n") == "3"


@pytest.mark.parametrize(
    "text",
    [
        "(" * 60 + "94*4 - 61 - 6" + ")" * 60,
        "94\t*\n4 - 61-6",
        "+94*4 - 61 - 6",
        "-(-94*4 + 61 + 6)",
        "(-94)*(-4) - 61 + -6",
        "-6 + 94*4 - +61",
        "94*--4 - (61 + 6)",
        "-(61 - 94*4 + 6)",
    ],
)
def test_brackets_signs_and_white_space_make_no_other_expression(text):
    """Past bug: each of these passed and was a solution of its own, so that coverage could be bought with brackets."""
    assert form_of("countdown", text) == form_of("countdown", "94*4 - 61 - 6")
    assert (
        form_of("countdown", "-3*(2 - 10)")
        == form_of("countdown", "(-3)*-(10 - 2)")
        == form_of("countdown", "3*(10-2)")
    )


def test_signs_are_worked_in_exactly():
    draw = random.Random(0)

    def drawn(depth):
        if not depth or draw.random() < 0.3:
            return draw.choice(["", "", "-", "+", "--"]) + str(draw.randint(1, 9))
        operator = draw.choice(["+", "-", "*", "/"])
        inside = f"{drawn(depth - 1)}{operator}{drawn(depth - 1)}"
        return f"{draw.choice(['', '-'])}({inside})" if draw.random() < 0.6 else inside

    read = 0
    for text in (drawn(3) for _ in range(1000)):
        try:
            expected = eval(re.sub(r"(\d)", r"Fraction(\1)", text))
        except ZeroDivisionError:
            continue
        try:
            assert value(parse_signed(text)) == expected
        except ValueError:  # the expression is minus another one
            assert value(parse_signed(f"-({text})")) == -expected
        read += 1
    assert read > 600


@pytest.mark.parametrize(
    ("dataset", "long", "short"),
    [
        ("word_ladder", "TIPS,TOPS,TAPS,TOPS,TOPE", "TIPS,TOPS,TOPE"),
        ("jugs", '["fill A", "fill A", "empty A", "fill A", "pour A->B", "empty A"]', '["fill A", "pour A->B"]'),
        ("jugs", '["fill B", "empty B", "fill A", "pour A->B", "fill B"]', "['fill A', 'pour A -> B']"),
        ("knight_swap", "No", " no "),
        ("knight_swap", "NO", "no"),
    ],
)
def test_detours_make_no_other_solution(dataset, long, short):
    """Past bug: steps that lead back to where they began made a new solution of an old one, without end."""
    puzzle = {"jug_capacities": [5, 3], "target": 2}
    assert form_of(dataset, long, puzzle) == form_of(dataset, short, puzzle)
    assert form_of("jugs", '["fill B", "pour B->A", "fill B"]', puzzle) != form_of("jugs", '["fill B"]', puzzle)
    assert form_of("jugs", '["spill A"]', puzzle) == 'unreadable: ["spill A"]'


@pytest.mark.usefixtures("reasoning_gym")
def test_a_long_number_is_refused_at_once():
    """Past bug: the pattern tried every division of the digits, for ever."""
    from polychromic.tasks.puzzle_scorer import _EXPRESSION, _FORMULA

    assert not _EXPRESSION.fullmatch("1" * 60 + "!")
    assert not _FORMULA.fullmatch("1" * 2000 + "!")
    assert _FORMULA.fullmatch("exp(2*x)*sin(x)/2.5 + C") and not _FORMULA.fullmatch("exec(x)")
