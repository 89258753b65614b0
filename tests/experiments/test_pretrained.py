"""Checkpoints of other formats on the command line: sampled, scored, converted, or refused."""

import json

import numpy as np
import pytest
import torch

from scoresde.experiments import convert
from scoresde.experiments.run import main
from scoresde.interop import format_of, load, save_diffusers, save_score_sde
from scoresde.models import ScoreModel, UNet
from scoresde.sde import VE, VP

SHAPE = (1, 8, 8)  # those of data=digits
DDPM = {"resblock_type": "ddpm", "skip_rescale": False, "channels_per_group": 1}
FEW = [
    "evaluate.samples.count=4",
    "evaluate.batch_size=4",
    "evaluate.samples.pictures=4",
    "evaluate.samples.frames=2",
]


def vp(attn_up="last"):
    torch.manual_seed(0)
    net = UNet(
        SHAPE, nf=32, ch_mult=(1, 2), num_res_blocks=1, attn_levels=[1], attn_up=attn_up, **DDPM
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return ScoreModel(net, VP().discretize(100), data_range=(-1.0, 1.0)).eval()


def make(kind, folder):
    """A checkpoint of a format, for images like the digits."""
    if kind == "native":
        return vp().save(folder / "model")
    if kind == "diffusers":
        return save_diffusers(vp("each"), folder / "pipeline")
    return save_score_sde(vp(), folder / "checkpoint.pth")


KINDS = ["native", "diffusers", "score_sde"]


def sampled(call, path, folder, *arguments):
    call(f"checkpoint={path}", f"hydra.run.dir={folder}", "sampler=ode", *FEW, *arguments)
    return json.loads((folder / "result.json").read_text())


@pytest.fixture
def call(monkeypatch):
    """The command line, in this process."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["run.py", "logger=csv", *arguments])
        main()

    return run


@pytest.fixture
def refused(call, capsys):
    """Run a command line that ends with exit code 2, and return its message."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            call(*arguments)
        assert caught.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        return said

    return run


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_drawn_from_every_format(kind, call, tmp_path):
    path = make(kind, tmp_path)
    result = sampled(call, path, tmp_path / "run", "task=sample")
    images = np.load(tmp_path / "run" / "samples.npz")["samples"]
    assert images.shape == (4, *SHAPE)
    assert images.dtype == np.uint8
    assert (tmp_path / "run" / "samples.png").exists()
    assert (result["sde"], result["model"]) == ("VP chain of 100", "UNet")
    assert result["checkpoint"] == str(path)
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "steps: 100" in config  # the record has what ran, not the defaults


@pytest.mark.slow
def test_all_formats_draw_the_same_samples(call, tmp_path):
    """The formats are those that can hold one and the same network."""
    drawn = []
    for kind in ("native", "score_sde"):
        sampled(call, make(kind, tmp_path), tmp_path / kind, "task=sample", "seed=3")
        drawn.append(np.load(tmp_path / kind / "samples.npz")["samples"])
    np.testing.assert_array_equal(*drawn)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["native", "score_sde"])
def test_a_split_is_scored_with_every_format(kind, call, tmp_path):
    arguments = ("task=likelihood", "evaluate.scored=2", "evaluate.likelihood.rtol=1e-2")
    result = sampled(
        call, make(kind, tmp_path), tmp_path / "run", *arguments, "evaluate.likelihood.atol=1e-2"
    )
    assert np.isfinite(result["bits_per_dim"])
    assert (result["sde"], result["bound"]) == ("VP chain of 100", True)


@pytest.mark.slow
def test_both_at_once(call, tmp_path):
    arguments = ("task=[sample,likelihood]", "evaluate.scored=2", "evaluate.likelihood.rtol=1e-2")
    result = sampled(
        call,
        make("native", tmp_path),
        tmp_path / "run",
        *arguments,
        "evaluate.likelihood.atol=1e-2",
    )
    assert np.isfinite(result["bits_per_dim"])
    assert result["nfe"] > 0
    assert np.load(tmp_path / "run" / "samples.npz")["samples"].shape == (4, *SHAPE)


