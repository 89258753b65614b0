"""The examples of CONTRIBUTING.md work in the places that it names."""

import importlib.util
import inspect
import json
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

import tests.sde.test_sde as identities
from scoresde.experiments import run
from scoresde.experiments.model import make
from scoresde.models import MLP, GaussianScore, ScoreModel
from scoresde.samplers import PredictorCorrector, ReverseDiffusion
from scoresde.sde import VE, VP, construct, describe
from scoresde.training import DenoisingScoreMatching, checkpoint
from tests.docs.pages import blocks
from tests.experiments.runs import RUN, start
from tests.places import ROOT

PACKAGES = {"sde", "samplers", "models", "training", "data", "experiments"}
# The text of each example, by the path in its first line.
FILES = {
    block.text.partition("\n")[0].removeprefix("# "): block.text
    for block in blocks("CONTRIBUTING.md", "python", "yaml")
}


@pytest.fixture
def placed(tmp_path, monkeypatch):
    """Puts an example into its package, and its YAML file into a folder searched after conf/."""

    def place(example):
        (path,) = (one for one in FILES if one.endswith(f"/{example}.py"))
        folder = next(one for one in Path(path).parents if f"{one}/__init__.py" in FILES)
        whole = ".".join(["scoresde", *Path(path).with_suffix("").parts])
        package = importlib.import_module(".".join(["scoresde", *folder.parts]))
        source = tmp_path / f"{example}.py"
        source.write_text(FILES[path])
        spec = importlib.util.spec_from_file_location(whole, source)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, whole, module)
        spec.loader.exec_module(module)
        (line,) = FILES[f"{folder}/__init__.py"].splitlines()[1:]
        imported, _, offered = line.removeprefix("from .").partition(" import ")
        assert f"{package.__name__}.{imported}" == whole
        cls = getattr(module, offered)
        monkeypatch.setattr(package, offered, cls, raising=False)
        for target, text in FILES.items():
            if target.startswith("conf/"):
                (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / target).write_text(text)
        return cls, f"hydra.searchpath=[file://{tmp_path}/conf]"

    return place


