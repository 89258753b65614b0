"""Our own file of a model is complete, described, readable by others, and never half replaced."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from scoresde import sde as processes
from scoresde.models import MLP, RefineNet, ScoreModel, UNet
from scoresde.sde import EDM, VE, VP, CosineSchedule, Described, SubVP, Until, construct, describe

PROCESSES = [
    VP(),
    VP(0.2, 10.0),
    VP(schedule=CosineSchedule(0.01)),
    SubVP(),
    VE(0.02, 90.0),
    EDM(),
    VP().discretize(1000),
    VE().discretize(10),
    Until(VP(), 0.7),
]
TINY = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "init_scale": 1.0}
NETWORKS = {
    "mlp": (lambda: MLP((2,)), (2,)),
    "unet": (lambda: UNet((3, 8, 8), **TINY), (3, 8, 8)),
    "pyramids": (
        lambda: UNet(
            (1, 8, 8),
            **TINY,
            fir=True,
            progressive="output_skip",
            progressive_input="residual",
            embedding_type="fourier",
            groups={"down.0.stages.0.block.branch.norm_0": 4},
        ),
        (1, 8, 8),
    ),
    "refinenet": (lambda: RefineNet((3, 16, 16), nf=8), (3, 16, 16)),
}


@pytest.fixture(params=NETWORKS)
def model_and_shape(request):
    torch.manual_seed(0)
    build, shape = NETWORKS[request.param]
    net = build()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return ScoreModel(net, VP(), "v", data_range=(0.0, 1.0), sigma_data=0.3).eval(), shape


def test_a_model_comes_back_bit_by_bit(model_and_shape, tmp_path):
    model, shape = model_and_shape
    model.save(tmp_path / "model", step=12)
    back = ScoreModel.load(tmp_path / "model")
    x, t = torch.randn(2, *shape), torch.tensor([0.1, 0.9], dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(back.score(x, t), model.score(x, t), rtol=0, atol=0)
    assert back.description() == model.description()
    assert (back.step, back.training) == (12, False)
    assert all(p.requires_grad and not p.is_meta for p in back.parameters())
    # The model is trained on, and the file does not change.
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in back.parameters():
            parameter.add_(1.0)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_processes_come_back(process, tmp_path):
    parameterization = "edm" if isinstance(process, EDM) else "noise"
    model = ScoreModel(MLP((2,)), process, parameterization)
    back = ScoreModel.load(model.save(tmp_path)).sde
    t = torch.linspace(process.eps, process.T, 7, dtype=torch.float64)
    assert type(back) is type(process)
    for name in ("alpha", "sigma", "f", "g", "label"):
        torch.testing.assert_close(
            getattr(back, name)(t), getattr(process, name)(t), rtol=0, atol=0
        )


def test_every_process_and_schedule_describes_itself():
    """Every class of the package is the same after a round trip through plain JSON."""
    schedules = [processes.LinearSchedule, processes.ScaledLinearSchedule]
    made = [*PROCESSES, *(kind(0.2, 3.0) for kind in schedules), CosineSchedule()]
    offered = {
        cls
        for cls in vars(processes).values()
        if isinstance(cls, type)
        and issubclass(cls, Described)
        and not getattr(cls, "__abstractmethods__", ())
        if cls is not Described
    }
    assert {type(thing) for thing in made} == offered
    for thing in made:
        plain = json.loads(json.dumps(describe(thing)))
        assert describe(construct(plain)) == plain
    assert describe(VP())["schedule"]["beta_max"] == 20.0  # numbers, not "the default"


@pytest.mark.parametrize(
    "options",
    [
        {"learned_variance": True},
        {"fourier_features": (5, 6)},
        {"c_noise": "descending"},
        {"parameterization": "raw_score"},
        {"data_range": None},
    ],
)
def test_every_meaning_is_written(options, tmp_path):
    channels, out = (3 * 5, 3) if "fourier_features" in options else (3, 3)
    out *= 2 if "learned_variance" in options else 1
    net = UNet((channels, 8, 8), **TINY, out_channels=out)
    model = ScoreModel(net, VE().discretize(10), **{"data_range": (0.0, 1.0), **options}).eval()
    back = ScoreModel.load(model.save(tmp_path))
    assert back.description() == model.description()
    x, t = torch.rand(2, 3, 8, 8), model.sde.times[4]
    with torch.no_grad():
        torch.testing.assert_close(back.score(x, t), model.score(x, t), rtol=0, atol=0)


def test_other_programs_can_read_it(model_and_shape, tmp_path):
    """The files are plain JSON and plain safetensors, with the names of the state dict."""
    model, _ = model_and_shape
    model.save(tmp_path)
    document = json.loads((tmp_path / "model.json").read_text())
    assert document["format"] == "score-sde-model"
    assert document["version"] == 1
    assert set(document["model"]) >= {"sde", "net", "parameterization", "data_range"}
    assert document["model"]["sde"]["_target_"] == "scoresde.sde.VP"
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


class Own(nn.Module):
    """A network that does not describe how it was made."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 2)

    def forward(self, x, c_noise):
        return self.line(x)


