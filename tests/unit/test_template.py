"""`polychromic init` writes a file that resolves as it stands."""

from polychromic.experiment.config import Experiment
from polychromic.experiment.template import experiment_template


def test_the_template_is_a_whole_experiment(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(experiment_template("mine"))
    experiment = Experiment.from_file(path)
    assert experiment.name == "mine"
    assert set(experiment.arms) == {"baseline", "moderate"}