@pytest.mark.slow
def test_a_training_is_drawn_from_without_its_settings(call, tmp_path):
    """With task=sample, process, network and shape come from the checkpoint."""
    train = ["sde=ve", "model.net.nf=8", "model.net.num_res_blocks=1", "dry_run=true"]
    call(f"hydra.run.dir={tmp_path}/train", *train, *FEW, "sampler=ode")
    result = sampled(call, tmp_path / "train", tmp_path / "run", "task=sample")
    assert (result["sde"], result["model"]) == ("VE", "UNet")
    assert np.load(tmp_path / "run" / "samples.npz")["samples"].shape == (4, *SHAPE)
    convert.main([str(tmp_path / "train"), str(tmp_path / "native"), "--to", "native"])
    model = load(tmp_path / "native")
    assert (model.step, model.sde.sigma_max) == (2, 50.0)


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_every_format_converts_to_every_other(source, target, tmp_path, capsys):
    if "diffusers" in (source, target) and source != target and "score_sde" in (source, target):
        pytest.skip("attention after each block is diffusers' alone, after the last score-SDE's")
    if source == "native" and target == "diffusers":
        path = vp("each").save(tmp_path / "model")
    else:
        path = make(source, tmp_path)
    out = tmp_path / ("out.pth" if target == "score_sde" else "out")
    convert.main([str(path), str(out), "--to", target])
    assert target in capsys.readouterr().out
    before, after = load(path), load(out)
    assert format_of(out) == target
    meanings = [model.description() | {"net": None} for model in (before, after)]
    assert meanings[0] == meanings[1]
    x, t = torch.randn(2, *SHAPE), before.sde.times[7]
    with torch.no_grad():
        torch.testing.assert_close(after.score(x, t), before.score(x, t), rtol=0, atol=0)


