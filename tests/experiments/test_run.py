"""The command line as its users type it: runs, sweeps, resuming, and wrong input."""

import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from scoresde.experiments import command_line, run, table
from scoresde.sde import SDE
from scoresde.training import checkpoint
from tests.places import ROOT

POINTS = ["data=mixture", "model=mlp", "data.n=64", "data.n_test=16", "model.net.width=8"]
QUICK = ["dry_run=true", *POINTS]
FILES = {
    "config.yaml",
    "metrics.csv",
    "result.json",
    "samples.png",
    "reverse.gif",
    "loss.png",
    "checkpoints",
}


def call(monkeypatch, folder, *arguments):
    """Run as `python experiments/run.py …` would, in this process."""
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments, f"hydra.run.dir={folder}"])
    run.main()
    return json.loads((folder / "result.json").read_text())


def fails(capsys, monkeypatch, folder, *arguments):
    """The sentence with which a wrong command ends, with exit code 2 and no traceback."""
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, folder, *arguments)
    assert stop.value.code == 2
    errors = capsys.readouterr().err.strip()
    assert errors.startswith("error: ") and "\n" not in errors and "Traceback" not in errors
    return errors


def choices(group):
    return [path.stem for path in sorted((ROOT / "conf" / group).glob("*.yaml"))]


def weights(folder):
    return checkpoint.newest(folder / "checkpoints")[1]["ema"]["model"]


