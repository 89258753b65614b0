"""Models of diffusers compared with diffusers itself, in both directions, and refusals by name."""

import json
import math

import pytest
import torch

from scoresde.interop.diffusers import load_diffusers, save_diffusers
from scoresde.interop.diffusers_process import process
from scoresde.models import MLP, ScoreModel, UNet
from scoresde.sde import EDM, VE, VP, CosineSchedule, SubVP

diffusers = pytest.importorskip("diffusers", reason="the oracle, of the extra `compare`")

FOURIER = {"time_embedding_type": "fourier", "norm_num_groups": None, "norm_eps": 1e-6}
FOURIER |= {"mid_block_scale_factor": math.sqrt(2), "attention_head_dim": None}
LAYOUTS = {
    # google/ddpm-cifar10-32, smaller
    "ddpm": {
        "sample_size": 16,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "attention_head_dim": None,
        "norm_eps": 1e-6,
    },
    # UNet2DModel's defaults, as in its tutorials: heads, symmetric padding, cosines first
    "defaults": {
        "sample_size": 16,
        "block_out_channels": (32, 32, 64),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
    },
    "grey, not square, learned variance": {
        "sample_size": (16, 8),
        "in_channels": 1,
        "out_channels": 2,
        "block_out_channels": (16, 32),
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "norm_num_groups": 8,
        "add_attention": False,
    },
    # google/ncsnpp-celebahq-256, smaller
    "ncsnpp": {
        "sample_size": 16,
        "center_input_sample": True,
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
        "up_block_types": ("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
        **FOURIER,
    },
    "ncsnpp with groups of its own": {
        "sample_size": 16,
        "block_out_channels": (32, 64),
        "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        "layers_per_block": 1,
        **FOURIER,
        "norm_num_groups": 32,
        "attn_norm_num_groups": 16,
    },
}


def pipeline(name, **scheduler):
    """A pipeline with random weights, all of them away from zero."""
    torch.manual_seed(1)
    unet = diffusers.UNet2DModel(**LAYOUTS[name]).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if "ncsnpp" in name:
        noise = diffusers.ScoreSdeVeScheduler(sigma_max=50.0, **scheduler)
        return diffusers.ScoreSdeVePipeline(unet=unet, scheduler=noise)
    if "learned" in name:
        scheduler |= {"variance_type": "learned_range"}
    return diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler(**scheduler))


def inputs(name):
    size = LAYOUTS[name]["sample_size"]
    size = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(2)
    return torch.rand(2, LAYOUTS[name].get("in_channels", 3), *size, generator=generator)


def check_outputs(model, unet, name):
    """Compare the model's network with `unet` at the same labels, to 1e-5 of the largest entry."""
    x = inputs(name)
    ve = "ncsnpp" in name
    labels = torch.tensor([0.05, 20.0]) if ve else torch.tensor([3, 700])
    with torch.no_grad():
        expected = unet(x, labels).sample
        centred = 2 * x - 1 if LAYOUTS[name].get("center_input_sample") else x
        actual = model.net(centred, labels.log() if ve else labels.float())
    actual = actual / labels[:, None, None, None] if ve else actual
    scale = expected.abs().amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("safe", [True, False])
