"""Checkpoints of score-SDE: golden outputs, an independent walk through their tensors, refusals."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scoresde.interop.score_sde import load_score_sde, rows, save_score_sde
from scoresde.models import MLP, ScoreModel, UNet
from scoresde.sde import EDM, VE, VP, CosineSchedule, SubVP, describe
from tests.interop.reference_network import Reference
from tests.places import SHARED

GOLDEN = SHARED / "golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.exists(), reason="the reference's outputs (../shared/golden) are not here"
)
NAMES = [
    "ncsnpp_ve_continuous",
    "ncsnpp_vp_continuous",
    "ncsnpp_ve_256_style",
    "ddpmpp_subvp_continuous",
    "ddpm_vp",
]

MODEL = {
    "name": "ncsnpp",
    "nf": 8,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "dropout": 0.1,
    "resamp_with_conv": True,
    "conditional": True,
    "fir": True,
    "fir_kernel": [1, 3, 3, 1],
    "skip_rescale": True,
    "resblock_type": "biggan",
    "progressive": "none",
    "progressive_input": "residual",
    "progressive_combine": "sum",
    "embedding_type": "positional",
    "fourier_scale": 16,
    "init_scale": 0.0,
    "scale_by_sigma": False,
    "sigma_min": 0.01,
    "sigma_max": 50.0,
    "num_scales": 1000,
    "beta_min": 0.1,
    "beta_max": 20.0,
}
DDPM = {"name": "ddpm", "nf": 32, "ch_mult": [1, 2], "fir": False, "progressive_input": "none"}
VE_OUTPUT = {"embedding_type": "fourier", "scale_by_sigma": True}
SKIPS = {"progressive": "output_skip", "progressive_input": "input_skip"}


def config(sde="vpsde", continuous=True, channels=3, size=16, **fields):
    return {
        "model": MODEL | fields,
        "data": {"image_size": size, "num_channels": channels, "centered": sde != "vesde"},
        "training": {"sde": sde, "continuous": continuous},
    }


CASES = {
    "cat": config("vesde", **VE_OUTPUT, **SKIPS, progressive_combine="cat"),
    "cat, three levels": config(
        "vesde", **VE_OUTPUT, **SKIPS, progressive_combine="cat", ch_mult=[1, 1, 2]
    ),
    "cat, no output pyramid": config(progressive_input="input_skip", progressive_combine="cat"),
    "256": config("vesde", **VE_OUTPUT, **SKIPS, ch_mult=[1, 1, 2, 2], num_res_blocks=2),
    "deep": config("vesde", **VE_OUTPUT, num_res_blocks=8),
    "deep ++": config(num_res_blocks=8, fir=False, progressive_input="none"),
    "one channel": config(channels=1),
    "one level": config(ch_mult=[1], progressive_input="none", fir=False, attn_resolutions=[16]),
    "two attended": config(attn_resolutions=[16, 8]),
    "none attended": config(attn_resolutions=[]),
    "chain of VE": config("vesde", False, scale_by_sigma=True, num_scales=100),
    "DDPM": config(continuous=False, **DDPM),
    "DDPM, mean and nearest": config(continuous=False, **DDPM | {"resamp_with_conv": False}),
    "DDPM, deep": config(continuous=False, **DDPM | {"num_res_blocks": 3, "ch_mult": [1, 1, 2]}),
    "sub-VP": config("subvpsde"),
    "ddpm blocks in ++": config(resblock_type="ddpm", fir=False, progressive_input="none"),
    "residual output": config(
        resblock_type="ddpm", fir=False, progressive_input="residual", progressive="residual"
    ),
}
DEFAULT = CASES["one channel"]


def random_checkpoint(case, decay=None):
    """A checkpoint in score-SDE's format with random tensors, none of them zero."""
    from scoresde.interop.configuration import meaning

    net, _, _ = meaning(case)
    generator = torch.Generator().manual_seed(3)
    state = {"module.sigmas": _sigmas(case["model"])}
    shadow = []
    ours = net.state_dict()
    for row in rows(net):
        shape = row.form.merge([ours[name] for name in row.ours]).shape
        value = 0.3 * torch.randn(shape, generator=generator)
        state[f"module.{row.theirs}"] = value
        if not row.theirs.endswith("0.W") or "NIN" in row.theirs:
            shadow.append(value + 0.1 * torch.randn(shape, generator=generator))
    decay = decay or (0.999 if case["training"]["sde"] == "vesde" else 0.9999)
    average = {"decay": decay, "num_updates": 9, "shadow_params": shadow}
    return {"optimizer": {}, "model": state, "ema": average, "step": 9}