@pytest.mark.slow
def test_dry_run_of_the_defaults_as_a_script_from_any_folder(tmp_path):
    """The digits run in a process of their own, from another working directory."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "run.py"), "dry_run=true"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs").iterdir()
    assert {path.name for path in folder.iterdir()} == FILES
    result = json.loads((folder / "result.json").read_text())
    assert result["bits_per_dim"] > 0 and result["levels"] == 17
    assert 0 <= result["quality"]["confident"] <= 1 and result["nfe"] == 4
    assert "bits/dim" in done.stdout and "confident digits" in done.stdout
    assert "read 1797 digits of scikit-learn: 1438 for training, 359 for test" in done.stdout
    assert "quality: a classifier trains on 899 images (8091 with distorted" in done.stdout
    with Image.open(folder / "samples.png") as picture:
        assert picture.size[0] > 300
    with Image.open(folder / "reverse.gif") as movie:
        assert movie.n_frames > 1


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["pc", "ode", "ald", "ddim", "ancestral", "edm"])
@pytest.mark.parametrize("sde", ["vp", "vp_cosine", "subvp", "ve", "edm", "ddpm", "ncsn"])
def test_every_process_runs_with_every_sampler(tmp_path, monkeypatch, sde, sampler):
    result = call(monkeypatch, tmp_path / "run", f"sde={sde}", f"sampler={sampler}", *QUICK)
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert result["sde"] == sde and result["sampler"] == sampler
    assert result["entropy"] == pytest.approx(2.097, abs=1e-3)


@pytest.mark.parametrize("sampler", ["dpmpp", "fast", "parallel", "adaptive_sde", "torchsde"])
@pytest.mark.parametrize("sde", ["vp", "ncsn"])
def test_newer_samplers_run_too(tmp_path, monkeypatch, undrawn, sde, sampler):
    if sampler == "torchsde":
        pytest.importorskip("torchsde", reason="the torchsde extra is not installed")
    result = call(monkeypatch, tmp_path / "run", f"sde={sde}", f"sampler={sampler}", *QUICK)
    assert result["sampler"] == sampler and result["nfe"] > 0


@pytest.mark.parametrize("predictor", choices("sampler/predictor"))
def test_every_predictor_runs(tmp_path, monkeypatch, undrawn, predictor):
    overrides = ["sampler=ddim", f"sampler/predictor={predictor}"]
    if predictor == "none":
        overrides = ["sampler=pc", "sampler/predictor=none"]
    if predictor == "ancestral":
        overrides.append("sampler.predictor.variance=analytic")
    assert call(monkeypatch, tmp_path / "run", *overrides, *QUICK)["nfe"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edm", "edm_vp", "edm_ve", "edm_iddpm"])
def test_the_columns_of_edm_run(tmp_path, monkeypatch, name):
    """The four columns of the table of Karras et al. train, sample and are scored on the digits."""
    result = call(monkeypatch, tmp_path / "run", f"experiment={name}", "dry_run=true")
    # There are two steps of Heun, the last with one evaluation where it leads to noiseless data.
    assert result["nfe"] == (4 if name == "edm_ve" else 3)
    assert math.isfinite(result["bits_per_dim"])


@pytest.mark.slow
def test_multirun_runs_all_six(tmp_path, monkeypatch, capsys):
    sweep = ["-m", "sde=vp,ve,subvp", "sampler=pc,ode", f"hydra.sweep.dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["run.py", *sweep, *QUICK])
    run.main()
    results = [json.loads(path.read_text()) for path in tmp_path.glob("*/result.json")]
    assert {(r["sde"], r["sampler"]) for r in results} == {
        (sde, sampler) for sde in ("vp", "ve", "subvp") for sampler in ("pc", "ode")
    }
    capsys.readouterr()
    assert table.main([str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) == 8
    assert table.main([str(tmp_path / "nothing")]) == 2


TRAIN = [
    *POINTS,
    "train.steps=6",
    "train.checkpoint_every=3",
    "train.batch_size=8",
    "train.keep=5",
    "train.log_every=1",
    "evaluate.samples.count=4",
    "evaluate/likelihood=none",
    "sampler.steps=2",
]


@pytest.mark.slow
def test_resumed_run_is_bitwise_the_straight_one(tmp_path, monkeypatch, capsys):
    """A run cut off after step 3 continues, in its own folder or another, to the same weights."""
    straight = tmp_path / "straight"
    call(monkeypatch, straight, *TRAIN)
    for name, arguments in {"own": [], "new": []}.items():
        parent = tmp_path / name
        cut = parent / "cut"
        (cut / "checkpoints").mkdir(parents=True)
        shutil.copy(straight / "checkpoints" / "step_000000003.pt", cut / "checkpoints")
        shutil.copy(straight / "metrics.csv", cut)
        folder = cut if name == "own" else parent / "new"
        call(monkeypatch, folder, *TRAIN, "resume=auto", *arguments)
        assert "continues after step 3" in capsys.readouterr().out
        for key, value in weights(straight).items():
            torch.testing.assert_close(weights(folder)[key], value, rtol=0, atol=0)
        rows = (folder / "metrics.csv").read_text().splitlines()
        assert [int(row.split(",")[0]) for row in rows[1:]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_checkpoint_samples_without_training(tmp_path, monkeypatch, capsys):
    call(monkeypatch, tmp_path / "trained", *TRAIN)
    first = tmp_path / "again"
    result = call(monkeypatch, first, *TRAIN, f"checkpoint={tmp_path / 'trained'}", "sampler=ddim")
    assert result["seconds"]["train"] == 0 and not (first / "checkpoints").exists()
    named = tmp_path / "trained" / "checkpoints" / "step_000000006.pt"
    call(monkeypatch, tmp_path / "named", *TRAIN, f"checkpoint={named}")
    capsys.readouterr()
    other = ("sde=ve", f"checkpoint={named}")
    assert "checkpoint SDE is VP, requested VE" in fails(
        capsys, monkeypatch, tmp_path / "bad", *TRAIN, *other
    )
    wider = ("model.net.width=16", f"checkpoint={named}")
    assert "model.net.width is 8, requested 16" in fails(
        capsys, monkeypatch, tmp_path / "bad", *TRAIN, *wider
    )
    same = fails(capsys, monkeypatch, tmp_path / "trained", *TRAIN, f"checkpoint={named}")
    assert "already holds a run" in same
    assert not (tmp_path / "bad").exists()
    more = ("train.steps=9", f"resume={tmp_path / 'trained'}")
    assert "train.steps is 6, requested 9" in fails(
        capsys, monkeypatch, tmp_path / "bad", *TRAIN, *more
    )


@pytest.mark.slow
def test_a_checkpoint_of_other_data_is_refused(tmp_path, monkeypatch, capsys):
    """It has the same sections but a network of another input, and is named before any write."""
    call(monkeypatch, tmp_path / "trained", *QUICK)
    capsys.readouterr()
    arguments = ["dry_run=true", "model=mlp", "model.net.width=8", "data=digits"]
    message = fails(
        capsys, monkeypatch, tmp_path / "bad", *arguments, f"checkpoint={tmp_path / 'trained'}"
    )
    assert "data.range" in message or "does not fit the network for data of shape" in message
    assert not (tmp_path / "bad").exists()


@pytest.mark.slow
def test_nothing_is_overwritten(tmp_path, monkeypatch, capsys):
    call(monkeypatch, tmp_path / "run", *QUICK)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    capsys.readouterr()
    message = fails(capsys, monkeypatch, tmp_path / "run", *QUICK)
    assert "already holds a run; use resume=auto to continue it" in message
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert before == after


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["tensorboard", "wandb", "[csv,tensorboard]"])
def test_loggers(tmp_path, monkeypatch, logger):
    """Loggers write next to metrics.csv, which is always there; wandb stays offline."""
    name = logger.strip("[]").split(",")[-1]
    pytest.importorskip(name)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    call(monkeypatch, tmp_path / "run", *QUICK, f"logger={logger}")
    assert (tmp_path / "run" / "metrics.csv").exists()
    assert any((tmp_path / "run" / name).rglob("*"))


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["sde=vpp"], "unknown sde='vpp'. Did you mean sde=vp? Choices: ddpm, edm, iddpm, ncsn, "),
        (["sampler=odee"], "unknown sampler='odee'. Did you mean sampler=ode?"),
        (["sampler/predictor=ddimm"], "Did you mean sampler/predictor=ddim?"),
        (
            ["sampler=[pc,ode]"],
            "sampler takes one choice, got [pc,ode]; to run each of them use -m",
        ),
        (["sde=vp,ve"], "sde=vp,ve names several choices; add -m"),
        (["train.step=5"], "unknown key 'train.step'. Did you mean train.steps?"),
        (["steps"], "'steps' is not an override; use key=value"),
        (["sampler=ode", "sampler/predictor=ddim"], "the chosen sampler has no predictor"),
        (["logger=[csv,tensorbord]"], "Did you mean logger=tensorboard?"),
        (["sde.beta_max=0.01"], "beta_max (0.01) must be ≥ beta_min (0.1); swapped?"),
        (["sde=ve", "sde.sigma_min=100"], "sigma_min (100) must be < sigma_max (50.0)"),
        (["sampler.steps=0"], "steps must be an integer ≥ 1, got 0"),
        (["sampler.corrector.snr=-0.16"], "snr must be > 0, got -0.16"),
        (["train.steps=0"], "train.steps must be an integer ≥ 1, got 0"),
        (["evaluate.samples.count=0"], "evaluate.samples.count must be an integer ≥ 2, got 0"),
        (["train.batch_size=5000"], "batch_size 5000 > dataset size"),
        (["data=mnist"], "data.root is not set and has no default; add data.root=VALUE"),
        (["data=mnist", "data.root=/nowhere"], "not found under data.root=/nowhere"),
        (["data=folder", "data.root=/nowhere"], "data.root=/nowhere not found"),
        (["model=unet", "data=mixture"], "shape must be (channels, height, width)"),
        (["model.net.ch_mult=[1,2,2,2,2]"], "image size 8 is not divisible by 2^4"),
        (["model.parameterization=nois"], "did you mean 'noise'?"),
        (["checkpoint=/nowhere.pt"], "/nowhere.pt does not exist"),
        (["checkpoint=x", "resume=auto"], "got both checkpoint and resume"),
        (["device=tpu9"], "unknown device 'tpu9'; use auto, cpu, cuda or cuda:N"),
        (["seed=x"], "seed must be an integer ≥ 0, got 'x'"),
        (["seed=-1"], "seed must be an integer ≥ 0, got -1"),
        (["dry_run=perhaps"], "dry_run must be true or false, got 'perhaps'"),
        (["train.grad_clip=x"], "train.grad_clip must be a number > 0, got 'x'"),
        (["train.ema_decay=1"], "ema decay must be in [0, 1), got 1"),
        (["train.optimizer.lr=-1"], "train.optimizer.lr must be a number > 0, got -1"),
        (["sde.beta_max=abc"], "sde cannot be built with these settings"),
        (["sde=ncsn", "sampler.steps=300"], "300 steps does not fit on a chain of 232 levels"),
        (["sampler.grid.eps=2"], "eps must be in (0, T=1.0), got 2"),
        (["sampler=ode", "sampler.rtol=1e-9"], "rtol 1e-09 is below float32 resolution"),
        (["evaluate.likelihood.rtol=1e-12"], "rtol 1e-12 is below float32 resolution"),
        (["evaluate.samples.frames=1"], "evaluate.samples.frames must be an integer ≥ 2, got 1"),
        (
            ["evaluate/likelihood/divergence=foo"],
            "unknown evaluate/likelihood/divergence='foo'. Choices: auto, exact",
        ),
        (["evaluate.scored=-3"], "evaluate.scored must be an integer ≥ 1, got -3"),
        (["evaluate.rtol=0.1"], "Did you mean evaluate.likelihood.rtol=0.1?"),
        (["evaluate.likelihood=false"], "Did you mean evaluate/likelihood=none?"),
        (["evaluate.divergence=hutch++"], "Did you mean evaluate/likelihood/divergence=hutchpp?"),
        (["evaluate.samples=5"], "Did you mean evaluate.samples.count=5?"),
        (["evaluate.likelihood.metod=x"], "Did you mean evaluate.likelihood.method?"),
        (["sampler.predictor.as_published=false"], "sampler/predictor=dpmpp_3m_corrected?"),
        (["model.net.conditional=false"], "Did you mean model.net.noise_conditional=false?"),
        (["image_size=32"], "Did you mean task.image_size=32?"),
        (["task=sampel"], "Did you mean task=sample?"),
        (["device=mps"], "unknown device 'mps'; use auto, cpu, cuda or cuda:N"),
    ],
)
def test_wrong_input_ends_with_one_sentence(tmp_path, monkeypatch, capsys, arguments, sentence):
    """They end with exit code 2, one sentence, no traceback, and no folder left behind."""
    assert sentence in fails(capsys, monkeypatch, tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "group, name",
    [
        (group, name)
        for group in ("sde", "sampler", "sampler/predictor", "sampler/corrector", "sampler/grid")
        for name in choices(group)
    ],
)
def test_every_choice_builds(group, name):
    """Each leaf of the configuration names an object that can be built."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[f"{group}={name}"])
    if group == "sde":
        assert isinstance(instantiate(cfg.sde, _convert_="all"), SDE)
    else:
        assert callable(instantiate(cfg.sampler, _convert_="all"))