def made(leaf, *overrides, **wires):
    """An object built from its YAML file as in a run."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=list(overrides))
    for part in leaf.split("."):
        cfg = cfg[part]
    return make(cfg, **wires)


def test_every_example_has_its_class_its_yaml_and_its_line():
    folders = {path.partition("/")[0] for path in FILES}
    assert folders == PACKAGES | {"conf"}
    assert len(FILES) == 3 * len(PACKAGES)


def test_the_process_passes_the_tests_of_all_processes(placed):
    """A line in tests/conftest.py would give it these tests, for the process and for its chain."""
    OU, path = placed("ou")
    process = made("sde", path, "sde=ou")
    assert type(process) is OU
    ran = 0
    for name, test in vars(identities).items():
        arguments = {"sde", "process", "generator"}
        if not name.startswith("test_") or not inspect.signature(test).parameters:
            continue
        known = set(inspect.signature(test).parameters)
        if known <= arguments:
            for one in [process] + [process.discretize(100)] * ("sde" in known):
                given = {"sde": one, "process": one, "generator": torch.Generator().manual_seed(0)}
                test(**{name: given[name] for name in known})
                ran += 1
    assert ran >= 15
    assert describe(construct(describe(process))) == describe(process)
    with pytest.raises(ValueError, match="beta must be finite and > 0, got -1"):
        OU(-1)


@pytest.mark.parametrize("process", [VP(), VE(0.01, 5.0)], ids=["vp", "ve"])
def test_the_predictor_samples(placed, process, generator):
    """Samples of Gaussian data have its moments, and η = 1 is reverse diffusion."""
    PartialNoise, path = placed("partial_noise")
    score = GaussianScore(process, torch.full((2,), 0.3), torch.full((2,), 0.36))
    predictor = made("sampler.predictor", path, "sampler/predictor=partial_noise")
    assert type(predictor) is PartialNoise and predictor.eta == 0.5
    x = PredictorCorrector(predictor, steps=1000)(process, score, (4000, 2), generator=generator).x
    assert (x.mean(0) - 0.3).abs().max() < 5 * 0.6 / 4000**0.5
    assert abs(x.std() / 0.6 - 1) < 0.03
    t, t_next = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    for ours, known in zip(
        PartialNoise(1.0).coefficients(process, t, t_next),
        ReverseDiffusion().coefficients(process, t, t_next),
        strict=True,
    ):
        torch.testing.assert_close(ours, known, rtol=1e-14, atol=0)


def test_the_network_trains(placed, tmp_path, undrawn):
    """Two steps of a run change the weights, and a saved model can be loaded again."""
    FiLM, path = placed("film")
    settings = [one for one in RUN if one != "model=mlp"]
    start(tmp_path / "run", *settings, "model=film", path)
    _, state = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert state["step"] == 2
    for name, weights in state["model"].items():  # the average is still close to the first weights
        assert weights.isfinite().all() and ("embedding" in name) == torch.equal(
            weights, state["ema"]["model"][name]
        )
    model = ScoreModel(FiLM((2,), width=8), VP(), parameterization="edm", sigma_data=1.0)
    model.save(tmp_path / "model")
    again = ScoreModel.load(tmp_path / "model")
    x, t = torch.randn(3, 2), torch.full((3,), 0.5)
    torch.testing.assert_close(again(x, t), model.eval()(x, t), rtol=0, atol=0)
    assert not torch.equal(model(x, t), model(x, 0.9 * t))


def test_the_loss_has_a_gradient(placed, generator):
    """The loss is finite, has gradients, and is denoising score matching for large δ."""
    HuberScoreMatching, path = placed("huber")
    loss = made("loss", path, "loss=huber", sde=VP())
    assert type(loss) is HuberScoreMatching
    model = ScoreModel(MLP((2,), width=8), VP(), parameterization="noise")
    torch.nn.init.normal_(model.net.leave.weight)
    x0 = torch.randn(16, 2, generator=generator)
    value = loss(model, x0, generator)
    value.backward()
    assert value.isfinite() and all(p.grad.isfinite().all() for p in model.net.parameters())
    assert all(p.grad.any() for p in model.net.parameters())
    wide = HuberScoreMatching(VP(), 1e3)(model.double(), x0.double(), generator.manual_seed(1))
    known = DenoisingScoreMatching(VP())(model, x0.double(), generator.manual_seed(1))
    torch.testing.assert_close(wide, known, rtol=1e-4, atol=0)


def test_batches_of_the_data_set_depend_on_step_and_seed_alone(placed):
    Ring, path = placed("ring")
    ring = made("data", path, "data=ring", "data.n=64", "data.n_test=16")
    assert type(ring) is Ring and ring.shape == (2,)
    first = ring.batch(3, 8, 0).x
    ring.batch(9, 8, 5)
    assert torch.equal(first, Ring(n=64, n_test=16).batch(3, 8, 0).x)
    assert not torch.equal(first, ring.batch(4, 8, 0).x)
    assert not torch.equal(first, ring.batch(3, 8, 1).x)
    assert (Ring(noise=0.0).train.norm(dim=1) - 2**0.5).abs().max() < 1e-6


def test_the_task_runs(placed, tmp_path, undrawn):
    """The errors are finite, and larger at higher noise levels."""
    _, path = placed("denoising")
    errors = start(tmp_path / "run", *RUN, "task=denoising", path)["denoising"]
    assert list(errors) == ["0.1", "0.5", "0.9"]
    assert 0 < errors["0.1"] < errors["0.5"] < errors["0.9"] < 10


def test_a_package_of_ones_own_runs_without_a_change_to_the_tree(tmp_path, monkeypatch, undrawn):
    """It runs with `--config-dir`, as CONTRIBUTING.md shows it."""
    (tmp_path / "mine" / "conf" / "data").mkdir(parents=True)
    code = FILES["data/ring.py"].replace("from .base", "from scoresde.data")
    code = code.replace("from .memory", "from scoresde.data")
    (tmp_path / "mine" / "__init__.py").write_text(code)
    leaf = FILES["conf/data/ring.yaml"].replace("scoresde.data.Ring", "mine.Ring")
    (tmp_path / "mine" / "conf" / "data" / "ring.yaml").write_text(leaf)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    settings = [one for one in RUN if one != "data=mixture"]
    arguments = ["--config-dir", "mine/conf", "data=ring", *settings, "hydra.run.dir=run"]
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    run.main()
    monkeypatch.delitem(sys.modules, "mine")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["data"] == "ring"
    assert "_target_: mine.Ring" in (tmp_path / "run" / "config.yaml").read_text()