class OwnDescribed(Described, nn.Module):
    """A network of a user's own that describes itself, with a tensor that is in no file."""

    def __init__(self, width, *, bias=True):
        super().__init__()
        self.line = nn.Linear(width, width, bias=bias)
        self.register_buffer("two", torch.tensor(2.0), persistent=False)

    def forward(self, x, c_noise):
        return self.two * self.line(x)


def test_networks_of_ones_own(tmp_path):
    own = ScoreModel(Own(), VP())
    with pytest.raises(TypeError, match="Own does not say how it was made; derive it from"):
        own.description()
    own.save(tmp_path / "a")
    with pytest.raises(ValueError, match="does not say how its network is made; give net="):
        ScoreModel.load(tmp_path / "a")
    given = ScoreModel.load(tmp_path / "a", net=Own())
    torch.testing.assert_close(given.net.line.weight, own.net.line.weight, rtol=0, atol=0)
    model = ScoreModel(OwnDescribed(2, bias=False), VP())
    assert model.description()["net"]["_target_"].endswith("test_model_file.OwnDescribed")
    model.save(tmp_path / "b")
    back = ScoreModel.load(tmp_path / "b")
    x = torch.randn(3, 2)
    torch.testing.assert_close(back.net(x, x), model.net(x, x), rtol=0, atol=0)


def test_a_process_of_ones_own(tmp_path):
    class Faster(VP):
        pass

    with pytest.raises(TypeError, match="defined inside a function"):
        ScoreModel(MLP((2,)), Faster()).save(tmp_path / "a")
    ScoreModel(MLP((2,)), VP()).save(tmp_path / "b")
    assert type(ScoreModel.load(tmp_path / "b", sde=Faster()).sde) is Faster


