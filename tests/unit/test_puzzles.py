"""Puzzles: sample answers pass, traces of a score do not, and one solution has one form however it is written."""

import json
import re

import pytest

from polychromic import run
from polychromic.errors import ConfigError
from polychromic.records import Prompt, as_messages
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
    unreadable = "" if dataset in ("n_queens", "word_ladder", "palindrome_generation") else "unreadable: "
    assert form_of(dataset, "{[") == f"{unreadable}{{["


def test_the_last_tagged_answer_counts():
    assert answer_in("<answer>1</answer> no, <ANSWER> 2 </ANSWER>") == "2"
    assert answer_in(" 3\n") == "3"
