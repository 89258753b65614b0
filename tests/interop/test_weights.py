"""Wrappers, trainers and averages around the weights of a file do not change the network in it."""

import argparse
import collections
import copy
import functools
import os
import pickle

import pytest
import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from scoresde.experiments import convert
from scoresde.experiments.model import fill
from scoresde.interop import format_of, load, save_diffusers, save_score_sde
from scoresde.interop.configuration import configuration
from scoresde.interop.edm import rows as edm_rows
from scoresde.interop.flax import rows as flax_rows
from scoresde.interop.score_sde import load_score_sde
from scoresde.interop.score_sde import rows as score_sde_rows
from scoresde.interop.table import write
from scoresde.models import MLP, ScoreModel, UNet
from scoresde.models.names import bare, fitted
from scoresde.sde import EDM, VP, Described
from scoresde.training import EMA, checkpoint
from tests.interop.test_flax import small_map

SHAPE = (1, 8, 8)
TINY = {"nf": 32, "ch_mult": (1,), "num_res_blocks": 1, "resblock_type": "ddpm"}
TINY |= {"skip_rescale": False, "channels_per_group": 1}
PREFIXES = ["module.", "_orig_mod.", "model.", "model.module._orig_mod.module."]


def shaken(model, seed=0):
    """The same model with other weights, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    made = copy.deepcopy(model).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


def network(attn_up="last"):
    chain = VP().discretize(100)
    return ScoreModel(UNet(SHAPE, attn_up=attn_up, **TINY), chain, data_range=(-1.0, 1.0)).eval()


def edm():
    options = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "norm_eps": 1e-6}
    net = UNet(SHAPE, resblock_type="biggan", skip_rescale=True, **options)
    return ScoreModel(net, EDM(), "edm", data_range=(-1.0, 1.0)).eval()


RAW, MEAN = shaken(network(), 1), shaken(network(), 2)
EDM_RAW, EDM_MEAN = shaken(edm(), 1), shaken(edm(), 2)


def check(model, expected):
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def theirs(kind, model):
    """The tensors of a model, under the names of a format."""
    table = edm_rows(model.net, SHAPE[1]) if kind == "edm" else kind(model.net)
    return {name: one.contiguous() for name, one in write(table, model.net.state_dict()).items()}


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrappers_change_no_name_of_score_sde(prefix, tmp_path):
    path = save_score_sde(RAW, tmp_path / "c.pth")
    saved = torch.load(path, weights_only=True)
    mean = theirs(score_sde_rows, MEAN)
    saved["ema"]["shadow_params"] = list(mean.values())
    bare_names = prefixed("", {n.removeprefix("module."): t for n, t in saved["model"].items()})
    torch.save(saved | {"model": prefixed(prefix, bare_names)}, path)
    check(load(path), MEAN)
    check(load(path, ema=False), RAW)
    torch.save(prefixed(prefix, bare_names), path)
    check(load(path, ema=False), RAW)
    save_file(prefixed(prefix, bare_names), tmp_path / "c.safetensors")
    check(load(tmp_path / "c.safetensors", tmp_path / "c.json", ema=False), RAW)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrappers_change_no_name_of_edm(prefix, tmp_path):
    state = prefixed(prefix, theirs("edm", EDM_RAW))
    torch.save(state, tmp_path / "edm.pt")
    save_file(state, tmp_path / "edm.safetensors")
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps(state))
    for path in tmp_path.iterdir():
        check(load(path, {"precond": "edm"}), EDM_RAW)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrappers_change_no_name_of_diffusers(prefix, tmp_path):
    expected = shaken(network("each"))
    unet = save_diffusers(expected, tmp_path / "pipe") / "unet"
    weights = unet / "diffusion_pytorch_model.safetensors"
    state = prefixed(prefix, load_file(weights))
    save_file(state, weights)
    check(load(unet), expected)
    weights.unlink()
    torch.save(state, unet / "diffusion_pytorch_model.bin")
    check(load(tmp_path / "pipe"), expected)
    torch.save({"state_dict": state, "epoch": 3}, unet / "last.ckpt")
    check(load(unet / "last.ckpt"), expected)


@pytest.mark.parametrize("prefix", [*PREFIXES, "net._orig_mod.", "module.net.module.", "net.net."])
def test_wrappers_change_no_name_of_our_own(prefix, tmp_path):
    """They stand in front, and around the network alone: `ScoreModel(torch.compile(net), …)`."""
    model = ScoreModel(MLP((2,), width=8), VP()).eval()
    folder = model.save(tmp_path / "m")
    file = folder / "model.safetensors"
    with safe_open(file, framework="pt") as weights:
        metadata = weights.metadata()
    inside = {name.removeprefix("net."): t for name, t in load_file(file).items()}
    whole = "" if "net." in prefix else "net."
    save_file({prefix + whole + name: t for name, t in inside.items()}, file, metadata=metadata)
    if prefix == "net.net.":  # this belongs to no wrapper
        with pytest.raises(ValueError, match=r"m cannot be loaded: .*Missing key"):
            load(folder)
    else:
        check(load(folder), model)


def nested(prefix, params):
    for name in reversed(prefix.split(".")[:-1]):
        params = {name: params}
    return params


@pytest.mark.parametrize("prefix", ["params.", "model.", "params.module."])
def test_a_collection_around_the_parameters_of_flax(prefix, tmp_path):
    path = save_score_sde(RAW, tmp_path / "c.pth")
    tree = {}
    for name, tensor in write(flax_rows(RAW.net), RAW.net.state_dict()).items():
        *scopes, last = name.split("/")
        place = tree
        for scope in scopes:
            place = place.setdefault(scope, {})
        place[last] = tensor
    state = {"step": 7, "optimizer": {"target": nested(prefix, tree)}}
    state["params_ema"] = nested(prefix, tree)
    (tmp_path / "checkpoint_7").write_bytes(small_map(state))
    for ema in (True, False):
        check(load_score_sde(tmp_path / "checkpoint_7", path.with_suffix(".json"), ema), RAW)


def test_only_what_all_names_have_is_a_wrapper():
    assert bare(["module.a", "module.b.module.c"]) == ["a", "b.module.c"]
    assert bare(["module.a", "b"]) == ["module.a", "b"]
    assert bare(["modules.a", "modules.b"]) == ["modules.a", "modules.b"]
    assert bare(["model/a"], "/") == ["a"]
    assert bare([]) == []


def test_a_network_may_have_such_a_name_itself():
    """It stays if it is the network's own, and is found below a wrapper's of the same name."""
    for own in (["model.a", "model.b"], ["module.model.a", "module.model.b"], ["model.a", "c"]):
        state = dict(enumerate(own))
        for prefix in ("", "module.", "model._orig_mod.", "model."):
            found = fitted({prefix + name: number for number, name in state.items()}, own)
            assert found == {name: number for number, name in state.items()}
    assert fitted({"module.a": 1, "b": 2}, ["a", "b"]) == {"module.a": 1, "b": 2}
    assert fitted({"a": 1, "b": 2}, ["_orig_mod.a", "_orig_mod.b"]).keys() == {
        "_orig_mod.a",
        "_orig_mod.b",
    }


class Held(Described, nn.Module):
    """A network of a user's own with all of its layers in a part called `model`."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(2, 2)

    def forward(self, x, c_noise):
        return self.model(x)


