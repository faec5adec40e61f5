"""Runs with planted faults are each named; adapters are compared without building their products."""

import dataclasses
import json
import math

import pytest
import torch
from typer.testing import CliRunner

from polychromic.cli import app
from polychromic.diagnosis import ArmEvidence, ArmFacts, ArmTrace, diagnose
from polychromic.diagnosis.rules import CAUSES, SYMPTOMS, find
from polychromic.diagnosis.traces import TextFigures
from polychromic.diagnosis.weights import Scaling, Update, adapter_distance, read_updates, updates_by_module
from polychromic.errors import DataError, TrainingError
from polychromic.experiment.config import Experiment
from polychromic.experiment.resuming.folder import resolved_yaml
from polychromic.files import write_text
from polychromic.models import decoding
from polychromic.models.adapters import save_adapter
from polychromic.models.decoding import draw_tokens
from polychromic.models.loading import load_language_model, load_tokenizer
from polychromic.models.settings import AdapterSettings, ModelSettings
from polychromic.records import Check
from polychromic.run_folder import RunFolder
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.training.base import ArmRun
from polychromic.training.gradients import GradientAccumulator
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import ArmTrainer, train_arm


class AlwaysPasses(ArithmeticTask):
    """The origin's checker in spirit: nothing is refused."""

    def check(self, prompts, texts):
        return [Check(1.0)] * len(texts)


class NeverPasses(ArithmeticTask):
    """The gate is always shut."""

    def check(self, prompts, texts):
        return [Check(0.0)] * len(texts)


def train(root, tiny_settings, *, task=ArithmeticTask, weight=1.0, **training):
    """A short run of one arm, also where training stops itself; returns the diagnosis of that arm."""
    settings = TrainingSettings(
        loss="rl", steps=6, prompts_per_step=8, num_samples=6, gradient_share_every=2, learning_rate=1e-3,
        **({"max_new_tokens": 16} | training),
    )  # fmt: skip
    run = ArmRun(
        experiment="planted", arm="arm", seed=0, folder=root / "arm" / "seed-0", task=task(64, 16, 16),
        model=tiny_settings, training=settings,
        diversity=DiversitySettings(weight=weight, set_size=3, max_zero_gradient_steps=4),
    )  # fmt: skip
    try:
        train_arm(run)
    except TrainingError as error:
        assert "no gradient" in str(error)
    facts = ArmFacts("arm", "rl", weight, settings.temperature, settings.max_new_tokens)
    [arm] = diagnose(root, [facts], [0]).arms
    return arm


def never_end(monkeypatch):
    """A model that has not learnt its end token: it is as likely as any other that never comes."""
    end = load_tokenizer(ModelSettings(source="polychromic:arithmetic-tiny")).eos_token_id

    def endless(logits_BV, parameters, uniforms_B):
        without_end_BV = logits_BV.clone()
        without_end_BV[:, end] = -1e4
        return draw_tokens(without_end_BV, parameters, uniforms_B)

    monkeypatch.setattr(decoding, "draw_tokens", endless)


def kinds(arm):
    return [finding.kind for finding in arm.findings]


def test_a_sound_run_has_no_fault(tmp_path, tiny_settings):
    arm = train(tmp_path, tiny_settings)
    assert not [finding for finding in arm.findings if finding.severity == "fault"]
    assert "of the gradient" in " ".join(arm.summary)


def test_what_no_step_could_measure_is_not_said(tmp_path):
    """Past bug: "of the gradient nan%; cosine to the quality gradient nan" of an arm whose groups had no signal."""
    silent = {"step": 1, "train/reward": 0.0, "train/diversity_weight": 0.3, "train/diversity_loss_share": 0.0}
    write_text(tmp_path / "arm" / "seed-0" / "metrics.jsonl", json.dumps(silent) + "\n")
    [arm] = diagnose(tmp_path, [ArmFacts("arm", "rl", 0.3, 1.0, 64)], [0]).arms
    assert "λ 0.3, share of the loss 0%" in arm.summary
    assert "nan" not in " ".join(arm.summary)


def test_a_detached_score_is_named(tmp_path, tiny_settings, monkeypatch):
    """The origin's mistake: the score takes part in the loss as a number, and no gradient of it exists."""
    add = GradientAccumulator.add

    def detached(self, losses):
        add(self, {term: loss.detach() if term != "quality" else loss for term, loss in losses.items()})

    monkeypatch.setattr(GradientAccumulator, "add", detached)
    arm = train(tmp_path, tiny_settings)
    assert kinds(arm)[0] == "no-gradient-path"
    assert "of the loss and 0 % of the gradient" in arm.findings[0].sentence
    assert arm.evidence.trace.steps < 6, "the silence watch had to stop this run also between measured steps"


