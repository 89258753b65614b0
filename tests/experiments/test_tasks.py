"""Tasks as objects: their own settings, one of a user's own, and files of earlier versions."""

import json
import shutil

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scoresde.experiments.build import build
from scoresde.experiments.settings import keys
from scoresde.experiments.tasks import Dequantizer, Generate, NoiseEstimator, score
from scoresde.experiments.tasks.score import ScoreTask
from scoresde.models import ScoreModel
from scoresde.training import checkpoint
from tests.experiments.runs import CONF, raises, start
from tests.places import ROOT

FLAT = ROOT / "tests" / "old" / "flat"  # written when the settings of `evaluate` were flat
POINTS = ["data=mixture", "model=mlp", "model.net.width=8", "model.net.depth=1"]
TRAIN = ["train.steps=6", "train.batch_size=8", "train.decay=none", "train.checkpoint_every=3"]
FEW = ["evaluate.samples.count=4", "evaluate.samples.frames=2", "evaluate.scored=4"]
PROBES = [
    *("evaluate.likelihood.rtol=1e-3", "evaluate/likelihood/divergence=hutchinson"),
    "evaluate.likelihood.divergence.probes=2",
]
DIGITS = [
    *("data=digits", "model.net.nf=8", "model.net.ch_mult=[1]", "model.net.num_res_blocks=1"),
    "model.net.attn_resolutions=[]",
]


class CountSamples(ScoreTask):
    """A task of a user's own, which counts the samples of the data."""

    name = "count_samples"
    groups = ("data",)

    def finish(self, parts, model, record, claim):
        """The number of samples of each split."""
        record.add({"count": len(parts.data.train) + len(parts.data.test)})
        return True


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(map(str, overrides)))


def test_a_task_of_a_users_own_is_one_class(tmp_path, undrawn):
    own = f"task._target_={__name__}.CountSamples"
    settings = [*POINTS, *TRAIN, *FEW, "data.n=24", "data.n_test=8"]
    result = start(tmp_path / "run", own, *settings)
    assert result["count"] == 32 and "nfe" not in result and result["data"] == "mixture"


@pytest.mark.parametrize(
    "arguments",
    [
        ["dry_run=true", *POINTS],
        ["task=noise_estimator", *POINTS],
        ["task=likelihood", *POINTS, f"checkpoint={FLAT / 'run'}", "data@ood_data=moons"],
        ["task=sample", f"checkpoint={FLAT / 'images'}"],
        ["task=dequantizer", *DIGITS, f"task.score={FLAT / 'images'}", "data@ood_data=null"],
    ],
    ids=lambda arguments: arguments[0].partition("=")[2],
)
def test_building_changes_no_configuration(arguments):
    cfg = composed(*(one for one in arguments if not one.endswith("=null")))
    before = OmegaConf.to_yaml(cfg)
    parts = build(cfg)
    assert OmegaConf.to_yaml(cfg) == before
    assert parts.config["task"] == parts.task.name


def test_no_module_asks_which_task_a_run_has():
    """Names of tasks are in their own files, in conf/, and in sentences; no code compares them."""
    for path in (ROOT / "experiments").glob("*.py"):
        source = path.read_text()
        for sign in (
            "cfg.task ==",
            "cfg.task !=",
            "cfg.task in",
            "task.name ==",
            "isinstance(task",
        ):
            assert sign not in source, f"{path.name}: {sign}"
        assert "open_dict" not in source or path.name == "sweep.py"


def test_settings_of_dry_runs_are_keys():
    from scoresde.experiments.settings import DRY

    known = keys(composed("conditioning=sdedit")) | keys(composed("sampler=ode", "task=restore"))
    known |= keys(composed())
    for method in ("mmps", "repaint", "tds", "split_gibbs", "daps"):
        known |= keys(composed("conditioning=inpaint", f"conditioning/method={method}"))
    assert not DRY.keys() - known