def test_the_raw_weights_are_to_be_had(tmp_path):
    path = make("score_sde", tmp_path)
    saved = torch.load(path, weights_only=True)
    saved["ema"]["shadow_params"] = [t + 1 for t in saved["ema"]["shadow_params"]]
    torch.save(saved, path)
    for name, flags in (("ema", []), ("raw", ["--raw"])):
        convert.main([str(path), str(tmp_path / name), "--to", "native", *flags])
    raw, ema = (load(tmp_path / name).net for name in ("raw", "ema"))
    for one, other in zip(raw.parameters(), ema.parameters(), strict=True):
        torch.testing.assert_close(one + 1, other)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{native}", "{out}", "--to", "native", "--raw"], "--raw needs a checkpoint with two"),
        (["{native}", "{native}", "--to", "native"], "already holds a model"),
        (["{ve}", "{out}", "--to", "diffusers"], "attends after each block"),
        (["{absent}", "{out}", "--to", "native"], "does not exist"),
        (["{text}", "{out}", "--to", "native"], "cannot be read as tensors"),
        (["{empty}", "{out}", "--to", "native"], "none of the known formats"),
        (
            ["{native}", "{out}", "--to", "native", "--config", "c.json"],
            "contains its configuration",
        ),
    ],
)
def test_wrong_conversions_write_nothing(arguments, sentence, tmp_path, capsys):
    places = {name: tmp_path / name for name in ("out", "absent", "native", "ve", "text", "empty")}
    places["text"] = tmp_path / "text.pth"
    vp().save(places["native"])
    net = UNet((3, 8, 8), nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_levels=[1], **DDPM)
    ScoreModel(net, VE(), "score", data_range=(0.0, 1.0)).save(places["ve"])
    places["text"].write_text("hello")
    places["empty"].mkdir()
    with pytest.raises(SystemExit) as caught:
        convert.main([a.format(**places) for a in arguments])
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("\n") == 1
    assert not places["out"].exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sde=ve"], "leave sde out"),
        (["model.net.nf=8"], "leave model.net.nf out"),
        (["task=dequantizer"], "takes runs of this toolkit"),
        (["task=[sample,generate]"], "task takes one choice, got [sample,generate]"),
        (["task=sample", "task.draw=true"], "unknown key 'task.draw'"),
        (["transfer=true"], "transfer belongs to runs of this toolkit"),
        (["data=mixture", "model=mlp"], "leave model out"),
        (["data=mixture"], "the checkpoint takes samples (1, 8, 8), data=mixture has (2,)"),
        (["task=sample", "task.image_size=9"], "is for images of [8, 8], not 9"),
        (["data.range=[0,1]"], "is for data in [-1.0, 1.0], not [0, 1]"),
        (["checkpoint_config=c.json"], "contains its configuration"),
    ],
)
def test_wrong_command_lines_end_with_one_sentence(arguments, sentence, tmp_path, refused):
    vp().save(tmp_path / "m")
    given = (f"checkpoint={tmp_path / 'm'}", f"hydra.run.dir={tmp_path}/run", "sampler=ode")
    assert sentence in refused(*given, *FEW, *arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_training_with_features_of_images_is_drawn_from(tmp_path, call):
    """Its network receives more channels than its samples have."""
    features = ["model.net.nf=8", "model.fourier_features=[2,3]", "dry_run=true"]
    call(f"hydra.run.dir={tmp_path}/train", *features, *FEW, "sampler=ode")
    sampled(call, tmp_path / "train", tmp_path / "run", "task=sample")
    assert np.load(tmp_path / "run" / "samples.npz")["samples"].shape == (4, *SHAPE)


@pytest.mark.parametrize(
    ("kind", "inner"),
    [
        ("native", "model.safetensors"),
        ("native", "model.json"),
        ("diffusers", "model_index.json"),
        ("diffusers", "unet/diffusion_pytorch_model.safetensors"),
        ("diffusers", "unet"),
    ],
)
def test_a_file_of_a_folder_selects_the_folder(kind, inner, tmp_path):
    path = make(kind, tmp_path)
    assert format_of(path / inner) == kind
    weights = zip(load(path / inner).parameters(), load(path).parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)


def test_settings_of_edm_are_read_from_a_file(tmp_path):
    """The `config` of EDM's state dict is JSON or YAML; the error comes from its loader."""
    torch.save({"enc.8x8_conv.weight": torch.zeros(1)}, tmp_path / "edm.pt")
    (tmp_path / "edm.yaml").write_text("precond: vq")
    with pytest.raises(ValueError, match=r"unknown precond 'vq'\. Available: edm, vp, ve"):
        load(tmp_path / "edm.pt", tmp_path / "edm.yaml")


@pytest.mark.slow
def test_sampling_needs_a_checkpoint(tmp_path, refused):
    assert "add checkpoint=" in refused("task=sample", f"hydra.run.dir={tmp_path}/run")


@pytest.mark.slow
def test_the_size_of_images_is_asked_for_where_nothing_says_it(tmp_path, call, refused):
    path = make("score_sde", tmp_path)
    path.with_suffix(".json").unlink()
    arguments = (f"checkpoint={path}", "task=sample", "sampler=ode", *FEW)
    said = refused(*arguments, f"hydra.run.dir={tmp_path}/a")
    assert "add task.image_size=32" in said
    assert "not divisible by 2^1" in refused(
        *arguments, f"hydra.run.dir={tmp_path}/a", "task.image_size=9"
    )
    call(*arguments, f"hydra.run.dir={tmp_path}/b", "task.image_size=12")
    assert np.load(tmp_path / "b" / "samples.npz")["samples"].shape == (4, 1, 12, 12)


def test_pyramids_of_images_go_from_score_sde_to_diffusers_and_back(tmp_path):
    """The NCSN++ of 256 px has few layers but its full width, which diffusers' groups require."""
    options = {"fir": True, "progressive": "output_skip", "progressive_input": "input_skip"}
    net = UNet(
        (3, 8, 8),
        ch_mult=(1, 1),
        num_res_blocks=1,
        attn_levels=[1],
        embedding_type="fourier",
        **options,
    )
    model = ScoreModel(net, VE(0.01, 348.0), "score", data_range=(0.0, 1.0))
    source = save_score_sde(model, tmp_path / "a.pth")
    convert.main([str(source), str(tmp_path / "b"), "--to", "diffusers"])
    convert.main([str(tmp_path / "b"), str(tmp_path / "c.pth"), "--to", "score_sde"])
    one, other = (torch.load(p, weights_only=True) for p in (source, tmp_path / "c.pth"))
    assert list(one["model"]) == list(other["model"])
    for name, tensor in one["model"].items():
        torch.testing.assert_close(other["model"][name], tensor, rtol=0, atol=0)
