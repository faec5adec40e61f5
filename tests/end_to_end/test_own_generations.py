"""Files of generations compared from the command line, without a model: the example that ships."""

import base64
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

from tests.command import Ending, command

EXAMPLE = Path("examples/own_generations")


def evaluate(*arguments: str) -> Ending:
    return command("evaluate", str(EXAMPLE / "experiment.yaml"), *arguments)


def test_two_files_become_a_report_with_a_frontier_and_a_verdict(tmp_path):
    files = [f"{name}={EXAMPLE / name}.jsonl" for name in ("baseline", "ours")]
    result = evaluate("--generations", *files, "--out", str(tmp_path))
    assert result.code == 0, result.errors
    assert result.output.startswith("evaluate experiment.yaml (polychromic ")
    # The answers are wordings ("How about Saturn?"), which spelling counts, and this is said before the verdict.
    assert (
        "\nWhich answers count as the same is decided badly here. Yes: ours does what was asked of it." in result.output
    )
    folder = tmp_path / "own-generations"
    comparison = json.loads((folder / "comparison.json").read_text())
    assert comparison["primary_sampling"] == "T=1"
    assert {point["sampling"] for point in comparison["frontier"]} == {"T=1", "T=0.7"}
    page = (folder / "report.html").read_bytes()
    packed = re.search(rb'id="samples"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert packed is not None
    assert b"Jupiter" in gzip.decompress(base64.b64decode(packed.group(1)))
    rebuilt = command("report", str(folder))
    assert rebuilt.code == 0, rebuilt.errors
    assert (folder / "report.html").read_bytes() == page


def test_the_example_counts_planets_by_a_function_and_wordings_by_spelling(tmp_path):
    """Past bug: "Saturn." and "How about Saturn?" were two right answers: 4 planets against 5 counted as 5 and 10."""
    files = [f"{name}={EXAMPLE / name}.jsonl" for name in ("baseline", "ours")]
    counted = {}
    for same in ("normalised", "same.py:named"):
        name = same.partition(".")[0]
        result = evaluate("--generations", *files, "--out", str(tmp_path), f"name={name}", f"task.same_answer={same}")
        assert result.code == 0, result.errors
        comparison = json.loads((tmp_path / name / "comparison.json").read_text())
        assert comparison["clusters"] == same
        page = json.loads((tmp_path / name / "ours" / "seed-0" / "generations.jsonl").read_text().splitlines()[0])
        assert page["cluster"] == {"normalised": "that would be saturn", "same.py:named": "Saturn"}[same]
        counted[same] = {
            one["arm"]: one["mean"]
            for one in comparison["means"]
            if one["metric"] == "distinct_correct" and one["sampling"] == "T=1"
        }
    assert counted["normalised"] == {"baseline": 4.375, "ours": 8.0625}
    assert counted["same.py:named"] == {"baseline": 2.5, "ours": 4.8125}


def test_no_model_library_is_loaded(tmp_path):
    code = (
        "import sys\n"
        "from polychromic.cli import app\n"
        f"sys.argv = ['polychromic', 'evaluate', {str(EXAMPLE / 'experiment.yaml')!r}, '--out', {str(tmp_path)!r},\n"
        f"  '--generations', {'a=' + str(EXAMPLE / 'ours.jsonl')!r}, '--generations',\n"
        f"  {'b=' + str(EXAMPLE / 'baseline.jsonl')!r}, 'comparison.baseline=a']\n"
        "try:\n"
        "    app()\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout.strip().endswith("[]"), result.stdout + result.stderr


def test_bad_lines_are_one_message(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"id": "planets", "text": "Mars"}\n{"id": "planet"}\n')
    result = evaluate("--generations", f"a={tmp_path / 'bad.jsonl'}", f"b={EXAMPLE / 'ours.jsonl'}")
    assert result.code == 1
    assert "2 bad lines" in result.errors
    assert 'bad.jsonl:1: prompt id "planets" is not one of the 16 prompts' in result.errors
    assert "bad.jsonl:2: text: is missing" in result.errors
    assert not result.crash