@pytest.mark.parametrize("sampler", choices("sampler"))
@pytest.mark.parametrize("sde", choices("sde"))
def test_the_defaults_of_every_sampler_fit_every_process(sde, sampler):
    """No default number of steps exceeds the levels of a chain.

    Only a sampler made for one process, where σ goes beyond 80, may be refused by others.
    """
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[f"sde={sde}", f"sampler={sampler}"])
    process = instantiate(cfg.sde, _convert_="all")
    built = instantiate(cfg.sampler, _convert_="all")
    if sampler == "edm_iddpm" and sde in ("ve", "ncsn"):
        with pytest.raises(ValueError, match="the range of σ/α on this process, got 80"):
            built.check(process, torch.float32)
    else:
        built.check(process, torch.float32)


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_preset_builds_its_network(name):
    """Published networks are built on the meta device, which takes no memory."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[f"experiment={name}"])
    shapes = {
        "scoresde.data.Mixture": (2,),
        "scoresde.data.MNIST": (1, 32, 32),
        "scoresde.data.CIFAR10": (3, 32, 32),
    }
    shapes["scoresde.data.Digits"] = (1, 8, 8)
    sized = (3, cfg.data.get("size"), cfg.data.get("size"))
    shapes |= {"scoresde.data.Folder": sized, "scoresde.data.Streamed": sized}
    with torch.device("meta"):
        net = instantiate(cfg.model.net, shape=shapes[cfg.data._target_], _convert_="all")
    assert sum(p.numel() for p in net.parameters()) > 10_000
    instantiate(cfg.sampler, _convert_="all")


def test_help_shows_the_groups(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        run.main()
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "sde=vp sampler=pc" in shown and "sampler/predictor" in shown


def test_check_passes_what_hydra_understands():
    """Sweeps, additions, removals and Hydra's own keys are not taken for mistakes."""
    command_line.check(["-m", "sde=vp,ve", "train.steps=1,2", "hydra.job.chdir=false"])
    command_line.check(["+data.extra=1", "logger=[csv,wandb]"])
