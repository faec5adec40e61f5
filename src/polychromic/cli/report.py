"""`polychromic report`."""

from __future__ import annotations

from polychromic.cli.options import RunFolderPath, show_result


def report(run_folder: RunFolderPath) -> None:
    """Build the comparison and the page anew from a run's generations."""
    from polychromic.errors import ConfigError
    from polychromic.experiment.config import Experiment
    from polychromic.experiment.folder import RunFolder, read_resolved
    from polychromic.experiment.run import RunResult, compare_and_report

    folder = RunFolder(run_folder)
    if not folder.experiment.is_file():
        raise ConfigError(f"{run_folder}: not a run folder (experiment.yaml is missing)")
    content, source = read_resolved(folder.experiment), str(folder.experiment)
    if "generations" in content:
        from polychromic.experiment.given import GivenExperiment, evaluate_given

        show_result(evaluate_given(GivenExperiment.from_mapping(content, source=source), folder))
        return
    chosen = Experiment.from_mapping(content, source=source)
    show_result(RunResult(folder, compare_and_report(chosen, folder)))