def test_a_model_comes_back_whose_network_was_shared_among_devices(tmp_path):
    for net in (Held(), MLP((2,), width=8)):
        model = ScoreModel(nn.DataParallel(net), VP())
        folder = model.save(tmp_path / type(net).__name__)
        assert all("module." not in name for name in load_file(folder / "model.safetensors"))
        back = load(folder)
        assert type(back.net) is type(net)
        check(back, model)


def test_half_a_prefix_is_none(tmp_path):
    state = theirs("edm", EDM_RAW)
    half = {("module." * (n % 2)) + name: t for n, (name, t) in enumerate(state.items())}
    torch.save(half, tmp_path / "edm.pt")
    with pytest.raises(ValueError, match=r"SongUNet|does not fit the network|known formats"):
        load(tmp_path / "edm.pt", {"precond": "edm"})


# --- averages


def lightning(kind, raw, mean):
    """A checkpoint of Lightning with the average where one of its callbacks puts it."""
    whole = {"epoch": 1, "global_step": 9, "pytorch-lightning_version": "2.5.0"}
    whole |= {"optimizer_states": [], "callbacks": {"ModelCheckpoint{}": {"best": "a.ckpt"}}}
    held = prefixed("model.", raw)
    if kind == "none":
        return whole | {"state_dict": held}
    if kind == "current_model_state":
        counts = {"n_averaged": torch.tensor(3)}
        both = {"state_dict": prefixed("model.", mean), "averaging_state": counts}
        return whole | both | {"current_model_state": held}
    if kind == "dotless":
        flat = {name.replace(".", ""): t for name, t in mean.items()}
        flat |= {"decay": torch.tensor(0.9), "num_updates": torch.tensor(2)}
        return whole | {"state_dict": held | prefixed("model_ema.", flat)}
    if kind == "AveragedModel":
        counted = prefixed("module.", mean) | {"n_averaged": torch.tensor(2)}
        return whole | {"state_dict": held | prefixed("ema_model.", counted)}
    if kind == "ema_pytorch":
        inside = prefixed("ema_model.", mean) | prefixed("online_model.", raw)
        inside |= {"initted": torch.tensor(True), "step": torch.tensor(3)}
        return whole | {"state_dict": held | prefixed("ema.", inside)}
    if kind == "top":
        return whole | {"state_dict": held, "ema_state_dict": prefixed("model._orig_mod.", mean)}
    trained = [t for n, t in mean.items() if not n.endswith((".resample_filter", "sigmas"))]
    if kind == "optimizer":
        whole["optimizer_states"] = [{"opt": {"state": {}}, "ema": tuple(trained), "decay": 0.9}]
        return whole | {"state_dict": held}
    state = {"ema_state_dict": prefixed("model.", mean), "cur_step": torch.tensor(4)}
    if kind == "list":
        state = {"decay": 0.99, "num_updates": 4, "shadow_params": trained}
    whole["callbacks"]["EMACallback"] = state
    return whole | {"state_dict": held, "ema_decay": 0.99, "ema_config": {"rate": 0.99}}


