"""`polychromic init` writes a file that resolves as it stands."""

from polychromic.cli.init import experiment_template
from polychromic.experiment.config import Experiment


def test_the_template_is_a_whole_experiment(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(experiment_template("mine"))
    experiment = Experiment.from_file(path)
    assert experiment.name == "mine"
    assert set(experiment.arms) == {"baseline", "moderate"}