def test_networks_are_read_and_written_back(name, safe, tmp_path):
    """float32 sums in another order agree to 1e-5, and written back the tensors are the same."""
    theirs = pipeline(name)
    theirs.save_pretrained(tmp_path / "theirs", safe_serialization=safe)
    model = load_diffusers(tmp_path / "theirs")
    check_outputs(model, theirs.unet, name)
    save_diffusers(model, tmp_path / "ours")
    back = type(theirs).from_pretrained(tmp_path / "ours").unet
    check_outputs(model, back, name)
    again = load_diffusers(tmp_path / "ours")
    assert again.description() == model.description()
    for one, other in zip(again.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ncsnpp"])
def test_ve_is_ready_to_sample(name, tmp_path):
    """The score is the output of the pipeline's network, for data in [0, 1], at its σ.

    The tolerance is 1e-4, since their label is the logarithm of a float32 σ, which is multiplied by
    frequencies of about 100.
    """
    theirs = pipeline(name)
    theirs.save_pretrained(tmp_path)
    model = load_diffusers(tmp_path)
    t, x = torch.tensor([0.1, 0.9], dtype=torch.float64), inputs(name)
    with torch.no_grad():
        expected = theirs.unet(x, model.sde.sigma(t).float()).sample
        actual = model.score(x, t)
    scale = expected.abs().amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=1e-4)
    assert model.data_range == (0.0, 1.0)
    assert (model.sde.sigma_min, model.sde.sigma_max) == (0.01, 50.0)


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_chains_are_those_of_the_scheduler(schedule, prediction, tmp_path):
    """α and σ of every level, and the data that a prediction implies, are the scheduler's."""
    theirs = pipeline("ddpm", beta_schedule=schedule, prediction_type=prediction, clip_sample=False)
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_diffusers(tmp_path / "theirs")
    kept = theirs.scheduler.alphas_cumprod.double()
    # Their products of 1000 float32 factors are good to about 1e-6; the last of cosine is 2e-9.
    torch.testing.assert_close(model.sde.alphas.square(), kept, rtol=5e-5, atol=1e-7)
    level, x = 400, inputs("ddpm")
    with torch.no_grad():
        output = theirs.unet(x, level).sample
        expected = theirs.scheduler.step(output, level, x).pred_original_sample
        actual = model.denoise(x, model.sde.times[level])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    save_diffusers(model, tmp_path / "ours")
    back = diffusers.DDPMPipeline.from_pretrained(tmp_path / "ours").scheduler
    torch.testing.assert_close(back.betas, theirs.scheduler.betas)
    assert back.config.prediction_type == prediction


@pytest.mark.parametrize("ends", [{}, {"beta_start": 0.00085, "beta_end": 0.012}])
def test_scaled_linear_chains_are_those_of_the_scheduler(ends):
    theirs = diffusers.DDPMScheduler(beta_schedule="scaled_linear", **ends)
    chain = process(theirs.config, "a scheduler")
    kept = theirs.alphas_cumprod.double()
    torch.testing.assert_close(chain.alphas.square(), kept, rtol=5e-5, atol=1e-7)


def test_a_network_alone_is_taken_with_a_warning_or_a_process(tmp_path, caplog):
    theirs = pipeline("ddpm").unet
    theirs.save_pretrained(tmp_path)
    assert load_diffusers(tmp_path).sde.steps == 1000
    assert "assumed DDPMScheduler with its default constants" in caplog.text
    caplog.clear()
    assert load_diffusers(tmp_path, sde=VP()).sde.steps is None
    assert not caplog.records


def test_names_of_older_files_are_read(tmp_path):
    theirs = pipeline("ddpm")
    theirs.save_pretrained(tmp_path, safe_serialization=False)
    path = tmp_path / "unet" / "diffusion_pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, former in old.items():
        state = {k.replace(f".{new}.", f".{former}."): v for k, v in state.items()}
    assert any("proj_attn" in name for name in state)
    torch.save(state, path)
    check_outputs(load_diffusers(tmp_path), theirs.unet, "ddpm")