def test_lists_that_are_changed_later_change_no_description():
    taps = [1, 3, 3, 1]
    net = UNet((3, 8, 8), **TINY, fir=True, fir_kernel=taps)
    taps[:] = [1, 1, 1, 1]
    assert describe(net)["fir_kernel"] == [1, 3, 3, 1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_filters_follow_the_type_of_their_network(dtype, tmp_path):
    """They do, whatever the default type was when the network was built or loaded."""
    model = ScoreModel(UNet((3, 8, 8), **TINY, fir=True), VP(), data_range=(-1.0, 1.0)).eval()
    model.save(tmp_path)
    torch.set_default_dtype(torch.float64)
    try:
        back = ScoreModel.load(tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor(0.3, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(back.score(x, t), model.score(x, t))
        assert back.to(dtype).score(x.to(dtype), t).dtype == dtype


def test_nothing_is_overwritten_unless_asked(tmp_path):
    first, second = (ScoreModel(MLP((2,), width=w), VP()) for w in (8, 16))
    first.save(tmp_path)
    with pytest.raises(FileExistsError, match="already holds a model"):
        second.save(tmp_path)
    assert ScoreModel.load(tmp_path).net.state_dict().keys() == first.net.state_dict().keys()
    second.save(tmp_path, overwrite=True)
    assert describe(ScoreModel.load(tmp_path).net)["width"] == 16


def test_halves_of_two_models_are_not_mixed(tmp_path):
    """They arise where a process is killed between the two renames of an overwrite."""
    model = ScoreModel(MLP((2,)), VP())
    model.save(tmp_path / "old", step=1)
    model.save(tmp_path / "new", step=2)
    (tmp_path / "new" / "model.safetensors").rename(tmp_path / "old" / "model.safetensors")
    with pytest.raises(ValueError, match=r"was not written with the model\.json next to it"):
        ScoreModel.load(tmp_path / "old")


def edit(folder, **changes):
    """Change the JSON together with its digest in the weights, as a forger would."""
    from scoresde.models import file

    document, state = file.read(folder)
    described = document["model"] | changes
    file.write(folder, described, state, None, overwrite=True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sde": {"_target_": "os.system", "command": "touch ran"}}, "'os.system' is not a"),
        ({"sde": {"_target_": "builtins.exec"}}, "is not a described class"),
        ({"sde": {"_target_": "scoresde.models.UNet", "shape": [3, 8, 8]}}, "cannot be loaded"),
        ({"sde": {"_target_": "scoresde.sde.VPP"}}, "'scoresde.sde.VPP' is not a described class"),
        (
            {"sde": {"_target_": "scoresde.sde.VP", "gamma": 1}},
            "scoresde.sde.VP takes no gamma; it takes",
        ),
        ({"net": {"_target_": "scoresde.models.MLP", "shape": [3]}}, "size mismatch"),
        ({"net": {"_target_": "torch.nn.Linear"}}, "is not a described class"),
        ({"parameterization": "nois"}, "did you mean 'noise'"),
        ({"data_range": [1.0, 0.0]}, "data_range must be"),
        ({"flow": True}, "flow"),
    ],
)
def test_a_file_names_no_code_to_run(changes, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ScoreModel(MLP((2,)), VP()).save(tmp_path / "m")
    edit(tmp_path / "m", **changes)
    with pytest.raises(ValueError, match=sentence) as caught:
        ScoreModel.load(tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_newer_damaged_and_missing_files_give_one_sentence(tmp_path):
    ScoreModel(MLP((2,)), VP()).save(tmp_path / "m")
    whole = {
        name: (tmp_path / "m" / name).read_bytes() for name in ("model.json", "model.safetensors")
    }
    newer = whole["model.json"].replace(b'"version": 1', b'"version": 2')
    (tmp_path / "m" / "model.json").write_bytes(newer)
    with pytest.raises(ValueError, match="has version 2, this toolkit reads 1; update"):
        ScoreModel.load(tmp_path / "m")
    for name, content in whole.items():
        for share in (0.0, 0.1, 0.5, 0.98):
            for other in whole:
                (tmp_path / "m" / other).write_bytes(whole[other])
            (tmp_path / "m" / name).write_bytes(content[: int(share * len(content))])
            with pytest.raises(ValueError, match=name) as caught:
                ScoreModel.load(tmp_path / "m")
            assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"is no model: it has no model\.json"):
        ScoreModel.load(tmp_path)


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    from scoresde.models import file

    model = ScoreModel(MLP((2,)), VP())
    model.save(tmp_path, step=1)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        model.save(tmp_path, step=2, overwrite=True)
    monkeypatch.undo()
    assert ScoreModel.load(tmp_path).step == 1
    assert len(list(tmp_path.iterdir())) == 2


class Odd(Described):
    def __init__(self, thing):
        self.thing = thing


class Wide(Described):
    def __init__(self, *things):
        self.things = things


def test_a_description_is_refused_where_it_would_lose_something():
    with pytest.raises(TypeError, match=r"Odd\(thing=…\) is a Tensor"):
        describe(Odd(torch.zeros(1)))
    with pytest.raises(TypeError, match="must name each of its arguments"):
        describe(Wide(1, 2))
    with pytest.raises(TypeError, match="float does not say"):
        describe(1.0)