AVERAGES = ["current_model_state", "dotless", "AveragedModel", "ema_pytorch"]
AVERAGES += ["top", "callback", "list", "optimizer"]


@pytest.mark.parametrize("kind", AVERAGES)
def test_the_average_of_lightning_is_taken_or_its_raw_weights(kind, tmp_path):
    path = tmp_path / "edm.ckpt"
    torch.save(lightning(kind, theirs("edm", EDM_RAW), theirs("edm", EDM_MEAN)), path)
    config = {"precond": "edm"}
    assert format_of(path) == "edm"
    check(load(path, config), EDM_MEAN)
    check(load(path, config, ema=False), EDM_RAW)
    case = configuration(RAW)
    states = [theirs(score_sde_rows, model) for model in (RAW, MEAN)]
    torch.save(lightning(kind, *states), path)
    assert format_of(path) == "score_sde"
    check(load(path, case), MEAN)
    raw = load(path, case, ema=False)
    check(raw, RAW)
    assert raw.step == 9


def test_lightning_without_an_average(tmp_path):
    path = tmp_path / "edm.ckpt"
    torch.save(lightning("none", theirs("edm", EDM_RAW), None), path)
    check(load(path, {"precond": "edm"}), EDM_RAW)
    with pytest.raises(
        ValueError, match=r"needs a checkpoint with two sets of weights; .* has one"
    ):
        load(path, {"precond": "edm"}, ema=False)
    torch.save(lightning("none", theirs(score_sde_rows, RAW), None), path)
    case = save_score_sde(RAW, tmp_path / "c.pth").with_suffix(".json")
    with pytest.raises(ValueError, match=r"use ema=False in Python, checkpoint_ema=false for run"):
        load(path, case)
    check(load(path, case, ema=False), RAW)


class Ran:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_settings_next_to_the_weights_of_lightning_are_left_out(tmp_path):
    """Optimizers, configurations and paths in the file are objects, and none is constructed."""
    path, known = tmp_path / "edm.ckpt", set(torch.serialization.get_safe_globals())
    whole = lightning("callback", theirs("edm", EDM_RAW), theirs("edm", EDM_MEAN))
    whole["hyper_parameters"] = {
        "optimizer": functools.partial(torch.optim.Adam, lr=1e-4),
        "config": OmegaConf.create({"a": [1, {"b": 2}]}),
        "arguments": argparse.Namespace(root=tmp_path),
        "net": nn.Linear(2, 2),
        "counts": collections.defaultdict(list, a=[1]),
    }
    torch.save(whole, path)
    config = {"precond": "edm"}
    check(load(path, config), EDM_MEAN)
    check(load(path, config, ema=False), EDM_RAW)
    mark = tmp_path / "mark"
    for call in (Ran(os.mkdir, str(mark)), Ran(eval, f"open({str(mark)!r}, 'w')")):
        whole["hyper_parameters"]["more"] = call
        torch.save(whole, path)
        with pytest.raises(ValueError, match="or holds code, which is never run"):
            load(path, config)
    assert not mark.exists()
    assert set(torch.serialization.get_safe_globals()) == known  # for other files as before