def _sigmas(model):
    ends = np.log([model["sigma_max"], model["sigma_min"]])
    return torch.from_numpy(np.exp(np.linspace(*ends, model["num_scales"]))).float()


def write(path, checkpoint):
    torch.save(checkpoint, path)
    return path


def assert_equal(actual, expected, tolerance=1e-5):
    """Compare float32 with float64, relative to each image's largest entry."""
    scale = expected.abs().amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(
        actual.double() / scale, expected.double() / scale, rtol=0, atol=tolerance
    )


# --- golden files


@needs_golden
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("configured", [True, False])
def test_golden_outputs(name, ema, configured):
    """With the configuration, and from the shapes alone, the outputs agree to 1e-5 in float32."""
    golden = json.loads((GOLDEN / "networks.json").read_text())[name]
    model = load_score_sde(GOLDEN / f"{name}.pth", golden if configured else None, ema)
    arrays = np.load(GOLDEN / f"{name}.npz")
    x, labels = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["labels"])
    ve = golden["training"]["sde"] == "vesde"
    with torch.no_grad():
        actual = model.net(2 * x - 1 if ve else x, labels.log() if ve else labels)
    if ve:
        actual = actual / labels[:, None, None, None]
    assert_equal(actual, torch.from_numpy(arrays["output_ema" if ema else "output"]))
    assert model.data_range == ((0.0, 1.0) if ve else (-1.0, 1.0))
    assert model.parameterization == ("score" if ve else "noise")
    assert model.step == 7


@needs_golden
@pytest.mark.parametrize("name", NAMES)
def test_the_walk_gives_the_golden_outputs(name):
    """The oracle of the other tests, in float64, agrees with the reference's float32."""
    golden = json.loads((GOLDEN / "networks.json").read_text())[name]
    saved = torch.load(GOLDEN / f"{name}.pth", weights_only=True)["model"]
    state = {key.removeprefix("module."): value for key, value in saved.items()}
    del state["sigmas"]
    arrays = np.load(GOLDEN / f"{name}.npz")
    x, labels = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["labels"])
    ve = golden["training"]["sde"] == "vesde"
    actual = Reference(state, golden)(2 * x - 1 if ve else x, labels)
    actual = actual / labels[:, None, None, None].double() if ve else actual
    assert_equal(actual, torch.from_numpy(arrays["output"]))


# --- the other options, against the walk


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ema", [True, False])
def test_every_option_gives_the_output_of_the_walk(name, ema, tmp_path):
    case = CASES[name]
    checkpoint = random_checkpoint(case)
    model = load_score_sde(write(tmp_path / "checkpoint.pth", checkpoint), case, ema)
    state = {k.removeprefix("module."): v for k, v in checkpoint["model"].items()}
    del state["sigmas"]
    if ema:
        trained = [k for k in state if k != "all_modules.0.W"]
        state |= dict(zip(trained, checkpoint["ema"]["shadow_params"], strict=True))
    x = torch.randn(2, case["data"]["num_channels"], 16, 16)
    labels = torch.tensor([0.3, 7.0])
    fourier = case["model"]["embedding_type"] == "fourier" and case["model"]["name"] == "ncsnpp"
    with torch.no_grad():
        actual = model.net(x, labels.log() if fourier else labels)
    assert_equal(actual, Reference(state, case)(x, labels))


