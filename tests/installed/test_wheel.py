"""The wheel works alone, from anywhere; the README's own commands end in a report on a fresh copy of the repository.

`make wheel` runs these: they install everything into empty environments, which takes minutes and the package index.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.docs.test_commands import ROOT, blocks

from polychromic.experiment.starting.start import EXAMPLES

pytestmark = [pytest.mark.slow, pytest.mark.network]
MINUTES = 15
REPORT = "runs/slogans/report.html"


def shell(command, folder, minutes=MINUTES, **environment):
    """Runs a line as a person would, without what this process has set for tests; returns what it printed."""
    clean = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE", "VIRTUAL_ENV")
    }
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60 * minutes,
        check=False,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, built as an index would get it."""
    folder = tmp_path_factory.mktemp("wheel")
    shell(f"{sys.executable} -m pip wheel --quiet --no-deps --wheel-dir {folder} {ROOT}", folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def empty(wheel, tmp_path_factory):
    """A folder far from the repository, with an environment that has the wheel and nothing else of ours."""
    folder = tmp_path_factory.mktemp("empty")
    shell(f"{sys.executable} -m venv env", folder)
    shell(f"env/bin/python -m pip install --quiet -c {ROOT / 'constraints.txt'} {wheel}", folder)
    return folder


def test_the_wheel_holds_examples_data_and_licences(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in EXAMPLES:
        assert f"polychromic/shipped/experiments/{name}.yaml" in names
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "LICENSE"):
        assert f"polychromic/shipped/data/replies/{name}" in names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_an_installed_wheel_says_its_version_helps_and_completes(empty):
    assert shell("env/bin/polychromic --version", empty).strip() == "0.1.0"
    assert "--data" in shell("env/bin/polychromic init -h", empty)
    completion = shell(
        "env/bin/polychromic --show-completion bash", empty, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert "_POLYCHROMIC_COMPLETE" in completion
    place = shell("env/bin/python -c 'import polychromic; print(polychromic.__file__)'", empty)
    assert Path(place.strip()).is_relative_to(empty)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_written_and_resolves_far_from_the_repository(empty, name):
    folder = empty / f"example-{name}"
    folder.mkdir()
    shell(f"../env/bin/polychromic init --example {name}", folder)
    code = f"from polychromic import Experiment; print(Experiment.from_file('{name}.yaml').name)"
    assert shell(f'../env/bin/python -c "{code}"', folder).strip() == name


def test_the_quickstart_of_the_wheel_ends_in_a_report(empty):
    shell("env/bin/polychromic init --example quickstart", empty)
    small = "training.steps=2 'seeds=[0]' evaluation.num_prompts=4 evaluation.num_samples=16 run.preflight=false"
    shell(f"env/bin/polychromic run quickstart.yaml {small}", empty)
    assert (empty / "runs" / "quickstart" / "report.html").is_file()


def test_the_wheel_packs_itself_into_a_bundle_that_pip_can_build(empty):
    """Bundles without a checkout: pyproject.toml is written from the metadata of what is installed."""
    folder = empty / "packs"
    folder.mkdir()
    shell(
        "../env/bin/polychromic init --example quickstart && ../env/bin/polychromic bundle quickstart.yaml",
        folder,
    )
    shell(
        "tar -xzf quickstart.bundle.tar.gz && ../env/bin/python -m pip wheel -q --no-deps quickstart/package",
        folder,
    )
    names = set(zipfile.ZipFile(next(folder.glob("*.whl"))).namelist())
    assert "polychromic/experiment/bundle/run.sh" in names
    assert "polychromic/shipped/data/replies/train.jsonl" in names


def test_every_extra_can_be_found_by_pip(wheel, tmp_path):
    """Each requirement of each extra has a version that pip would take; nothing of it is installed."""
    metadata = (
        zipfile.ZipFile(wheel)
        .read(next(n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("METADATA")))
        .decode()
    )
    wanted = [
        line.removeprefix("Requires-Dist: ").partition(";")[0].strip()
        for line in metadata.splitlines()
        if "extra ==" in line
    ]
    assert len(wanted) > 15
    for requirement in wanted:
        shell(
            f"{sys.executable} -m pip install --quiet --dry-run --ignore-installed --no-deps '{requirement}'",
            tmp_path,
        )


def test_the_readmes_own_commands_end_in_a_report(tmp_path):
    """Copied line by line on a fresh copy of the repository, in one shell, as a reader would."""
    lines = next(one for one in blocks(ROOT / "README.md", "code_block") if "polychromic init" in one)
    assert [line.split()[:2] for line in lines.splitlines()] == [
        ["make", "setup"],
        ["polychromic", "init"],
        ["polychromic", "run"],
    ]
    shell(f"git clone --quiet {ROOT} copy", tmp_path)
    shell(lines, tmp_path / "copy", minutes=60)
    assert (tmp_path / "copy" / REPORT).stat().st_size > 100_000