def test_an_average_of_another_network_is_not_taken_for_none(tmp_path):
    path = tmp_path / "edm.ckpt"
    whole = lightning("callback", theirs("edm", EDM_RAW), {"other.weight": torch.zeros(2)})
    torch.save(whole, path)
    with pytest.raises(ValueError, match=r"an average of other tensors .*--raw for convert\.py"):
        load(path, {"precond": "edm"})
    whole["callbacks"]["EMACallback"] = {"shadow_params": [torch.zeros(2)]}
    torch.save(whole, path)
    with pytest.raises(ValueError, match="it averages 1 tensors, the network has"):
        load(path, {"precond": "edm"})
    check(load(path, {"precond": "edm"}, ema=False), EDM_RAW)


def test_torchs_averaged_model_is_the_average(tmp_path):
    state = prefixed("module.", theirs("edm", EDM_MEAN)) | {"n_averaged": torch.tensor(5)}
    torch.save(state, tmp_path / "edm.pt")
    check(load(tmp_path / "edm.pt", {"precond": "edm"}), EDM_MEAN)
    case = save_score_sde(RAW, tmp_path / "c.pth").with_suffix(".json")
    state = prefixed("module.model.", theirs(score_sde_rows, MEAN)) | {
        "n_averaged": torch.tensor(5)
    }
    torch.save(state, tmp_path / "mean.pth")
    check(load(tmp_path / "mean.pth", case), MEAN)
    with pytest.raises(ValueError, match=r"two sets of weights; .*mean\.pth has one"):
        load(tmp_path / "mean.pth", case, ema=False)
    with pytest.raises(ValueError, match=r"two sets of weights; .*edm\.pt has one"):
        load(tmp_path / "edm.pt", {"precond": "edm"}, ema=False)
    torch.save({"net": theirs("edm", EDM_RAW), "ema": theirs("edm", EDM_MEAN)}, tmp_path / "two.pt")
    check(load(tmp_path / "two.pt", {"precond": "edm"}), EDM_MEAN)
    check(load(tmp_path / "two.pt", {"precond": "edm"}, ema=False), EDM_RAW)


# --- the command line


def trained(folder, prefix):
    """A checkpoint of a training, whose network was wrapped."""
    config = {
        "task": "generate",
        "shape": [2],
        "data": {"range": None},
        "sde": {"_target_": "scoresde.sde.VP"},
        "model": {
            "net": {"_target_": "scoresde.models.MLP", "width": 8},
            "parameterization": "noise",
        },
    }
    raw = ScoreModel(MLP((2,), width=8), VP())
    ema, adam = EMA(shaken(raw)), torch.optim.Adam(raw.parameters())
    path = checkpoint.save(folder, 5, raw, ema, adam, torch.Generator(), config)
    state = torch.load(path, weights_only=True)
    state["model"] = prefixed(prefix, state["model"])
    state["ema"]["model"] = prefixed(prefix, state["ema"]["model"])
    torch.save(state, path)
    path.with_suffix(".sha256").unlink()
    return path, raw, ema.model


@pytest.mark.parametrize("prefix", ["", "module._orig_mod."])
def test_a_training_converts_whatever_wrapped_its_network(prefix, tmp_path):
    path, raw, mean = trained(tmp_path / "checkpoints", prefix)
    for name, expected in (("mean", mean), ("raw", raw)):
        flags = ["--raw"] if name == "raw" else []
        convert.main([str(path), str(tmp_path / name), "--to", "native", *flags])
        check(load(tmp_path / name), expected)


def test_a_training_that_does_not_fit_ends_with_one_sentence(tmp_path, capsys):
    path, _, _ = trained(tmp_path / "checkpoints", "other.")
    with pytest.raises(SystemExit):
        convert.main([str(path), str(tmp_path / "out"), "--to", "native"])
    assert f"{path} cannot be loaded" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="where cannot be loaded"):
        fill(nn.Linear(1, 1), {"weight": torch.zeros(2)}, "where")


@pytest.mark.parametrize("link", ["link.pth", "link"])
def test_a_link_is_read_as_its_target(link, tmp_path, caplog):
    """It is read with the files next to its target, whatever the link is called."""
    links = tmp_path / "links"
    links.mkdir()
    for target in (save_score_sde(RAW, tmp_path / "c.pth"), RAW.save(tmp_path / "m")):
        (links / link).symlink_to(target)
        check(load(links / link), RAW)
        assert load(links / link).description() == load(target).description()
        (links / link).unlink()
    for name in ("model.safetensors", "model.json"):
        (links / "inner").symlink_to(tmp_path / "m" / name)
        check(load(links / "inner"), RAW)
        (links / "inner").unlink()
    assert not caplog.records


def test_a_link_to_a_pickle_of_edm(tmp_path):
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps(theirs("edm", EDM_RAW)))
    (tmp_path / "link").symlink_to("edm.pkl")
    check(load(tmp_path / "link", {"precond": "edm"}), EDM_RAW)