def test_images_that_are_not_square(tmp_path):
    """score-SDE's networks take any width; ours take the given shape, or any that divides."""
    case = config(attn_resolutions=[16, 8])
    checkpoint = random_checkpoint(case)
    model = load_score_sde(write(tmp_path / "c.pth", checkpoint), ema=False)
    state = {k.removeprefix("module."): v for k, v in checkpoint["model"].items()}
    del state["sigmas"]
    x, labels = torch.randn(2, 3, 16, 24), torch.tensor([0.3, 7.0])
    with torch.no_grad():
        assert_equal(model.net(x, labels), Reference(state, case)(x, labels))


@pytest.mark.parametrize(
    "name", [n for n in CASES if "ddpm blocks" not in n and n != "DDPM, mean and nearest"]
)
def test_shapes_determine_the_network(name, tmp_path):
    """All is found but what no shape shows; "ddpm blocks in ++" looks like DDPM, as documented."""
    case = CASES[name]
    path = write(tmp_path / "checkpoint.pth", random_checkpoint(case))
    guessed = describe(load_score_sde(path).net)
    known = describe(load_score_sde(path, case).net)
    for silent in ("shape", "attn_resolutions", "attn_levels", "fir", "fir_kernel", "dropout"):
        if silent != "fir" or case["model"]["progressive_input"] != "none":
            guessed.pop(silent), known.pop(silent)
    if case["model"]["name"] == "ncsnpp" and case["model"]["resblock_type"] == "ddpm":
        return
    assert guessed == known


# --- both ways


