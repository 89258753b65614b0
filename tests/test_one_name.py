"""One import name for the folders of the tree: installed, next to a user's own, in old files."""

import json
import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import scoresde
from scoresde.experiments.tasks import Generate
from scoresde.models import ScoreModel
from scoresde.sde import VP, Described, SubVP, construct, describe
from scoresde.sde.description import FORMER, current_name, current_names
from scoresde.training import checkpoint
from tests.experiments.runs import start
from tests.places import ROOT

OLD = ROOT / "tests" / "old"  # written before the packages had one name

# Ten lines of a user's code, in a folder with packages of the same names as ours.
SCRIPT = """
import sys
import models, data
import torch
from scoresde.models import GaussianMixtureScore
from scoresde.samplers import LogSNRGrid, PredictorCorrector, ReverseDiffusion
from scoresde.sde import VP
sde = VP()
score = GaussianMixtureScore(sde, torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1))
samples = PredictorCorrector(ReverseDiffusion(), grid=LogSNRGrid(), steps=8)(sde, score, (3, 1))
print(models.MINE, data.MINE, tuple(samples.x.shape), "sde" in sys.modules)
"""


def run(*command, cwd, **environment):
    """The output of a process that succeeds, outside of the tree and without a path to it."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment outside of the tree with the wheel in it, and nothing downloaded."""
    pytest.importorskip("setuptools", "77", reason="building a wheel needs setuptools ≥ 77")
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"  # a copy is built, since a build writes next to its sources
    left = shutil.ignore_patterns(".*", "outputs", "multirun", "tests", "shared", "*.egg-info")
    shutil.copytree(ROOT, tree, ignore=left)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    run(*pip, "wheel", tree, "--no-deps", "--no-build-isolation", "-w", folder, cwd=folder)
    shutil.rmtree(tree)
    venv.create(folder / "env", system_site_packages=True, symlinks=True)
    python = folder / "env" / "bin" / "python"
    where = run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip()
    # The packages of this environment, without its links to the tree, which are .pth files too.
    packages = [path for path in site.getsitepackages() if path != where]
    (Path(where) / "dependencies.pth").write_text("\n".join(packages) + "\n")
    (wheel,) = folder.glob("*.whl")
    # Next to an installation of the tree itself pip would see the same version and do nothing.
    options = ("--no-deps", "--no-index", "--force-reinstall", "--ignore-installed")
    run(python, *pip[1:], "install", *options, wheel, cwd=folder)
    return python.parent


@pytest.mark.slow
def test_a_wheel_runs_outside_of_the_tree(installed, tmp_path):
    said = run(
        *(installed / "scoresde", "dry_run=true", "hydra.run.dir=run", "data=mixture"),
        *("model=mlp", "evaluate/likelihood=none"),
        cwd=tmp_path,
    )
    assert "mixture · vp · pc · mlp" in said
    assert (tmp_path / "run" / "samples.png").is_file()
    code = "import scoresde.conf, scoresde; print(scoresde.__file__, scoresde.__version__)"
    where, version = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert str(installed.parent) in where and version == scoresde.__version__
    assert "--to" in run(installed / "scoresde-convert", "--help", cwd=tmp_path)


def test_a_wheel_holds_the_packages_and_no_others(installed, tmp_path):
    code = (
        "import scoresde, importlib.metadata as m, pathlib; d = m.distribution('score-sde-toolkit')"
        "; print(sorted({f.parts[1] for f in d.files if f.parts[0] == 'scoresde'}))"
        "; print(d.metadata['Author'], '|', d.metadata['Keywords'] is not None, '|', "
        "d.metadata.get_all('Project-URL'))"
    )
    packages, about = run(installed / "python", "-c", code, cwd=tmp_path).splitlines()
    held = {*FORMER, "conditioning", "conf", "__init__.py", "py.typed"}
    assert set(eval(packages)) - {"__pycache__"} == held
    assert about == "The score-SDE toolkit authors | True | None"