def test_a_weight_too_small_is_named_with_the_one_it_takes(tmp_path, tiny_settings):
    arm = train(tmp_path, tiny_settings, weight=1e-6)
    assert kinds(arm)[0] == "weight-too-small"
    needed = float(arm.findings[0].fix.split("about ")[1].split()[0])
    assert 0.05 < needed < 20


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("checker-passes-everything", {"task": AlwaysPasses}),
        ("identical-generations", {"temperature": 1e-5}),
        ("never-ends", {}),
        ("gate-closed", {"task": NeverPasses}),
    ],
)
def test_planted_faults_are_named(tmp_path, tiny_settings, monkeypatch, kind, changes):
    if kind == "never-ends":
        never_end(monkeypatch)
    arm = train(tmp_path, tiny_settings, **changes)
    assert kinds(arm)[0] == kind
    assert arm.findings[0].severity == "fault"


# Rules on traces written by hand. ----------------------------------------------------------------------------------


def evidence(rows, *, loss="rl", **changes):
    values = {
        "facts": ArmFacts("arm", loss, 1.0, 1.0, 64, learns_from_rewards=loss == "rl"),
        "trace": ArmTrace("arm", {0: [{"step": step, **row} for step, row in enumerate(rows, start=1)]}),
        "is_baseline": False, "weight": 1.0,
    }  # fmt: skip
    return ArmEvidence(**(values | changes))


AT_HOME = TextFigures(20.0, 0.0, {"LATIN": 1.0})
FOREIGN = TextFigures(20.0, 0.0, {"LATIN": 0.6, "CJK": 0.4})

SOUND = {
    "train/passing": 0.4, "groups/clusters": 4.0, "generation/truncated": 0.01, "generation/tokens": 20.0,
    "generation/entropy": 1.0, "groups/no_signal": 0.2, "groups/diversity_signal": 0.8,
    "train/diversity_gradient_share": 0.3, "train/diversity_loss_share": 0.2,
    "train/diversity_score": 0.3, "groups/distance": 0.8, "validation/cross_entropy": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "last", "changes"),
    [
        ("collapse", {"groups/clusters": 1.5}, {}),
        ("gibberish-growth", {"generation/entropy": 3.0}, {}),
        ("length-hacking", {"generation/tokens": 40.0}, {}),
        ("length-hacking", {"generation/tokens": 27.0, "generation/truncated": 0.6}, {}),
        ("gate-eats-diversity", {"groups/distance": 0.5, "train/diversity_score": 0.4}, {}),
        ("reward-without-signal", {"groups/no_signal": 0.95}, {}),
        ("far-from-the-start", {"train/kl": 25.0}, {}),
        ("overfitting", {"validation/cross_entropy": 1.2}, {}),
        ("script-switching", {}, {"texts": FOREIGN, "baseline_texts": AT_HOME}),
    ],
)
def test_symptoms_are_named_alone(kind, last, changes):
    rows = [SOUND] * 8 + [SOUND | last] * 2
    assert [finding.kind for finding in find(evidence(rows, **changes))] == [kind]
    assert find(evidence([SOUND] * 10)) == []


def test_every_rule_keeps_silent_without_its_metrics():
    empty = evidence([{}], weight=math.nan)
    assert [rule(empty) for rule in (*CAUSES, *SYMPTOMS)] == [None] * len(CAUSES + SYMPTOMS)


def test_edges_of_a_trace_are_fifths_of_the_measured_steps():
    trace = ArmTrace("arm", {0: [{"step": i, "x": float(i)} for i in range(10)], 1: [{"step": 0, "x": 5.0}]})
    assert trace.early("x") == (0.5 + 5.0) / 2
    assert trace.late("x") == (8.5 + 5.0) / 2
    assert trace.mean("x") == (4.5 + 5.0) / 2
    assert trace.largest("x") == 9.0
    assert math.isnan(trace.mean("y"))


# Weights and texts. ------------------------------------------------------------------------------------------------