@pytest.mark.parametrize("name", CASES)
def test_models_are_written_and_read_back(name, tmp_path, caplog):
    case = CASES[name]
    path = write(tmp_path / "theirs.pth", random_checkpoint(case))
    model = load_score_sde(path, case)
    written = save_score_sde(model, tmp_path / "ours.pth")
    back = load_score_sde(written)
    assert not caplog.records  # the configuration next to it leaves nothing to assume
    assert back.description() == model.description()
    for one, other in zip(back.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    theirs, ours = (torch.load(p, weights_only=True) for p in (path, written))
    assert list(ours["model"]) == list(theirs["model"])
    assert set(ours) == set(theirs)
    torch.testing.assert_close(ours["model"]["module.sigmas"], theirs["model"]["module.sigmas"])
    shapes = [[tuple(t.shape) for t in s["ema"]["shadow_params"]] for s in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert ours["step"] == 9


def test_their_optimizer_takes_what_is_written(tmp_path):
    """score-SDE restores Adam's state for the trained parameters in its own order."""
    model = load_score_sde(write(tmp_path / "a.pth", random_checkpoint(CASES["256"])), CASES["256"])
    saved = torch.load(save_score_sde(model, tmp_path / "b.pth"), weights_only=True)
    named = [t for name, t in saved["model"].items() if name != "module.sigmas"]
    assert len(named) == len(saved["ema"]["shadow_params"]) + 1  # the Fourier projection
    parameters = [torch.nn.Parameter(t) for t in named]
    torch.optim.Adam(parameters, lr=1.0).load_state_dict(saved["optimizer"])


@pytest.mark.parametrize(
    ("sde", "arguments", "sentence"),
    [
        (EDM(), {"parameterization": "edm"}, "score-SDE has VE, and VP and sub-VP"),
        (VP(schedule=CosineSchedule()), {}, "with a linear β"),
        (VP(), {"parameterization": "v"}, "noise predictions for VP"),
        (VP(), {"learned_variance": True}, "no learned variances"),
        (VP(), {"data_range": (0.0, 2.0)}, r"data in \[-1, 1\] or \[0, 1\]"),
        (VE().discretize(10), {"parameterization": "score"}, "NCSN's chains"),
        (SubVP().discretize(100), {}, "NCSN's chains"),
    ],
)
def test_what_the_format_cannot_say_is_refused_by_name(sde, arguments, sentence, tmp_path):
    out = 6 if arguments.get("learned_variance") else None
    net = UNet((3, 16, 16), nf=8, ch_mult=(1, 2), num_res_blocks=1, out_channels=out)
    model = ScoreModel(net, sde, **{"data_range": (-1.0, 1.0), **arguments})
    with pytest.raises(ValueError, match=sentence):
        save_score_sde(model, tmp_path / "out.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"attn_up": "each"}, "attn_up=last, not each"),
        ({"head_dim": 4}, "head_dim=None, not 4"),
        ({"norm_eps": 1e-5}, "norm_eps=1e-06"),
        ({"groups": {"head.0": 1}}, "groups=None"),
        ({"channels_per_group": 2}, "NCSN.. has channels_per_group=4, not 2"),
        ({"noise_conditional": False}, "without a noise label"),
        ({"shape": (3, 16, 8)}, "for square images of one size"),
        ({"shape": (3, None, None), "attn_levels": [1]}, "for square images of one size"),
    ],
)
def test_networks_that_the_format_has_not_are_refused_by_name(options, sentence, tmp_path):
    net = UNet(**{"shape": (3, 16, 16), "nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, **options})
    with pytest.raises(ValueError, match=sentence):
        save_score_sde(ScoreModel(net, VP(), data_range=(-1.0, 1.0)), tmp_path / "out.pth")


def test_points_and_existing_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no network like MLP"):
        save_score_sde(ScoreModel(MLP((2,)), VP()), tmp_path / "out.pth")
    net = UNet((3, 16, 16), nf=8, ch_mult=(1, 2), num_res_blocks=1)
    model = ScoreModel(net, VP(), data_range=(-1.0, 1.0))
    with pytest.raises(ValueError, match=r"is named checkpoint_N\.pth, say, not out\.json"):
        save_score_sde(model, tmp_path / "out.json")
    (tmp_path / "out.json").write_text("mine")
    with pytest.raises(FileExistsError, match="choose another name"):
        save_score_sde(model, tmp_path / "out.pth")
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


# --- bad input


def spoil(checkpoint, how):
    model, average = checkpoint["model"], checkpoint["ema"]
    if how == "tensor missing":
        del model["module.all_modules.3.Conv_0.bias"]
    elif how == "tensor left over":
        model["module.all_modules.99.weight"] = torch.zeros(2)
    elif how == "shape":
        model["module.all_modules.0.weight"] = torch.zeros(3, 3)
    elif how == "average short":
        average["shadow_params"].pop()
    elif how == "average of other shapes":
        average["shadow_params"][0] = torch.zeros(3)
    elif how == "no average":
        del checkpoint["ema"]
    return checkpoint


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("tensor missing", "it lacks all_modules.3.Conv_0.bias"),
        ("tensor left over", "it has all_modules.99.weight, which the network has not"),
        ("shape", r"all_modules.0.weight is \(3, 3\), expected \(32, 8\)"),
        ("average short", "averages .* tensors, the network has"),
        ("average of other shapes", r"all_modules.0.weight is \(3,\), expected"),
        ("no average", "no averaged weights; use ema=False"),
    ],
)
def test_loading_is_strict(how, sentence, tmp_path):
    checkpoint = spoil(random_checkpoint(DEFAULT), how)
    ema = "average" in how
    with pytest.raises(ValueError, match=sentence):
        load_score_sde(write(tmp_path / "c.pth", checkpoint), DEFAULT, ema=ema)


@pytest.mark.parametrize(
    ("section", "change", "sentence"),
    [
        ("model", {"name": "wideresnet"}, "unknown model.name 'wideresnet'"),
        ("model", {"nonlinearity": "relu"}, "model.nonlinearity must be swish"),
        ("model", {"conditional": False}, "without a noise label"),
        ("model", {"embedding_type": "fourier"}, "Fourier embeddings are of log σ"),
        ("model", {"scale_by_sigma": True}, "scale_by_sigma divides by the σ of VE"),
        (
            "training",
            {"sde": "edm"},
            "unknown training.sde 'edm'. Available: vesde, vpsde, subvpsde",
        ),
        ("training", {"sde": "vesde"}, "a continuous VE needs embedding_type=fourier"),
        ("data", {"centered": False}, "VP and sub-VP scale the data by α, and it must be true"),
        ("data", {"centered": "false"}, "data.centered must be true or false, got 'false'"),
        ("data", {"centered": None}, "data.centered must be true or false, got None"),
        ("training", {"continuous": "False"}, "training.continuous must be true or false"),
        ("model", {"fir": "False"}, "model.fir must be true or false"),
        ("model", {"nf": "8"}, "model.nf must be an integer ≥ 1, got '8'"),
        ("model", {"nf": True}, "model.nf must be an integer ≥ 1, got True"),
        ("model", {"ch_mult": 2}, "model.ch_mult must be a list of integers, got 2"),
        ("model", {"beta_min": "abc"}, "model.beta_min must be a number, got 'abc'"),
        ("model", {"resblock_type": 3}, "model.resblock_type must be a string, got 3"),
        ("model", {"fir_kernel": None}, "model.fir_kernel must be a list"),
        ("data", {"image_size": "16"}, "data.image_size must be an integer"),
    ],
)
def test_configurations_are_checked(section, change, sentence, tmp_path):
    case = copy.deepcopy(DEFAULT)
    case[section] |= change
    path = write(tmp_path / "c.pth", random_checkpoint(DEFAULT))
    with pytest.raises(ValueError, match=sentence):
        load_score_sde(path, case)


NEEDED = "nf ch_mult num_res_blocks resamp_with_conv fir fir_kernel skip_rescale resblock_type"
NEEDED += " progressive progressive_input embedding_type attn_resolutions beta_min"


@pytest.mark.parametrize(
    "missing",
    [("data", "centered"), ("training", "sde"), *(("model", name) for name in NEEDED.split())],
)
def test_configurations_are_whole(missing, tmp_path):
    """A network must not be built from the defaults of another one."""
    case = copy.deepcopy(DEFAULT)
    del case[missing[0]][missing[1]]
    path = write(tmp_path / "c.pth", random_checkpoint(DEFAULT))
    with pytest.raises(ValueError, match=".".join(missing)):
        load_score_sde(path, case)
    (tmp_path / "case.yaml").write_text(json.dumps(DEFAULT))  # JSON is YAML
    assert load_score_sde(path, tmp_path / "case.yaml").net.shape == (1, 16, 16)


def test_a_number_of_yaml_may_be_a_word(tmp_path):
    """In YAML, 1e-2 is a word."""
    case = CASES["256"]
    path = write(tmp_path / "c.pth", random_checkpoint(case))
    text = json.dumps(case).replace('"sigma_min": 0.01', '"sigma_min": 1e-2')
    (tmp_path / "case.yaml").write_text(text)
    assert load_score_sde(path, tmp_path / "case.yaml").sde.sigma_min == 0.01


@pytest.mark.parametrize("name", ["256", "chain of VE"])
@pytest.mark.parametrize("change", [{"sigma_max": 90.0}, {"sigma_min": 0.02}, {"num_scales": 50}])
def test_levels_next_to_the_network_are_those_of_the_configuration(name, change, tmp_path):
    case = copy.deepcopy(CASES[name])
    path = write(tmp_path / "c.pth", random_checkpoint(case))
    case["model"] |= change
    if "num_scales" in change and case["training"]["continuous"]:
        assert load_score_sde(path, case).sde.steps is None  # it has no meaning there
        return
    with pytest.raises(ValueError, match=r"levels σ from 50 to 0\.01, its configuration"):
        load_score_sde(path, case)


@pytest.mark.parametrize("sde", ["vesde", "vpsde"])
def test_fourier_embeddings_are_of_a_continuous_ve(sde, tmp_path):
    case = copy.deepcopy(CASES["256"])
    path = write(tmp_path / "c.pth", random_checkpoint(case))
    case["training"] |= {"sde": sde, "continuous": False}
    case["data"]["centered"] = sde == "vpsde"
    with pytest.raises(ValueError, match="ourier"):
        load_score_sde(path, case)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_the_networks(dtype, tmp_path):
    checkpoint = random_checkpoint(DEFAULT)
    checkpoint["ema"]["shadow_params"] = [t.to(dtype) for t in checkpoint["ema"]["shadow_params"]]
    model = load_score_sde(write(tmp_path / "c.pth", checkpoint), DEFAULT)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.score(torch.randn(2, 1, 16, 16), torch.tensor(0.5)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_other_numbers_are_refused(dtype, tmp_path):
    checkpoint = random_checkpoint(DEFAULT)
    checkpoint["ema"]["shadow_params"][3] = checkpoint["ema"]["shadow_params"][3].to(dtype)
    with pytest.raises(ValueError, match=f"has {dtype} numbers in"):
        load_score_sde(write(tmp_path / "c.pth", checkpoint), DEFAULT)


def test_weights_do_not_change_with_their_file(tmp_path):
    """score-SDE writes its running checkpoint over the old one, in place."""
    path = write(tmp_path / "c.pth", random_checkpoint(DEFAULT))
    model = load_score_sde(path, DEFAULT)
    before = [p.detach().clone() for p in model.parameters()]
    path.write_bytes(b"\x01" * (path.stat().st_size // 2))
    for one, other in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": 3}, "no checkpoint of score-SDE"),
        ({"model": {"a": 1}}, "no checkpoint of score-SDE"),
        ({"ema": {"decay": 0.9, "shadow_params": {"a": 1}}}, "values other than tensors"),
        ({"ema": {"decay": 0.9, "shadow_params": None}}, "values other than tensors"),
    ],
)
def test_checkpoints_of_other_things_give_one_sentence(change, sentence, tmp_path):
    path = write(tmp_path / "c.pth", random_checkpoint(DEFAULT) | change)
    with pytest.raises(ValueError, match=sentence):
        load_score_sde(path, DEFAULT)


def test_what_was_assumed_is_said(tmp_path, caplog):
    path = write(tmp_path / "c.pth", random_checkpoint(DEFAULT))
    model = load_score_sde(path)
    assert "assumed VP with β from 0.1 to 20; sub-VP has the same tensors" in caplog.text
    assert model.net.shape == (1, None, None)
    chain = write(tmp_path / "d.pth", random_checkpoint(CASES["chain of VE"]))
    model = load_score_sde(chain)
    assert "assumed NCSN's chain of VE, by the decay" in caplog.text
    assert (model.sde.steps, model.c_noise) == (100, "descending")
    torch.testing.assert_close(model.sde.sigmas[-1].item(), 50.0)


def test_levels_of_a_chain_of_ve_are_numbered_from_the_noisiest(tmp_path):
    """score-SDE's label of level i of 100 is 99 − i, and it divides by the σ of that level."""
    case = CASES["chain of VE"]
    model = load_score_sde(write(tmp_path / "c.pth", random_checkpoint(case)), case)
    x, level = torch.rand(2, 3, 16, 16), 20
    t = model.sde.times[level]
    with torch.no_grad():
        expected = model.net(2 * x - 1, torch.full((2,), 99.0 - level))
        actual = model.score(x, t) * model.sde.sigmas[level].item()
    assert_equal(actual, expected)


class Evil:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (Path.touch, (Path(self.marker),))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    marker = tmp_path / "ran"
    checkpoint = random_checkpoint(DEFAULT) | {"extra": Evil(marker)}
    with pytest.raises(ValueError, match="never run"):
        load_score_sde(write(tmp_path / "c.pth", checkpoint), DEFAULT)
    assert not marker.exists()


def test_truncated_and_foreign_files_give_one_sentence(tmp_path):
    whole = write(tmp_path / "whole.pth", random_checkpoint(DEFAULT)).read_bytes()
    for number, share in enumerate((0.0, 0.01, 0.3, 0.7, 0.99)):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=path.name) as caught:
            load_score_sde(path, DEFAULT)
        assert "\n" not in str(caught.value)
    foreign = {"text": b"hello", "png": b"\x89PNG\r\n", "tensors": None}
    for name, content in foreign.items():
        path = tmp_path / f"{name}.pth"
        torch.save({"a": torch.zeros(2)}, path) if content is None else path.write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load_score_sde(path, DEFAULT)
    with pytest.raises(FileNotFoundError, match="absent"):
        load_score_sde(tmp_path / "absent.pth", DEFAULT)