def test_the_average_of_the_training_script(tmp_path, caplog):
    """EMAModel records how it averaged in the configuration of the network."""
    from diffusers.training_utils import EMAModel

    theirs = pipeline("grey, not square, learned variance")
    theirs.save_pretrained(tmp_path)
    kind = diffusers.UNet2DModel
    ema = EMAModel(theirs.unet.parameters(), model_cls=kind, model_config=theirs.unet.config)
    ema.shadow_params = [2 * tensor for tensor in ema.shadow_params]
    ema.save_pretrained(str(tmp_path / "unet_ema"))
    assert "update_after_step" in (tmp_path / "unet_ema" / "config.json").read_text()
    raw, mean = load_diffusers(tmp_path, ema=False), load_diffusers(tmp_path)
    assert "took the averaged weights" in caplog.text
    for one, other in zip(mean.parameters(), raw.parameters(), strict=True):
        torch.testing.assert_close(one, 2 * other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_class_embeds": 10}, "num_class_embeds=10; only None is read"),
        ({"resnet_time_scale_shift": "scale_shift"}, "only default is read"),
        ({"downsample_type": "resnet"}, "downsample_type=resnet"),
        ({"mid_block_scale_factor": 2}, "mid_block_scale_factor=2; with these blocks only 1"),
        ({"block_out_channels": [32, 48]}, r"block_out_channels=\[32, 48\]"),
        ({"time_embedding_dim": 64}, "time_embedding_dim=64; only 128"),
        ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "supported are DownBlock2D"),
        ({"_class_name": "UNet2DConditionModel"}, "only UNet2DModel is read"),
        ({"encoder_hid_dim": 3}, "encoder_hid_dim=3, which is not supported"),
        ({"layers_per_block": "2"}, "layers_per_block='2', of a wrong type"),
        ({"center_input_sample": "false"}, "center_input_sample='false', of a wrong type"),
        ({"center_input_sample": True}, "useful for VE only"),
        ({"block_out_channels": []}, "block_out_channels"),
        ({"block_out_channels": [0, 0]}, "block_out_channels"),
        ({"out_channels": 2}, "out_channels=2 is neither in_channels=3 nor twice that"),
        ({"out_channels": 6}, "variance_type=fixed_small does not go with 6 output channels"),
        ({"norm_eps": None}, "norm_eps=None, of a wrong type"),
        ({"layers_per_block": 1}, "does not fit the network: it has .*which the network has not"),
        ({"block_out_channels": [64, 64]}, "does not fit the network"),
    ],
)
def test_networks_that_are_not_here_are_refused_by_name(change, sentence, tmp_path):
    pipeline("ddpm").save_pretrained(tmp_path)
    path = tmp_path / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=sentence):
        load_diffusers(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"beta_schedule": "sigmoid"}, "only linear, scaled_linear and squaredcos_cap_v2"),
        ({"trained_betas": [0.1, 0.2]}, "its own betas"),
        ({"variance_type": "learned"}, "the logarithm itself, is not supported"),
        ({"variance_type": "learned_range"}, "does not go with 3 output channels"),
        ({"beta_start": "small"}, "the scheduler's configuration in .* cannot be loaded"),
        ({"prediction_type": "flow"}, "unknown prediction_type 'flow'"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "fourier goes with ScoreSdeVeScheduler"),
    ],
)
def test_processes_that_are_not_here_are_refused_by_name(change, sentence, tmp_path):
    pipeline("ddpm").save_pretrained(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=sentence):
        load_diffusers(tmp_path)