@pytest.mark.slow
def test_a_project_with_folders_of_the_same_names_runs_a_script(tmp_path):
    for name in ("models", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = 'mine'\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    assert run(sys.executable, "script.py", cwd=tmp_path) == "mine mine (3, 1) False\n"


@pytest.mark.slow
def test_no_package_is_loaded_by_two_names(tmp_path):
    code = f"""
import contextlib, runpy, sys
for script in ("run.py", "convert.py", "table.py"):
    sys.argv = [script, "--help"]
    with contextlib.suppress(SystemExit):
        runpy.run_path(r"{ROOT / "experiments"}/" + script, run_name="__main__")
import scoresde.experiments.job, scoresde.interop
print([name for name in {FORMER!r} if name in sys.modules])
"""
    assert run(sys.executable, "-c", code, cwd=tmp_path).splitlines()[-1] == "[]"
    assert not [name for name in FORMER if name in sys.modules]


def test_names_from_before_are_read():
    old = {"_target_": "sde.VP", "beta_min": 0.2, "beta_max": 9.0}
    assert describe(construct(old)) == describe(VP(0.2, 9.0))
    assert describe(VP())["_target_"] == "scoresde.sde.VP"
    assert current_name("models.UNet") == "scoresde.models.UNet"
    assert current_name("training.loggers.CSVLogger") == "scoresde.training.loggers.CSVLogger"
    for other in ("torch.optim.Adam", "models.Mine", "data.mine.Mine", "scoresde.sde.VP", "VP"):
        assert current_name(other) == other
    nested = {"a": [{"_target_": "sde.VE"}], "b": 3, "_target_": "models.Mine"}
    assert current_names(nested) == nested | {"a": [{"_target_": "scoresde.sde.VE"}]}
    net = {"_target_": "models.UNet", "shape": [1, 8, 8], "nf": 4, "conditional": False}
    assert describe(construct(net))["noise_conditional"] is False
    for parameterization, labels, c_noise in (
        ("edm", "process", None),
        ("edm", "descending", None),  # edm ignored it
        ("score", "process", None),
        ("score", "descending", "descending"),
    ):
        old = {"net": net, "parameterization": parameterization, "labels": labels}
        assert current_names(old) == {
            "net": {"_target_": "scoresde.models.UNet", "shape": [1, 8, 8], "nf": 4}
            | {"noise_conditional": False},
            "parameterization": parameterization,
            "c_noise": c_noise,
        }
    assert current_names({"labels": "folders"}) == {"labels": "folders"}  # these are labels of data


def test_a_class_of_a_users_own_keeps_its_name(monkeypatch):
    """This includes a package and a class with the same names as ours."""
    own = type("UNet", (Described,), {"__module__": "models.nets"})
    module = ModuleType("models.nets")
    module.UNet = own
    monkeypatch.setitem(sys.modules, "models.nets", module)
    assert describe(own()) == {"_target_": "models.nets.UNet"}
    assert type(construct({"_target_": "models.nets.UNet"})) is own


@pytest.mark.parametrize(
    ("name", "step", "c_noise"),
    [("model", 7, "process"), ("flat/descending", 5, "descending"), ("flat/edm", 5, "edm")],
)
def test_a_model_from_before_gives_the_same_score(name, step, c_noise):
    model = ScoreModel.load(OLD / name)
    saved = np.load(OLD / name / "outputs.npz")
    x, t = torch.from_numpy(saved["x"]), torch.from_numpy(saved["t"])
    with torch.no_grad():
        score = model(x, t)
    assert (model.step, model.c_noise) == (step, c_noise)
    # Kernels of another processor sum in another order.
    torch.testing.assert_close(score, torch.from_numpy(saved["score"]), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_run_from_before_continues_unchanged(tmp_path):
    """From step 3 of 6 it reaches the weights, the average and the noise of the run itself at 6."""
    folder = tmp_path / "run"
    shutil.copytree(OLD / "run", folder)
    last = checkpoint.load(folder / "checkpoints" / "step_000000006.pt")
    for path in (folder / "checkpoints").glob("step_000000006.*"):
        path.unlink()
    settings = [
        *("sde=subvp", "data=mixture", "model=mlp", "model.net.width=8", "model.net.depth=1"),
        *("train.steps=6", "train.batch_size=8", "train.decay=none", "train.checkpoint_every=3"),
        *("evaluate.samples.count=4", "evaluate.samples.frames=2", "evaluate.scored=4"),
        *("sampler.steps=2", "resume=auto"),
    ]
    result = start(folder, *settings)
    again = checkpoint.load(folder / "checkpoints" / "step_000000006.pt")
    assert torch.equal(again["rng"]["generator"], last["rng"]["generator"])
    for was, now in (
        (last["model"], again["model"]),
        (last["ema"]["model"], again["ema"]["model"]),
    ):
        assert list(was) == list(now)
        for name, weights in was.items():
            torch.testing.assert_close(now[name], weights, rtol=1e-5, atol=1e-6)
    before = json.loads((OLD / "run" / "result.json").read_text())
    # Kernels of another processor differ in the last digits.
    assert result["log_likelihood"] == pytest.approx(before["log_likelihood"], rel=1e-3)
    assert result["nfe"] == before["nfe"]


def test_a_checkpoint_from_before_is_a_model():
    model = Generate.load(OLD / "run")
    assert isinstance(model.sde, SubVP) and model.step == 6
    assert describe(model.net)["_target_"] == "scoresde.models.MLP"
