"""A model of diffusers is the same whichever of its files or folders is named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from scoresde.experiments import convert
from scoresde.interop import format_of, load, load_diffusers, save_diffusers, save_score_sde
from scoresde.models import ScoreModel, UNet
from scoresde.sde import VP, CosineSchedule, ScaledLinearSchedule, describe

SHAPE = (1, 8, 8)
DDPM = {"resblock_type": "ddpm", "skip_rescale": False, "channels_per_group": 1, "attn_up": "each"}
COSINE = VP(schedule=CosineSchedule()).discretize(50)
# The training script's EMAModel records these in the configuration of its average.
NOTES = {"decay": 0.9999, "min_decay": 0.0, "optimization_step": 7, "update_after_step": 0}
NOTES |= {"use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75}
SAFE, BIN = (f"diffusion_pytorch_model.{suffix}" for suffix in ("safetensors", "bin"))


def model(seed=0, sde=COSINE, parameterization="v"):
    torch.manual_seed(seed)
    net = UNet(SHAPE, nf=32, ch_mult=(1,), num_res_blocks=1, **DDPM)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return ScoreModel(net, sde, parameterization, data_range=(-1.0, 1.0)).eval()


RAW, MEAN = model(1), model(2)


def check(found, expected):
    """The process, its meaning and the weights are the same."""
    meanings = [one.description() | {"net": None} for one in (found, expected)]
    assert meanings[0] == meanings[1]
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.fixture
def pipe(tmp_path):
    return save_diffusers(RAW, tmp_path / "pipe")


@pytest.mark.parametrize(
    "inner",
    [
        *("", "unet", "unet/", "unet/config.json", f"unet/{SAFE}", "unet/../unet", "unet/.."),
        *("model_index.json", "scheduler", "scheduler/scheduler_config.json"),
    ],
)
def test_every_name_of_a_model_gives_its_own_process(inner, pipe, monkeypatch, caplog):
    path = f"{pipe}/{inner}"
    assert format_of(path) == "diffusers"
    check(load_diffusers(path), RAW)
    monkeypatch.chdir(pipe.parent)
    check(load(f"pipe/{inner}"), RAW)
    assert not caplog.records


def test_names_from_inside(pipe, monkeypatch):
    for place, names in {
        "": (".", "unet", "./unet/"),
        "unet": (".", "..", "config.json", SAFE, "../unet", "../model_index.json"),
        "scheduler": (".", "..", "../unet", "scheduler_config.json"),
    }.items():
        monkeypatch.chdir(pipe / place)
        for name in names:
            check(load(name), RAW)


def test_links_to_any_part_and_parts_that_are_links(pipe, tmp_path, monkeypatch):
    links = tmp_path / "links"
    links.mkdir()
    for number, inner in enumerate((".", "unet", f"unet/{SAFE}", "model_index.json")):
        (links / f"n{number}").symlink_to(pipe / inner)
        check(load(links / f"n{number}"), RAW)
    monkeypatch.chdir(links / "n1")
    check(load("."), RAW)
    # A cache keeps each file as a link to a blob, in a folder without the rest of its model.
    for file in list(pipe.rglob("*.*")):
        shutil.move(file, links / f"blob-{file.name}")
        file.symlink_to(links / f"blob-{file.name}")
    for inner in ("", "unet", f"unet/{SAFE}", "unet/config.json"):
        check(load(pipe / inner), RAW)
    # A network that is stored elsewhere has the scheduler of the pipeline that links to it.
    shutil.move(pipe / "unet", tmp_path / "stored")
    (pipe / "unet").symlink_to(tmp_path / "stored")
    for inner in ("", "unet", f"unet/{SAFE}"):
        check(load(pipe / inner), RAW)


def test_the_files_of_an_old_pipeline_lie_in_one_folder(pipe):
    for file in [*(pipe / "unet").iterdir(), *(pipe / "scheduler").iterdir()]:
        shutil.move(file, pipe / file.name)
    shutil.rmtree(pipe / "unet"), shutil.rmtree(pipe / "scheduler")
    for inner in ("", "config.json", SAFE, "model_index.json", "scheduler_config.json"):
        check(load(pipe / inner), RAW)


def test_a_scheduler_counts_for_the_network_that_it_lies_next_to(pipe, tmp_path, caplog):
    other = save_diffusers(model(3, VP().discretize(40), "noise"), tmp_path / "other")
    inside = shutil.copytree(other / "unet", pipe / "nested" / "unet")
    shutil.copytree(other / "scheduler", pipe / "nested" / "scheduler")
    assert load(inside).sde.steps == 40
    renamed = (pipe / "unet").rename(pipe / "my-unet")
    (pipe / "model_index.json").unlink()
    check(load(renamed), RAW)
    alone = shutil.copytree(renamed, tmp_path / "a" / "unet")
    assert not caplog.records
    assert load(alone).sde.steps == 1000
    assert "assumed DDPMScheduler" in caplog.text


def test_the_file_that_is_named_is_the_one_that_is_read(pipe):
    state = {name: torch.zeros_like(one) for name, one in load_file(pipe / "unet" / SAFE).items()}
    torch.save(state, pipe / "unet" / BIN)
    check(load(pipe / "unet" / SAFE), RAW)
    assert not any(p.any() for p in load(pipe / "unet" / BIN).parameters())
    check(load(pipe), RAW)


# --- the training script's checkpoints


@pytest.fixture
def averaged(pipe, tmp_path):
    """PIPE/checkpoint-500 as the script writes it, whose scheduler is that of PIPE."""
    folder = pipe / "checkpoint-500"
    folder.mkdir()
    (pipe / "unet").rename(folder / "unet")
    other = save_diffusers(MEAN, tmp_path / "mean")
    config = json.loads((other / "unet" / "config.json").read_text())
    (other / "unet" / "config.json").write_text(json.dumps(config | NOTES))
    shutil.move(other / "unet", folder / "unet_ema")
    return folder


def test_the_average_is_taken_and_said(averaged, caplog):
    assert format_of(averaged) == "diffusers"
    check(load(averaged), MEAN)
    assert "took the averaged weights, unet_ema; for the raw ones use ema=False" in caplog.text
    caplog.clear()
    check(load(averaged, ema=False), RAW)
    assert not caplog.records


@pytest.mark.parametrize("inner", ["", "/config.json", f"/{SAFE}"])
def test_either_network_can_be_named(inner, averaged, tmp_path, caplog):
    for name, expected, said in (("unet_ema", MEAN, ""), ("unet", RAW, "their average is")):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(averaged / f"{name}{inner}")
        for path in (f"{averaged}/{name}{inner}", tmp_path / "link"):
            caplog.clear()
            check(load(path), expected)
            assert (said in caplog.text) if said else not caplog.records
    caplog.clear()
    check(load(f"{averaged}/unet{inner}", ema=False), RAW)
    assert not caplog.records
    with pytest.raises(ValueError, match=r"has averaged weights; the raw ones are .*unet, give"):
        load(f"{averaged}/unet_ema{inner}", ema=False)


def test_one_network_is_no_two(averaged, pipe, tmp_path):
    shutil.rmtree(averaged / "unet")
    check(load(averaged), MEAN)
    sentence = "--raw needs a checkpoint with two sets of weights; .* has one"
    for path in (averaged, averaged / "unet_ema", save_diffusers(RAW, tmp_path / "other")):
        with pytest.raises(ValueError, match=sentence):
            load(path, ema=False)


def test_raw_weights_may_be_a_variant(pipe, tmp_path):
    other = save_diffusers(MEAN, tmp_path / "mean")
    shutil.move(pipe / "unet" / SAFE, pipe / "unet" / SAFE.replace(".", ".non_ema."))
    shutil.move(other / "unet" / SAFE, pipe / "unet" / SAFE)
    for path in (pipe, pipe / "unet"):
        check(load(path), MEAN)
        check(load(path, ema=False), RAW)
    check(load(pipe / "unet" / SAFE.replace(".", ".non_ema.")), RAW)


def test_both_convert(averaged, tmp_path):
    for name, expected in (("mean", MEAN), ("raw", RAW)):
        flags = ["--raw"] if name == "raw" else []
        convert.main([str(averaged), str(tmp_path / name), "--to", "native", *flags])
        check(load(tmp_path / name), expected)


# --- the scaled linear chain


def test_scaled_linear_chains_are_read_and_written(tmp_path):
    """√β_i are equally spaced between √0.00085 and √0.012, as in latent diffusion."""
    folder = save_diffusers(model(0, VP(0.1, 20.0).discretize(200), "noise"), tmp_path / "a")
    path = folder / "scheduler" / "scheduler_config.json"
    fields = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    found = load(folder)
    roots = torch.linspace(0.00085**0.5, 0.012**0.5, 200, dtype=torch.float64)
    kept = (1 - roots.square()).cumprod(0)
    torch.testing.assert_close(found.sde.alphas.square(), kept, rtol=1e-12, atol=0)
    written = save_diffusers(found, tmp_path / "b") / "scheduler" / "scheduler_config.json"
    again = json.loads(written.read_text())
    assert {name: again[name] for name in fields} == pytest.approx(fields)
    check(load(tmp_path / "b"), found)
    check(load(found.save(tmp_path / "c")), found)


@pytest.mark.parametrize("base", [VP(), VP(schedule=CosineSchedule())], ids=["linear", "cosine"])
def test_chains_that_end_in_noise_alone_are_read_and_written(base, tmp_path):
    original = model(sde=base.discretize(50, zero_terminal_snr=True))
    folder = save_diffusers(original, tmp_path / "pipe")
    fields = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert fields["rescale_betas_zero_snr"] and fields["timestep_spacing"] == "trailing"
    check(load_diffusers(folder), original)
    with pytest.raises(ValueError, match="score-SDE has no chain whose last level is noise alone"):
        save_score_sde(original, tmp_path / "checkpoint_1.pth")


@pytest.mark.parametrize("write", [save_diffusers, save_score_sde])
def test_networks_with_classes_are_kept_in_the_native_format(write, tmp_path):
    sde = VP().discretize(1000)
    net = UNet(SHAPE, nf=32, ch_mult=(1,), num_res_blocks=1, classes=10, **DDPM)
    model = ScoreModel(net, sde, "noise", data_range=(-1.0, 1.0))
    target = tmp_path / "checkpoint_1.pth"
    with pytest.raises(ValueError, match="a network of 10 classes cannot be written for"):
        write(model, target)
    assert not list(tmp_path.iterdir())
    model.save(target)
    assert ScoreModel.load(target).net.classes == 10


def test_the_scaled_linear_schedule_is_one_formula():
    """B′ = β, its ends are its constants, and its chain tends to it."""
    schedule = ScaledLinearSchedule(0.85, 12.0)
    t = torch.linspace(0, 1, 11, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.integral(t).sum(), t)
    torch.testing.assert_close(slope, schedule.beta(t), rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.beta(t)[[0, -1]].tolist(), [0.85, 12.0])
    assert schedule.integral(torch.zeros(())) == 0
    torch.testing.assert_close(
        schedule.betas(4000).sum(), schedule.integral(t.detach())[-1], rtol=1e-3, atol=0
    )
    described = describe(VP(schedule=schedule))["schedule"]
    assert described["_target_"] == "scoresde.sde.ScaledLinearSchedule"
    for wrong in ((0.0, 1.0), (2.0, 1.0), (1.0, float("inf"))):
        with pytest.raises(ValueError, match="beta_max"):
            ScaledLinearSchedule(*wrong)
    with pytest.raises(ValueError, match="a chain of 12 levels needs beta_max < 12"):
        schedule.betas(12)