def test_distances_equal_those_of_the_full_products():
    generator = torch.Generator().manual_seed(0)

    def update(scaling):
        a, b = (torch.randn(*shape, generator=generator) for shape in ((3, 20), (30, 3)))
        return Update(a, b, scaling)

    ours, theirs = {"q": update(2.0), "v": update(2.0)}, {"q": update(0.5), "v": update(0.5)}
    found = adapter_distance(ours, theirs)
    full = {name: one.scaling * one.b @ one.a - theirs[name].scaling * theirs[name].b @ theirs[name].a
            for name, one in ours.items()}  # fmt: skip
    for module in found.modules:
        assert module.distance == pytest.approx(float(full[module.module].norm()), rel=1e-5)
    assert found.distance == pytest.approx(float(torch.cat([one.ravel() for one in full.values()]).norm()), rel=1e-5)
    assert adapter_distance(ours, ours).distance == pytest.approx(0.0, abs=1e-4)


PATTERNS = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.0\.self_attn\.q_proj": 3.0, "down_proj": 5.0}}


EMBEDDING = {"target_modules": ["embed_tokens", "q_proj"], "rank_pattern": {"embed_tokens": 2}}


@pytest.mark.parametrize(
    "more", [{}, {"use_rslora": True}, PATTERNS, {**PATTERNS, "use_rslora": True}, EMBEDDING], ids=str
)
def test_updates_are_those_of_peft(tmp_path, more):
    """Past bugs: ranks and alphas of single modules were passed over, and of a run that trains √rank was, too; those of
    embeddings were, so that where nothing else is adapted the weights were said not to have moved."""
    adapter = AdapterSettings(rank=4, alpha=8, **more)
    model = load_language_model(ModelSettings(source="polychromic:arithmetic-tiny", adapter=adapter), seed=1).model
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_embedding" in name:
            torch.nn.init.normal_(parameter.data)
    save_adapter(model, tmp_path)
    truth = {
        name: module.get_delta_weight("default").norm().item()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    going_on = Scaling(adapter.alpha, adapter.alpha_pattern, adapter.use_rslora)
    for updates in (read_updates(tmp_path), updates_by_module(model.state_dict(), going_on)):
        distance = adapter_distance(updates, None)
        assert {f"base_model.model.{one.module}": one.norm for one in distance.modules} == pytest.approx(truth)


@pytest.mark.parametrize("pattern", ["(", "(.|..|...)+[0-9]"])
def test_a_pattern_that_is_none_or_never_ends_is_damage(tmp_path, adapter, pattern):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "alpha_pattern": {pattern: 1.0}}))
    with pytest.raises(DataError, match=r"adapter_config.json: damaged \(alpha_pattern"):
        read_updates(adapter)


def test_equal_weights_at_a_positive_weight_are_a_fault():
    update = {"q": Update(torch.ones(2, 3), torch.ones(4, 2), 1.0)}
    [finding] = find(evidence([SOUND] * 10, distances=(adapter_distance(update, update),)))
    assert finding.kind == "same-weights-as-baseline"
    assert find(evidence([SOUND] * 10, distances=(adapter_distance(update, update),), is_baseline=True)) == []


def test_an_arm_that_samples_nothing_while_it_trains_is_judged_by_what_was_evaluated():
    silent = [{"train/quality_loss": 1.0}] * 5
    cut = dataclasses.replace(AT_HOME, truncated=0.95)
    [finding] = find(evidence(silent, is_baseline=True, weight=0.0, loss="sft", texts=cut))
    assert finding.kind == "never-ends"
    assert "evaluated generations" in finding.sentence


def test_answers_that_stopped_ending_are_no_model_that_never_learnt_to():
    rows = [SOUND] * 8 + [SOUND | {"generation/truncated": 0.95, "generation/tokens": 60.0}] * 2
    assert [finding.kind for finding in find(evidence(rows))] == ["length-hacking"]


def test_rewards_below_the_threshold_are_a_signal_all_the_same():
    """Past bug: nothing passed, and rewards that rose were said to give nothing to follow."""
    [finding] = find(evidence([SOUND | {"train/passing": 0.0, "train/reward": 0.3}] * 5))
    assert (finding.kind, finding.severity) == ("gate-closed", "warning")
    assert "at most 0.30" in finding.sentence