def test_a_run_with_flat_settings_continues_unchanged(tmp_path, undrawn):
    """From step 3 of 6 it reaches the weights, the average and the noise that it had at step 6."""
    folder = tmp_path / "run"
    shutil.copytree(FLAT / "run", folder)
    last = checkpoint.load(folder / "checkpoints" / "step_000000006.pt")
    for path in (folder / "checkpoints").glob("step_000000006.*"):
        path.unlink()
    settings = [*POINTS, *TRAIN, *FEW, *PROBES, "sampler.steps=2"]
    result = start(folder, *settings, "resume=auto")
    again = checkpoint.load(folder / "checkpoints" / "step_000000006.pt")
    assert torch.equal(again["rng"]["generator"], last["rng"]["generator"])
    # Kernels of another processor sum in another order.
    for was, now in (
        (last["model"], again["model"]),
        (last["ema"]["model"], again["ema"]["model"]),
    ):
        for name, weights in was.items():
            torch.testing.assert_close(now[name], weights, rtol=1e-5, atol=1e-6)
    before = json.loads((FLAT / "run" / "result.json").read_text())
    assert result["log_likelihood"] == pytest.approx(before["log_likelihood"], rel=1e-3)
    assert result["nfe"] == before["nfe"]


def test_likelihoods_by_flat_settings_are_finished(tmp_path):
    """One of two shards was done: the other is added, and settings that differ are refused."""
    folder = tmp_path / "likelihood"
    shutil.copytree(FLAT / "likelihood", folder)
    part = (folder / "likelihood" / "0000000.npz").read_bytes()
    shutil.copytree(FLAT / "run", tmp_path / "run")
    common = ["task=likelihood", *POINTS, f"checkpoint={tmp_path / 'run'}", "data.n_test=8"]
    common += ["evaluate.batch_size=4"]
    with pytest.raises(SystemExit):
        start(folder, *common)
    result = start(folder, *common, *PROBES)
    assert (folder / "likelihood" / "0000000.npz").read_bytes() == part
    before = json.loads((FLAT / "likelihood_result.json").read_text())
    assert result["log_likelihood"] == pytest.approx(before["log_likelihood"], rel=1e-5)
    assert result["likelihood_nfe"] == pytest.approx(before["likelihood_nfe"], rel=0.05)


@pytest.mark.parametrize("task", [NoiseEstimator, Dequantizer, Generate])
def test_checkpoints_with_flat_settings_are_loaded(task):
    """Their weights are read whole into the networks that their descriptions name."""
    names = {NoiseEstimator: "estimator", Dequantizer: "dequantizer", Generate: "images"}
    model = task.load(FLAT / names[task])
    _, state = checkpoint.find(FLAT / names[task])
    weights = state["ema"]["model"]
    assert model.step == 2 and model.state_dict().keys() == weights.keys()
    for name, one in model.state_dict().items():
        torch.testing.assert_close(one, weights[name], rtol=0, atol=0)
    assert isinstance(model, ScoreModel) == (task is Generate)


def test_auxiliary_models_with_flat_settings_are_used():
    sampler = build(
        composed("sampler=noise_adaptive", f"sampler.estimator={FLAT / 'estimator'}", *POINTS)
    ).sampler
    assert sampler.estimator.shape == (2,)
    flow = ["evaluate/likelihood/dequantization=variational"]
    flow += [f"evaluate.likelihood.dequantization.flow={FLAT / 'dequantizer'}"]
    likelihood = build(composed(*DIGITS, *flow)).likelihood
    assert likelihood.dequantization.flow.levels == 17


def test_a_training_of_a_flow_with_flat_settings_goes_on(tmp_path):
    folder = tmp_path / "dequantizer"
    shutil.copytree(FLAT / "dequantizer", folder)
    saved = checkpoint.find(folder)[1]["config"]
    shutil.copytree(FLAT / "images", tmp_path / "images")
    assert saved["dequantizer"]["score"] == "images"
    network = ["dequantizer.width=4", "dequantizer.depth=1", "train.batch_size=4"]
    train = ["train.steps=2", f"resume={folder}", "evaluate.scored=2"]
    loose = ["evaluate.likelihood.rtol=1e-2", "evaluate.likelihood.atol=1e-2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        run = [*DIGITS, "task=dequantizer", "task.score=images", *network, *train, *loose]
        result = start(tmp_path / "new", *run)
    assert result["bits_per_dim"] > 0 and result["uniform"]["bits_per_dim"] > 0


def test_a_model_that_is_loaded_is_the_only_one_built(monkeypatch):
    """A second network would cost its memory and the time of its first weights."""
    monkeypatch.setattr(score, "score_model", raises(AssertionError("a second network")))
    model = f"checkpoint={ROOT / 'tests' / 'old' / 'model'}"
    parts = build(composed("task=sample", model, "sampler.steps=10"))
    assert parts.model is parts.pretrained
