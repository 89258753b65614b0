"""Networks of EDM give the outputs that its paper and the names of its tensors define.

The oracle is a second network, written as functions of EDM's tensors in double precision: it
resamples by matrices and shares nothing with the networks of this toolkit.
"""

import math
import pickle
import sys
import types
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from scoresde.interop.edm import load_edm, rows
from scoresde.interop.table import write
from scoresde.models import ScoreModel
from scoresde.sde import EDM, VE, VP

NF, SIZE, BLOCKS, ATTEND = 16, 16, 1, 8
MULT = (1, 2, 3)


@dataclass(frozen=True)
class Kind:
    """The options in which EDM's networks differ."""

    encoder: str = "standard"
    decoder: str = "standard"
    taps: tuple[int, ...] = (1, 1)
    channels: int = 3
    fourier: bool = False
    augmented: bool = False


KINDS = [
    Kind(encoder, decoder, taps, channels, fourier=encoder != "standard")
    for encoder in ("standard", "skip", "residual")
    for decoder in ("standard", "skip")
    for taps in ((1, 1), (1, 3, 3, 1))
    for channels in (1, 3)
]
DDPMPP, NCSNPP = Kind(augmented=True), Kind("residual", taps=(1, 3, 3, 1), fourier=True)


def tensors(kind: Kind, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of such a network, under EDM's names."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        scale = 1 / math.sqrt(math.prod(shape[1:]))
        found[f"{name}.weight"] = scale * torch.randn(shape, generator=generator)
        if bias:
            found[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)

    def norm(name: str, channels: int) -> None:
        found[f"{name}.weight"] = 1 + 0.1 * torch.randn(channels, generator=generator)
        found[f"{name}.bias"] = 0.1 * torch.randn(channels, generator=generator)

    def resampled(*names: str) -> None:
        k = torch.tensor(kind.taps, dtype=torch.float32)
        for name in names:
            kernel = torch.outer(k, k) / k.sum() ** 2
            found[f"{name}.resample_filter"] = kernel.reshape(1, 1, len(k), len(k))

    def block(name: str, old: int, new: int, change: bool = False, attend: bool = False) -> None:
        norm(f"{name}.norm0", old)
        add(f"{name}.conv0", new, old, 3, 3)
        add(f"{name}.affine", new, 4 * NF)
        norm(f"{name}.norm1", new)
        add(f"{name}.conv1", new, new, 3, 3)
        if change or old != new:
            add(f"{name}.skip", new, old, 1, 1)
        if change:
            resampled(f"{name}.conv0", f"{name}.skip")
        if attend:
            norm(f"{name}.norm2", new)
            add(f"{name}.qkv", 3 * new, new, 1, 1)
            add(f"{name}.proj", new, new, 1, 1)

    if kind.fourier:
        found["map_noise.freqs"] = 4 * torch.randn(NF, generator=generator)
    label = 2 * NF if kind.fourier else NF
    if kind.augmented:
        add("map_augment", label, 9, bias=False)
    add("map_layer0", 4 * NF, label)
    add("map_layer1", 4 * NF, 4 * NF)

    skips, width, image = [], NF, kind.channels
    for level, factor in enumerate(MULT):
        here = f"enc.{SIZE >> level}x{SIZE >> level}"
        if level == 0:
            add(f"{here}_conv", NF, image, 3, 3)
        else:
            block(f"{here}_down", width, width, change=True)
            if kind.encoder == "skip":
                resampled(f"{here}_aux_down")
                add(f"{here}_aux_skip", width, image, 1, 1)
            if kind.encoder == "residual":
                add(f"{here}_aux_residual", width, image, 3, 3)
                resampled(f"{here}_aux_residual")
                image = width
        skips.append(width)
        for index in range(BLOCKS):
            block(f"{here}_block{index}", width, NF * factor, attend=SIZE >> level == ATTEND)
            width = NF * factor
            skips.append(width)
    for level, factor in reversed(list(enumerate(MULT))):
        here = f"dec.{SIZE >> level}x{SIZE >> level}"
        if level == len(MULT) - 1:
            block(f"{here}_in0", width, width, attend=True)
            block(f"{here}_in1", width, width)
        else:
            block(f"{here}_up", width, width, change=True)
        for index in range(BLOCKS + 1):
            attend = index == BLOCKS and SIZE >> level == ATTEND
            block(f"{here}_block{index}", width + skips.pop(), NF * factor, attend=attend)
            width = NF * factor
        if kind.decoder == "skip" or level == 0:
            if kind.decoder == "skip" and level < len(MULT) - 1:
                resampled(f"{here}_aux_up")
            norm(f"{here}_aux_norm", width)
            add(f"{here}_aux_conv", kind.channels, width, 3, 3)
    return found


class Oracle:
    """F(x; c) of a network that is given by EDM's tensors, in double precision."""

    def __init__(self, kind: Kind, found: dict[str, Tensor]):
        self.kind = kind
        self.w = {name: value.double() for name, value in found.items()}
        self.k = torch.tensor(kind.taps, dtype=torch.float64) / sum(kind.taps)

    def __call__(self, x: Tensor, label: Tensor) -> Tensor:
        emb = self.embed(label)
        h, image, skips = x, x, []
        for level in range(len(MULT)):
            here = f"enc.{SIZE >> level}x{SIZE >> level}"
            if level == 0:
                h = self.conv(f"{here}_conv", x)
            else:
                h = self.block(f"{here}_down", h, emb, self.halve)
                if self.kind.encoder == "skip":
                    image = self.halve(image)
                    h = h + self.conv(f"{here}_aux_skip", image)
                if self.kind.encoder == "residual":
                    image = h = (h + self.halved_conv(f"{here}_aux_residual", image)) / 2**0.5
            skips.append(h)
            for index in range(BLOCKS):
                h = self.block(f"{here}_block{index}", h, emb)
                skips.append(h)
        out = None
        for level in reversed(range(len(MULT))):
            here = f"dec.{SIZE >> level}x{SIZE >> level}"
            if level == len(MULT) - 1:
                h = self.block(f"{here}_in1", self.block(f"{here}_in0", h, emb), emb)
            else:
                h = self.block(f"{here}_up", h, emb, self.double)
            for index in range(BLOCKS + 1):
                h = self.block(f"{here}_block{index}", torch.cat([h, skips.pop()], 1), emb)
            if f"{here}_aux_norm.weight" in self.w:
                one = self.conv(f"{here}_aux_conv", F.silu(self.norm(f"{here}_aux_norm", h)))
                out = one if out is None else one + self.double(out)
        assert out is not None and not skips
        return out

    def embed(self, label: Tensor) -> Tensor:
        if self.kind.fourier:
            phase = 2 * math.pi * label[:, None] * self.w["map_noise.freqs"]
        else:
            powers = torch.linspace(0, 1, NF // 2, dtype=torch.float64)
            phase = label[:, None] / 10000**powers
        emb = torch.cat([phase.sin(), phase.cos()], 1)
        for name in ("map_layer0", "map_layer1"):
            emb = F.silu(emb @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"])
        return emb

    def block(self, name: str, x: Tensor, emb: Tensor, change=lambda h: h) -> Tensor:
        h = self.conv(f"{name}.conv0", change(F.silu(self.norm(f"{name}.norm0", x))))
        h = (
            h
            + (emb @ self.w[f"{name}.affine.weight"].T + self.w[f"{name}.affine.bias"])[
                ..., None, None
            ]
        )
        h = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", h)))
        x = change(x)
        if f"{name}.skip.weight" in self.w:
            x = self.conv(f"{name}.skip", x)
        x = (x + h) / 2**0.5
        if f"{name}.qkv.weight" not in self.w:
            return x
        channels = x.shape[1]
        maps = self.conv(f"{name}.qkv", self.norm(f"{name}.norm2", x)).flatten(2)
        q, k, v = maps[:, 0::3], maps[:, 1::3], maps[:, 2::3]
        weights = torch.softmax(q.transpose(1, 2) @ k / channels**0.5, 2)
        h = (v @ weights.transpose(1, 2)).reshape(x.shape)
        return (x + self.conv(f"{name}.proj", h)) / 2**0.5

    def norm(self, name: str, x: Tensor) -> Tensor:
        groups = min(32, x.shape[1] // 4)
        y = x.reshape(len(x), groups, -1)
        y = (y - y.mean(2, keepdim=True)) / (y.var(2, correction=0, keepdim=True) + 1e-6).sqrt()
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return y.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]

    def conv(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def halve(self, x: Tensor) -> Tensor:
        return self.matrix(x.shape[-1]) @ x @ self.matrix(x.shape[-1]).T

    def double(self, x: Tensor) -> Tensor:
        up = 2 * self.matrix(2 * x.shape[-1]).T
        return up @ x @ up.T

    def halved_conv(self, name: str, x: Tensor) -> Tensor:
        """Convolve an image with a wide frame of zeros, then filter it and keep the inside."""
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        h = F.conv2d(F.pad(x, (4, 4, 4, 4)), weight, padding=1)
        return self.halve(h)[..., 2:-2, 2:-2] + bias[:, None, None]

    def matrix(self, size: int) -> Tensor:
        """The filter at every second of `size` pixels, with zeros outside."""
        found = torch.zeros(size // 2, size + 2 * len(self.k), dtype=torch.float64)
        for row in range(size // 2):
            start = len(self.k) + 2 * row + 1 - len(self.k) // 2
            found[row, start : start + len(self.k)] = self.k
        return found[:, len(self.k) : -len(self.k)]


@pytest.fixture
def images(generator) -> Tensor:
    """Two images of three channels, without any symmetry."""
    return torch.randn(2, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", [*KINDS, DDPMPP], ids=str)
def test_network(kind, images):
    """The network's output is the oracle's, for each architecture."""
    x, labels = images[:, : kind.channels], torch.tensor([-1.3, 0.7], dtype=torch.float64)
    found = tensors(kind)
    model = load_edm(found)
    assert not model.training
    assert all(one.dtype == torch.float32 for one in model.state_dict().values())
    with torch.no_grad():
        got = model.double().net(x, labels)
    torch.testing.assert_close(got, Oracle(kind, found)(x, labels), rtol=1e-8, atol=1e-9)


def denoiser(precond: str, oracle, x: Tensor, sigma: Tensor, spread: float = 0.5) -> Tensor:
    """D(x; σ) of a row of EDM's table 1, with β_d = 19.9, β_min = 0.1, M = 1000."""
    wide = sigma[:, None, None, None]
    if precond == "vp":
        t = ((0.1**2 + 2 * 19.9 * torch.log(1 + sigma**2)).sqrt() - 0.1) / 19.9
        return x - wide * oracle(x / (1 + wide**2).sqrt(), 999 * t)
    if precond == "ve":
        return x + wide * oracle(x, torch.log(sigma / 2))
    total = wide**2 + spread**2
    raw = oracle(x / total.sqrt(), torch.log(sigma) / 4)
    return spread**2 / total * x + wide * spread / total.sqrt() * raw


def denoised(model: ScoreModel, precond: str, x: Tensor, sigma: Tensor) -> Tensor:
    """The denoiser of our model, in the units of EDM."""
    if precond == "ve":
        low, high = 0.01, 50.0
        t = (sigma / 2 / low).log() / math.log(high / low)
        return 2 * model.denoise((x + 1) / 2, t) - 1
    t = sigma
    if precond == "vp":
        t = model.sde.time_of_half_log_snr(-sigma.log()).to(x.dtype)
    return model.denoise(model.sde.alpha(t)[:, None, None, None] * x, t)


@pytest.mark.parametrize("kind", [DDPMPP, NCSNPP], ids=["ddpmpp", "ncsnpp"])
@pytest.mark.parametrize("precond", ["edm", "vp", "ve"])
def test_denoiser(precond, kind, images):
    """D(x; σ) of each preconditioner is `denoise` at the time with the same noise."""
    found, sigma = tensors(kind), torch.tensor([0.4, 9.0], dtype=torch.float64)
    x = images * sigma[:, None, None, None]
    model = load_edm(found, config={"precond": precond})
    expected = denoiser(precond, Oracle(kind, found), x, sigma)
    with torch.no_grad():
        single = denoised(model, precond, x.float(), sigma.float()).double()
        double = denoised(model.double(), precond, x, sigma)
    torch.testing.assert_close(double, expected, rtol=1e-8, atol=1e-8)
    if not kind.fourier:  # sin(2π W 999 t) keeps hardly a digit in single precision
        assert (single - expected).norm() < 1e-5 * expected.norm()


def test_processes():
    """Each preconditioner has its process and its data range, and accepts its settings."""
    found = tensors(DDPMPP)
    model = load_edm(found, config={"sigma_data": 0.7, "dropout": 0.3})
    assert isinstance(model.sde, EDM) and model.parameterization == "edm"
    assert (model.sde.sigma_min, model.sde.sigma_max) == (0.002, 80.0)
    assert model.sigma_data == 0.7 and model.data_range == (-1.0, 1.0)
    assert model.net.options.dropout == 0.3
    model = load_edm(found, config={"precond": "vp", "beta_d": 10.0, "beta_min": 0.2})
    assert isinstance(model.sde, VP) and model.parameterization == "noise"
    t = torch.tensor([0.5])
    torch.testing.assert_close(model.sde.f(t), torch.tensor([-0.5 * 5.2]))
    model = load_edm(found, config={"precond": "ve", "sigma_min": 0.04})
    assert isinstance(model.sde, VE) and model.parameterization == "score"
    assert (model.sde.sigma_min, model.sde.sigma_max) == (0.02, 50.0)
    assert model.data_range == (0.0, 1.0)


def test_augmentation_is_dropped(images):
    """The layer that receives the augmentation of images has no effect on images without one."""
    found = tensors(DDPMPP)
    with_it = load_edm(found)
    del found["map_augment.weight"]
    without = load_edm(found)
    for (name, one), other in zip(
        with_it.state_dict().items(), without.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)


@pytest.mark.slow
def test_describes_itself(tmp_path, images):
    """A model that was read can be saved and loaded again."""
    model = load_edm(tensors(NCSNPP))
    again = ScoreModel.load(model.save(tmp_path))
    x, t = images.float(), torch.tensor([0.5, 2.0])
    with torch.no_grad():
        torch.testing.assert_close(again(x, t), model(x, t), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [DDPMPP, NCSNPP, Kind("skip", "skip")], ids=str)
def test_rows_write_what_they_read(kind):
    """The table writes the file as read, including its filters."""
    found = tensors(kind)
    model = load_edm(found)
    written = write(rows(model.net, SIZE), model.net.state_dict())
    found.pop("map_augment.weight", None)
    assert written.keys() == found.keys()
    for name in written:
        torch.testing.assert_close(written[name], found[name], rtol=0, atol=0)


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors", "pkl"])
def test_state_dicts(prefix, suffix, tmp_path):
    """State dicts are read from every kind of file, with or without preconditioner."""
    found, file = tensors(NCSNPP), tmp_path / f"edm.{suffix}"
    state = {f"{prefix}{name}": value for name, value in found.items()}
    if suffix == "safetensors":
        save_file(state, file)
    elif suffix == "pkl":
        file.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, file)
    expected = load_edm(found).state_dict()
    for name, value in load_edm(str(file)).state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


def test_half_precision():
    """Weights of 16 bits are read as the same numbers in float32."""
    half = {name: value.half() for name, value in tensors(NCSNPP).items()}
    expected = load_edm({name: value.float() for name, value in half.items()}).state_dict()
    for name, value in load_edm(half).state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


@pytest.fixture
def classes(monkeypatch, tmp_path):
    """Modules that are pickled as EDM's are: as a call, with their source next to their state."""
    name = "torch_utils.persistence"
    reconstruct = types.FunctionType((lambda meta: None).__code__, {}, "reconstruct")
    reconstruct.__module__, reconstruct.__qualname__ = name, "_reconstruct_persistent_obj"
    persistence = types.ModuleType(name)
    persistence._reconstruct_persistent_obj = reconstruct
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, name, persistence)
    source = f"open({str(tmp_path / 'mark')!r}, 'w').close()"

    class Persistent(torch.nn.Module):
        def __init__(self, class_name: str, **attributes):
            super().__init__()
            self.__dict__.update(attributes)
            object.__setattr__(self, "kind", class_name)

        def __reduce__(self):
            meta = {"type": "class", "version": 6, "module_src": source}
            return reconstruct, (meta | {"class_name": self.kind, "state": self.__dict__},)

    return Persistent


def assembled(classes, found: dict[str, Tensor], network: str, precond: str, **attributes):
    """A preconditioner of EDM with its network, as modules in modules."""
    net = classes(network)
    for name, value in found.items():
        module, path = net, name.split(".")
        for depth, part in enumerate(path[:-1]):
            if part not in module._modules:
                table = part in ("enc", "dec")
                attribute = (
                    {"dropout": torch.tensor(0.13).double().numpy()[()]} if depth == 1 else {}
                )
                new = torch.nn.ModuleDict() if table else classes("UNetBlock", **attribute)
                module.add_module(part, new)
            module = module._modules[part]
        if path[-1] in ("resample_filter", "freqs"):
            module.register_buffer(path[-1], value)
        else:
            module.register_parameter(path[-1], torch.nn.Parameter(value))
    whole = classes(precond, **attributes)
    whole.model = net
    return whole.requires_grad_(False)


PICKLED = {
    "edm": ("EDMPrecond", {"sigma_data": 0.6, "sigma_min": 0, "sigma_max": math.inf}),
    "vp": ("VPPrecond", {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "sigma_min": 0.003}),
    "ve": ("VEPrecond", {"sigma_min": 0.02, "sigma_max": 100}),
}


@pytest.mark.parametrize("precond", PICKLED)
@pytest.mark.parametrize("bare", [False, True])
def test_pickles(precond, bare, classes, tmp_path, images):
    """A pickle of EDM gives the model of its class and settings, and its source is not run."""
    found, file = tensors(NCSNPP), tmp_path / "edm.pkl"
    name, settings = PICKLED[precond]
    whole = assembled(classes, found, "SongUNet", name, label_dim=0, use_fp16=True, **settings)
    contents = whole if bare else {"ema": whole, "augment_pipe": None, "dataset_kwargs": {"a": 1}}
    file.write_bytes(pickle.dumps(contents))
    model = load_edm(file).double()
    assert not (tmp_path / "mark").exists()
    assert math.isclose(model.net.options.dropout, 0.13, rel_tol=1e-6)
    sigma = torch.tensor([0.4, 9.0], dtype=torch.float64)
    expected = denoiser(precond, Oracle(NCSNPP, found), images, sigma, spread=0.6)
    with torch.no_grad():
        got = denoised(model, precond, images, sigma)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


def test_raw_weights_of_a_pickle(classes, tmp_path):
    """It is the second of two networks; where there is one alone, there is nothing to choose."""
    found, file = [tensors(DDPMPP, seed) for seed in (1, 2)], tmp_path / "a.pkl"
    name, settings = PICKLED["vp"]
    both = [assembled(classes, one, "SongUNet", name, **settings) for one in found]
    file.write_bytes(pickle.dumps(dict(zip(("ema", "net"), both, strict=True))))
    for ema, state in zip((True, False), found, strict=True):
        expected = load_edm(state, config={"precond": "vp"}).parameters()
        for one, other in zip(load_edm(file, ema=ema).parameters(), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    for alone in ({"ema": both[0]}, both[0]):
        file.write_bytes(pickle.dumps(alone))
        with pytest.raises(ValueError, match=r"two sets of weights; .*a\.pkl has one"):
            load_edm(file, ema=False)


@pytest.mark.parametrize(
    ("network", "precond", "settings", "sentence"),
    [
        ("SongUNet", "iDDPMPrecond", {}, "holds iDDPMPrecond"),
        ("DhariwalUNet", "EDMPrecond", {"sigma_min": 0, "sigma_max": 80}, "holds DhariwalUNet"),
        ("SongUNet", "VPPrecond", {"M": 500}, "M = 500 steps"),
        ("SongUNet", "VPPrecond", {"beta_d": "a"}, "beta_d = 'a', expected a number"),
        ("SongUNet", "EDMPrecond", {"sigma_min": None}, "sigma_min = None, expected a number"),
    ],
)
def test_refused_pickles(network, precond, settings, sentence, classes, tmp_path):
    """Classes and settings that have no counterpart are refused by their names."""
    file = tmp_path / "edm.pkl"
    whole = assembled(classes, tensors(DDPMPP), network, precond, **settings)
    file.write_bytes(pickle.dumps({"ema": whole}))
    with pytest.raises(ValueError, match=sentence):
        load_edm(file)


def without(name: str):
    """A change that removes a tensor."""
    return lambda state: state.pop(name)


def with_one(name: str, *shape: int):
    """A change that replaces a tensor by another."""
    return lambda state: state.update({name: torch.ones(shape)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (with_one("map_label.weight", 16, 10), "conditional on a class"),
        (with_one("out_conv.weight", 3, 16, 3, 3), "DhariwalUNet"),
        (with_one("u", 1001), "iDDPMPrecond"),
        (with_one("extra.weight", 1), "has extra.weight, which the network has not"),
        (without("map_layer1.bias"), "lacks map_layer1.bias"),
        (without("enc.8x8_block0.norm1.weight"), "lacks enc.8x8_block0.norm1.weight"),
        (without("enc.8x8_block0.conv0.weight"), "no convolution enc.8x8_block0.conv0.weight"),
        (without("enc.16x16_conv.weight"), "no convolution enc.16x16_conv.weight"),
        (with_one("map_layer0.weight", 64, 32), r"map_layer0.weight is \(64, 32\), expected"),
        (with_one("enc.8x8_block0.affine.weight", 64, 64), "affine.weight is"),
        (with_one("dec.16x16_aux_conv.weight", 6, 16, 3, 3), "aux_conv.weight is"),
        (with_one("enc.8x8_block0.conv0.weight", 33, 16, 3, 3), "multiples of 16"),
        (with_one("enc.4x4_down.skip.resample_filter", 1, 1, 2, 2), "is not the filter"),
        (with_one("enc.8x8_down.conv0.resample_filter", 1, 1, 3, 3), "even number of taps"),
        (with_one("enc.32x32_aux_skip.weight", 16, 3, 1, 1), "no convolution enc.32x32_conv"),
        (with_one("enc.5x5_conv.weight", 1), "levels must be named"),
        (lambda state: state.update(map_layer0=torch.ones(2).long()), "expected floating point"),
        (lambda state: state.update(config={"a": 1}), "'config', which is no tensor"),
        (lambda state: state.clear(), "holds no model"),
    ],
)
def test_refused_state_dicts(change, sentence):
    """A tensor that does not fit is refused by its name."""
    state = tensors(DDPMPP)
    change(state)
    with pytest.raises(ValueError, match=sentence):
        load_edm(state)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"precond": "iddpm"}, "unknown precond 'iddpm'. Available: edm, vp, ve"),
        ({"precond": "vp", "sigma_data": 0.5}, "'vp' takes no sigma_data"),
        ({"sigma_data": "a"}, "expected a number"),
        ({"sigma_max": 0.001}, "swapped"),
    ],
)
def test_refused_configs(config, sentence):
    """Settings that the preconditioner does not have are refused by their names."""
    with pytest.raises(ValueError, match=sentence):
        load_edm(tensors(DDPMPP), config=config)


@pytest.mark.parametrize("suffix", ["pkl", "pt", "pth", "safetensors"])
def test_damaged_files(suffix, tmp_path):
    """Files that are cut off, empty, or of no known kind are refused with one sentence."""
    state, file = tensors(DDPMPP), tmp_path / f"edm.{suffix}"
    if suffix == "safetensors":
        save_file(state, file)
    elif suffix == "pkl":
        file.write_bytes(pickle.dumps({"ema": state}))
    else:
        torch.save(state, file)
    whole = file.read_bytes()
    for length in (0, 1, 9, len(whole) // 3, len(whole) - 5):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"is damaged|cannot be read"):
            load_edm(file)
    with pytest.raises(ValueError, match="must end in"):
        load_edm(tmp_path / "edm.onnx")
    with pytest.raises(FileNotFoundError):
        load_edm(tmp_path / "none" / file.name)