def test_movement_is_told_from_the_adapter_that_training_continued_from():
    """Past bug: an adapter that stayed where it started was said to have moved by all that it held."""
    at = {"q": Update(torch.ones(1, 3), torch.ones(4, 1), 1.0)}
    further = {"q": Update(torch.ones(1, 3), 3 * torch.ones(4, 1), 1.0)}
    assert adapter_distance(at, None).norm == pytest.approx(math.sqrt(12))
    assert adapter_distance(at, None, at).norm == pytest.approx(0.0, abs=1e-6)
    moved = adapter_distance(further, at, at)
    assert moved.norm == pytest.approx(2 * math.sqrt(12))
    assert moved.baseline_norm == pytest.approx(0.0, abs=1e-6)
    assert moved.distance == pytest.approx(2 * math.sqrt(12))
    assert math.isnan(adapter_distance(at, None).distance)


def going(tmp_path, **more):
    """The folder of a run that has only just been started."""
    experiment = Experiment.from_mapping({
        "name": "going", "task": {"name": "arithmetic"}, "model": {"source": "polychromic:arithmetic-tiny"},
        "training": {"loss": "rl", "steps": 9}, "arms": {"baseline": {}, "later": {}}, **more,
    })  # fmt: skip
    folder = RunFolder(tmp_path / "going")
    write_text(folder.experiment, resolved_yaml(experiment))
    return folder


def test_a_run_that_is_training_tells_how_far_its_checkpoints_are_apart(tmp_path, tiny_settings):
    """Past bug: of a running run nothing was said about the weights."""
    adapter = tiny_settings.adapter.model_dump()
    folder = going(tmp_path, model={"source": "polychromic:arithmetic-tiny", "adapter": adapter})
    for arm, weight in (("baseline", 0.0), ("later", 1.0)):
        training = TrainingSettings(
            loss="rl", steps=9, prompts_per_step=4, num_samples=6, max_new_tokens=16, checkpoint_every=2,
            learning_rate=1e-3,
        )  # fmt: skip
        trainer = ArmTrainer(
            ArmRun(
                experiment="going", arm=arm, seed=0, folder=folder.arm(arm, 0).root, task=ArithmeticTask(64, 16, 16),
                model=tiny_settings, training=training, diversity=DiversitySettings(weight=weight, set_size=3),
            )
        )  # fmt: skip
        for _ in range(3):
            trainer.step()
    result = CliRunner().invoke(app, ["diagnose", str(folder.root)])
    assert result.exit_code == 0, result.output
    assert "by the checkpoint of step 2" in result.output
    assert "from the baseline's" in result.output
    baseline, later = json.loads(folder.diagnosis.read_text())["arms"]
    assert later["distance"]["norm"] > 0
    assert later["distance"]["distance"] > 0
    assert later["distance"]["baseline_norm"] == pytest.approx(baseline["distance"]["norm"])
    saved = trainer.run.folder / "adapter"
    trainer.save_adapter()
    now = adapter_distance(read_updates(saved), None).norm
    assert 0.3 * now < later["distance"]["norm"] < 1.5 * now


def test_runs_that_can_be_read_are_diagnosed_beside_one_that_cannot(tmp_path):
    """Past bug: the first folder that was none kept the others from being read."""
    folder = going(tmp_path)
    write_text(folder.arm("baseline", 0).root / "metrics.jsonl", json.dumps({"step": 1, **SOUND}) + "\n")
    result = CliRunner().invoke(app, ["diagnose", str(tmp_path / "none"), str(folder.root), str(folder.root)])
    assert result.exit_code == 1
    assert result.output.count("nothing looks wrong") == 2
    assert "not a run folder" in str(result.exception)


def test_the_verb_reads_a_run_that_is_still_going_on(tmp_path):
    folder = going(tmp_path)
    refused = CliRunner().invoke(app, ["diagnose", str(folder.root)])
    assert "no arm has begun to train" in str(refused.exception)

    rows = [{"step": step, **SOUND} for step in (1, 2)]
    write_text(folder.arm("baseline", 0).root / "metrics.jsonl", "".join(json.dumps(one) + "\n" for one in rows))
    result = CliRunner().invoke(app, ["diagnose", str(folder.root)])
    assert result.exit_code == 0, result.output
    assert "nothing looks wrong" in result.output
    written = json.loads(folder.diagnosis.read_text())
    assert [arm["arm"] for arm in written["arms"]] == ["baseline"]
    assert written["arms"][0]["courses"]["groups/clusters"] == {"early": 4.0, "late": 4.0, "mean": 4.0}
    [arm] = diagnose(folder.root, [ArmFacts("baseline", "rl", 0.0, 1.0, 64)], [0]).arms
    assert arm.to_json()["steps"] == 2