DDPM = {"resblock_type": "ddpm", "skip_rescale": False, "channels_per_group": 1}
DDPM |= {"nf": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_up": "each"}
SHAPE = (3, 16, 16)
CHAIN = VP().discretize(1000)


@pytest.mark.parametrize(
    ("options", "sde", "arguments", "sentence"),
    [
        ({}, VP(), {}, "diffusers has chains of VP"),
        ({}, SubVP(), {}, "diffusers has chains of VP"),
        ({}, EDM(), {"parameterization": "edm"}, "diffusers has chains of VP"),
        ({}, CHAIN, {"parameterization": "edm"}, "predict noise, data or v, not edm"),
        ({}, CHAIN, {"data_range": (0.0, 1.0)}, "has data in"),
        ({"attn_up": "last", "attn_levels": [1]}, CHAIN, {}, "attends after each block"),
        ({"skip_rescale": True}, CHAIN, {}, "skip_rescale=False, not True"),
        ({"resblock_type": "biggan"}, CHAIN, {}, "resblock_type=ddpm, not biggan"),
        ({"noise_conditional": False}, CHAIN, {}, "always has a noise label"),
        ({"embedding_type": "fourier"}, CHAIN, {}, "chains have a positional embedding"),
        ({}, VE(), {"parameterization": "score", "data_range": (0, 1)}, "have a Fourier embedding"),
        ({}, CHAIN, {"c_noise": "edm"}, "have c_noise=process, not edm"),
        ({}, VE(), {"data_range": (0.0, 1.0)}, "predict σ s, not noise"),
        ({"groups": {"head.0": 8}}, CHAIN, {}, "normalizes head.0 of 32 channels in 32 groups"),
    ],
)
def test_models_that_diffusers_has_not_are_refused_by_name(
    options, sde, arguments, sentence, tmp_path
):
    net = UNet(SHAPE, **{**DDPM, **options})
    model = ScoreModel(net, sde, **{"data_range": (-1.0, 1.0), **arguments})
    with pytest.raises(ValueError, match=sentence):
        save_diffusers(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_points_and_pyramids_of_grey_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a U-Net of images alone"):
        save_diffusers(ScoreModel(MLP((2,)), CHAIN, data_range=(-1.0, 1.0)), tmp_path)
    pyramids = {"progressive": "output_skip", "progressive_input": "input_skip", "fir": True}
    net = UNet((1, 16, 16), nf=32, ch_mult=(1, 2), embedding_type="fourier", **pyramids)
    with pytest.raises(ValueError, match="3 channels in its pyramids, not 1"):
        save_diffusers(ScoreModel(net, VE(), "score", data_range=(0.0, 1.0)), tmp_path)


def test_nothing_is_overwritten(tmp_path):
    chain = VP(schedule=CosineSchedule()).discretize(1000)
    model = ScoreModel(UNet(SHAPE, **DDPM), chain, data_range=(-1.0, 1.0))
    save_diffusers(model, tmp_path)
    with pytest.raises(FileExistsError, match="already holds a model"):
        save_diffusers(model, tmp_path)


def test_shards_are_read_each_tensor_from_its_own(tmp_path):
    from safetensors.torch import load_file, save_file

    theirs = pipeline("ddpm")
    theirs.save_pretrained(tmp_path)
    unet = tmp_path / "unet"
    whole = load_file(unet / "diffusion_pytorch_model.safetensors")
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    places = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(whole)}
    for file in set(places.values()):
        save_file({n: t for n, t in whole.items() if places[n] == file}, unet / file)
    index = unet / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    check_outputs(load_diffusers(tmp_path), theirs.unet, "ddpm")
    first = next(iter(places))
    for wrong, sentence in [
        ({"weight_map": places | {first: "../part-0.safetensors"}}, "which is not next to it"),
        ({"weight_map": places | {"other": "part-0.safetensors"}}, "names other tensors"),
        ({"weight_map": [1]}, "no weight_map"),
        ({}, "no weight_map"),
    ]:
        index.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=sentence):
            load_diffusers(tmp_path)


def test_a_variant_is_named_where_the_weights_are_missing(tmp_path):
    pipeline("defaults").save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(FileNotFoundError, match=r"there are .*\.fp16\.safetensors, rename one"):
        load_diffusers(tmp_path)


@pytest.mark.parametrize("bad", ["missing", "empty", "truncated", "foreign"])
@pytest.mark.parametrize(
    "file",
    ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"],
    ids=["json", "tensors"],
)
def test_damaged_files_give_one_sentence(file, bad, tmp_path):
    pipeline("defaults").save_pretrained(tmp_path)
    path = tmp_path / file
    whole = path.read_bytes()
    path.unlink()
    if bad != "missing":
        path.write_bytes(
            {"empty": b"", "truncated": whole[: len(whole) // 2]}.get(bad, b"\x80\x04.")
        )
    with pytest.raises((ValueError, FileNotFoundError), match=path.stem) as caught:
        load_diffusers(tmp_path)
    assert "\n" not in str(caught.value)
