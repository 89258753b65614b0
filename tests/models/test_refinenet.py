"""The RefineNets compared with an interpreter of the published tensors and published counts."""

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde.interop.refinenet import describe as describe_shapes
from scoresde.interop.refinenet import rows
from scoresde.interop.table import read, write
from scoresde.models import RefineNet, ScoreModel
from scoresde.models.refine import InstanceNormPlus
from scoresde.sde import VE, Discretized, construct, describe
from tests.composed import composed

SMALL = {"widths": (1, 2, 2, 2), "dilations": (1, 1, 2, 4)}
VARIANTS: dict[str, dict[str, Any]] = {
    "ncsn": {**SMALL, "num_levels": 5},
    "ncsnv2": SMALL,
    "ncsnv2_128": {"widths": (1, 2, 2, 4, 4), "dilations": (1, 1, 1, 2, 4)},
    "ncsnv2_256": {"widths": (1, 2, 2, 2, 4, 4), "dilations": (1, 1, 1, 1, 2, 4)},
}

# --- the published networks, with the names of their layers there

# (name, channels out in units of nf, dilation) of the residual levels, in forward order.
RESIDUAL = {
    "ncsn": [("1", 1, 1), ("2", 2, 1), ("3", 2, 2), ("4", 2, 4)],
    "ncsnv2_128": [("1", 1, 1), ("2", 2, 1), ("3", 2, 1), ("4", 4, 2), ("5", 4, 4)],
    "ncsnv2_256": [
        ("1", 1, 1), ("2", 2, 1), ("3", 2, 1), ("31", 2, 1), ("4", 4, 2), ("5", 4, 4),
    ],
}  # fmt: skip
# (name, channels in, channels out) of the refinement, in order of construction.
REFINE = {
    "ncsn": [("1", [2], 2), ("2", [2, 2], 2), ("3", [2, 2], 1), ("4", [1, 1], 1)],
    "ncsnv2_128": [
        ("1", [4], 4), ("2", [4, 4], 2), ("3", [2, 2], 2), ("4", [2, 2], 1), ("5", [1, 1], 1),
    ],
    "ncsnv2_256": [
        ("1", [4], 4), ("2", [4, 4], 2), ("3", [2, 2], 2), ("31", [2, 2], 2),
        ("4", [2, 2], 1), ("5", [1, 1], 1),
    ],
}  # fmt: skip
# (block of the refinement, level whose features it takes), in forward order.
FORWARD = {
    "ncsn": [("1", "4"), ("2", "3"), ("3", "2"), ("4", "1")],
    "ncsnv2_128": [("1", "5"), ("2", "4"), ("3", "3"), ("4", "2"), ("5", "1")],
    "ncsnv2_256": [("1", "5"), ("2", "4"), ("31", "31"), ("3", "3"), ("4", "2"), ("5", "1")],
}
RESIDUAL["ncsnv2"], REFINE["ncsnv2"] = RESIDUAL["ncsn"], REFINE["ncsn"]
FORWARD["ncsnv2"] = FORWARD["ncsn"]


def published_shapes(variant: str, channels: int, nf: int) -> dict[str, tuple[int, ...]]:
    """Every parameter of a published network with its shape, in order of construction."""
    levels = VARIANTS[variant].get("num_levels")

    def norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        if levels is not None:
            yield f"{name}.embed.weight", (levels, 3 * width)
        else:
            yield from ((f"{name}.{key}", (width,)) for key in ("alpha", "gamma", "beta"))

    def inner(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from norm(name, width) if levels is not None else ()

    def conv(
        name: str, ins: int, outs: int, size: int = 3, bias: bool = True
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (outs, ins, size, size)
        if bias:
            yield f"{name}.bias", (outs,)

    def units(name: str, width: int, number: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for i in range(1, number + 1):
            for j in (1, 2):
                yield from inner(f"{name}.{i}_{j}_norm", width)
                yield from conv(f"{name}.{i}_{j}_conv", width, width, bias=False)

    def everything() -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from conv("begin_conv", channels, nf)
        yield from norm("normalizer", nf)
        yield from conv("end_conv", nf, channels)
        ins = nf
        for name, factor, dilation in RESIDUAL[variant]:
            outs = factor * nf
            for block in (0, 1):
                down = block == 0 and name != "1"
                pooled = ".conv" if down and dilation == 1 else ""
                yield from conv(f"res{name}.{block}.conv1", ins, ins)
                yield from norm(f"res{name}.{block}.normalize2", ins)
                yield from conv(f"res{name}.{block}.conv2{pooled}", ins, outs)
                if down:
                    size = 1 if pooled else 3
                    yield from conv(f"res{name}.{block}.shortcut{pooled}", ins, outs, size)
                yield from norm(f"res{name}.{block}.normalize1", ins)
                ins = outs
        for name, inputs, factor in REFINE[variant]:
            widths, outs, block_name = [nf * i for i in inputs], nf * factor, f"refine{name}"
            for i, width in enumerate(widths):
                yield from units(f"{block_name}.adapt_convs.{i}", width, 2)
            last = name == REFINE[variant][-1][0]
            yield from units(f"{block_name}.output_convs", outs, 3 if last else 1)
            if len(widths) > 1:
                for i, width in enumerate(widths):
                    yield from conv(f"{block_name}.msf.convs.{i}", width, outs)
                for i, width in enumerate(widths):
                    yield from inner(f"{block_name}.msf.norms.{i}", width)
            for i in (0, 1):
                yield from conv(f"{block_name}.crp.convs.{i}", outs, outs, bias=False)
            for i in (0, 1):
                yield from inner(f"{block_name}.crp.norms.{i}", outs)

    return dict(everything())


def published_state(variant: str, channels: int, nf: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random tensors of a published network, each layer of about unit gain."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in published_shapes(variant, channels, nf).items():
        z = torch.randn(shape, generator=generator, dtype=torch.float64)
        if len(shape) == 4:
            z = z / math.sqrt(math.prod(shape[1:]))
        elif not name.endswith("bias"):
            z = 1 + 0.5 * z
        state[name] = z.to(dtype)
    return state


class Interpreter:
    """The published forward pass, following the names of the tensors alone."""

    def __init__(self, state: dict[str, Tensor], act: Any = F.elu) -> None:
        self.state, self.act = state, act

    def conv(self, name: str, x: Tensor, dilation: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        bias = self.state.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, padding=padding, dilation=dilation)

    def norm(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        if f"{name}.embed.weight" in self.state:
            gamma, alpha, beta = self.state[f"{name}.embed.weight"][y].chunk(3, dim=-1)
        elif f"{name}.gamma" in self.state:
            gamma, alpha, beta = (self.state[f"{name}.{k}"] for k in ("gamma", "alpha", "beta"))
        else:
            return x
        means = x.mean((2, 3))
        centred = means - means.mean(1, keepdim=True)
        variance = centred.square().sum(1, keepdim=True) / (means.shape[1] - 1)
        means_plus = centred / (variance + 1e-5).sqrt()
        h = x - means[..., None, None]
        h = h / (h.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
        h = h + means_plus[..., None, None] * alpha[..., None, None]
        return gamma[..., None, None] * h + beta[..., None, None]

    def mean_pool(self, x: Tensor) -> Tensor:
        pairs = x[:, :, ::2] + x[:, :, 1::2]
        return (pairs[..., ::2] + pairs[..., 1::2]) / 4

    def residual(self, name: str, x: Tensor, y: Tensor, dilation: int) -> Tensor:
        pooled = f"{name}.conv2.conv.weight" in self.state
        h = self.act(self.norm(f"{name}.normalize1", x, y))
        h = self.conv(f"{name}.conv1", h, dilation)
        h = self.act(self.norm(f"{name}.normalize2", h, y))
        if pooled:
            h = self.mean_pool(self.conv(f"{name}.conv2.conv", h))
            return self.mean_pool(self.conv(f"{name}.shortcut.conv", x)) + h
        h = self.conv(f"{name}.conv2", h, dilation)
        has_shortcut = f"{name}.shortcut.weight" in self.state
        return (self.conv(f"{name}.shortcut", x, dilation) if has_shortcut else x) + h

    def units(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        i = 1
        while f"{name}.{i}_1_conv.weight" in self.state:
            residual = x
            for j in (1, 2):
                x = self.act(self.norm(f"{name}.{i}_{j}_norm", x, y))
                x = self.conv(f"{name}.{i}_{j}_conv", x)
            # It acts in place as published: x is the convolution's own output, so that the features
            # which other layers read again do not change.
            x += residual
            i += 1
        return x

    def refine(self, name: str, xs: list[Tensor], y: Tensor) -> Tensor:
        hs = [self.units(f"{name}.adapt_convs.{i}", x, y) for i, x in enumerate(xs)]
        h, size = hs[0], xs[0].shape[2:]
        if len(hs) > 1:
            h = torch.zeros((), dtype=h.dtype)
            for i, part in enumerate(hs):
                part = self.norm(f"{name}.msf.norms.{i}", part, y)
                part = self.conv(f"{name}.msf.convs.{i}", part)
                h = h + F.interpolate(part, size, mode="bilinear", align_corners=True)
        labelled = f"{name}.crp.norms.0.embed.weight" in self.state
        pool = torch.nn.AvgPool2d(5, 1, 2) if labelled else torch.nn.MaxPool2d(5, 1, 2)
        h = path = self.act(h)
        for i in (0, 1):
            path = pool(self.norm(f"{name}.crp.norms.{i}", path, y))
            path = self.conv(f"{name}.crp.convs.{i}", path)
            h = path + h
        return self.units(f"{name}.output_convs", h, y)

    def __call__(self, variant: str, x: Tensor, y: Tensor) -> Tensor:
        h = self.conv("begin_conv", x)
        features = {}
        for name, _, dilation in RESIDUAL[variant]:
            for block in (0, 1):
                h = self.residual(f"res{name}.{block}", h, y, dilation)
            features[name] = h
        below: list[Tensor] = []
        for name, level in FORWARD[variant]:
            below = [self.refine(f"refine{name}", [features[level], *below], y)]
        return self.conv("end_conv", self.act(self.norm("normalizer", below[0], y)))


def tiny(variant: str = "ncsn", shape: Any = (3, 8, 16), **options: Any) -> RefineNet:
    torch.manual_seed(0)
    return RefineNet(**{"shape": shape, "nf": 8, **VARIANTS[variant], **options})


def load(net: RefineNet, state: dict[str, Tensor]) -> RefineNet:
    net.load_state_dict(read(rows(net), state, net.state_dict(), "the test"))
    return net


def batch(net: RefineNet, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, *shape, generator=generator, dtype=dtype)
    return x, torch.tensor([3, 0, 4, 3], dtype=dtype)


# The tolerance is float64 and float32 rounding through about 60 layers, relative to the largest
# entry.
PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 1e-5)]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS, ids=["double", "single"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 24), (32, 16), (28, 28)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_are_those_of_the_published_networks(
    variant: str, size: tuple[int, int], channels: int, dtype: torch.dtype, tolerance: float
) -> None:
    if size == (28, 28) and variant == "ncsnv2_256":
        size = (40, 24)  # 28 cannot be halved three times
    state = published_state(variant, channels, 8, dtype)
    net = load(tiny(variant, (channels, None, None)).to(dtype), state)
    x, c_noise = batch(net, (channels, *size), dtype)
    kept = x.clone()
    with torch.no_grad():
        actual = net(x, c_noise)
        expected = Interpreter(state)(variant, kept, c_noise.long())
    assert actual.dtype == dtype
    assert torch.equal(x, kept)
    scale = expected.abs().max()
    assert 0.1 < scale < 1e4
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", F.relu),
        ("lrelu", lambda x: F.leaky_relu(x, 0.2)),
        ("swish", lambda x: x * torch.sigmoid(x)),
    ],
)
def test_other_activations(activation: str, function: Any) -> None:
    state = published_state("ncsn", 3, 8, torch.float64)
    net = load(tiny(activation=activation).double(), state)
    x, c_noise = batch(net, (3, 8, 16), torch.float64)
    expected = Interpreter(state, function)("ncsn", x, c_noise.long())
    # float64 rounding, relative to the largest entry
    scale = expected.abs().max()
    torch.testing.assert_close(net(x, c_noise) / scale, expected / scale, rtol=0, atol=1e-12)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_formats_agree(memory_format: torch.memory_format) -> None:
    net = tiny("ncsnv2").double()
    x, c_noise = batch(net, (3, 8, 16), torch.float64)
    expected = net(x, c_noise)
    net.to(memory_format=memory_format)  # type: ignore[call-overload]  # absent from its stubs
    # float64, sums in another order
    actual = net(x.contiguous(memory_format=memory_format), c_noise)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


# --- the tensors of the published networks


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_have_the_published_names_shapes_and_order(variant: str) -> None:
    net = tiny(variant)
    ours = write(rows(net), net.state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
    assert list(shapes.items()) == list(published_shapes(variant, 3, 8).items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_writing_undoes_reading(variant: str) -> None:
    state = published_state(variant, 3, 8, torch.float32)
    net = load(tiny(variant), state)
    back = write(rows(net), net.state_dict())
    assert back.keys() == state.keys()
    for name, tensor in back.items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_determine_the_arguments(variant: str, channels: int) -> None:
    shapes = published_shapes(variant, channels, 6) | {"sigmas": (232,)}
    options = VARIANTS[variant]
    expected = {
        "shape": [channels, None, None],
        "nf": 6,
        "widths": list(options["widths"]),
        "dilations": list(options["dilations"]),
        "num_levels": options.get("num_levels"),
    }
    assert describe_shapes(shapes) == expected
    net = RefineNet(**describe_shapes(shapes))
    names = [row.theirs for row in rows(net)]
    assert names == [name for name in shapes if name != "sigmas"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"begin_conv.weight": None}, "no begin_conv.weight"),
        ({"res3.0.conv2.weight": None}, "no res3.0.conv2.weight"),
        ({"normalizer.embed.weight": None}, "no normalizer.alpha"),
        ({"normalizer.embed.weight": (5, 16)}, "is (5, 16), and InstanceNorm++ has (5, 24)"),
    ],
)
def test_other_tensors_are_not_described(change: dict[str, Any], message: str) -> None:
    shapes: dict[str, Any] = published_shapes("ncsn", 3, 8) | change
    shapes = {name: shape for name, shape in shapes.items() if shape is not None}
    with pytest.raises(ValueError, match=re.escape(message)):
        describe_shapes(shapes)


def test_other_numbers_of_levels_have_no_names() -> None:
    net = tiny(widths=(1, 2), dilations=(1, 1))
    assert net(torch.zeros(1, 3, 8, 16), torch.zeros(1)).shape == (1, 3, 8, 16)
    with pytest.raises(ValueError, match="have 4, 5 or 6 levels, and this one has 2"):
        rows(net)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ncsn", 30_117_635),
        ("ncsnv2", 29_694_083),  # users of the published CIFAR-10 checkpoint print it so
        ("ncsnv2_128", 83_445_379),
        ("ncsnv2_256", 94_132_611),
    ],
)
def test_configured_networks_are_the_published_ones(name: str, count: int) -> None:
    config = composed("model", name)
    raw = name == "ncsn"
    assert config["parameterization"] == ("raw_score" if raw else "score")
    assert config["c_noise"] == ("descending" if raw else None)  # None for `process`
    assert (config["fourier_features"], config["learned_variance"]) == ([], False)
    assert config["net"].pop("_target_") == "scoresde.models.RefineNet"
    assert config["net"]["num_levels"] == (10 if raw else None)
    with torch.device("meta"):
        net = RefineNet(shape=(3, 32, 32), **config["net"])
    assert sum(p.numel() for p in net.parameters()) == count
    shapes = published_shapes(name, 3, 128)
    tables = sum(math.prod(s) for key, s in shapes.items() if key.endswith("embed.weight"))
    # The table above has five levels instead of ten.
    assert count == sum(math.prod(s) for s in shapes.values()) + tables


# --- training, labels and sizes


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_is_trained(variant: str) -> None:
    net = tiny(variant, (3, None, None))
    x, c_noise = batch(net, (3, 16, 24), torch.float32)
    y = net(x, c_noise)
    assert y.shape == x.shape
    y.square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name
        if p.ndim == 2:
            # A level without any image is not trained.
            assert p.grad.abs().amax(1).bool().tolist() == [True, False, False, True, True], name


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_ncsn_sees_the_label(variant: str) -> None:
    net = load(tiny(variant, (3, 16, 24)), published_state(variant, 3, 8, torch.float32))
    x, _ = batch(net, (3, 16, 24), torch.float32)
    outputs = [net(x, torch.full((4,), float(level))) for level in range(5)]
    for level in range(1, 5):
        changed = (outputs[level] - outputs[0]).abs().max() > 1e-3 * outputs[0].abs().max()
        assert changed == (variant == "ncsn")
    if variant != "ncsn":
        assert torch.equal(net(x, torch.tensor([-4.6, 9e9, 0.3, -1.0])), outputs[0])


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_labels_are_rounded_and_belong_to_their_images(dtype: torch.dtype) -> None:
    net = load(tiny(), published_state("ncsn", 3, 8, torch.float32)).double()
    x, _ = batch(net, (3, 8, 16), torch.float64)
    levels = torch.tensor([4, 1, 1, 0], dtype=dtype)
    expected = torch.cat([net(x[i : i + 1], levels[i : i + 1]) for i in range(4)])
    # float64, as batches of one and of four may be summed in another order
    torch.testing.assert_close(net(x, levels), expected, rtol=1e-10, atol=1e-10)
    if dtype.is_floating_point:
        # The label of a time misses its integer by rounding, in either direction.
        assert torch.equal(net(x, levels + 1e-4), net(x, levels))
        assert torch.equal(net(x, levels - 1e-4), net(x, levels))


def test_initial_values() -> None:
    torch.manual_seed(0)
    norm = InstanceNormPlus(200, 50)
    assert (norm.beta == 0).all()
    for p in (norm.gamma, norm.alpha):
        # With 10000 samples the mean is known to 2e-4 and the deviation to 1.4e-4; five times that
        # is allowed.
        assert abs(p.mean().item() - 1) < 1e-3
        assert abs(p.std().item() - 0.02) < 7e-4
    bound = 1 / math.sqrt(9 * 16)  # PyTorch's own, 1/√fan_in
    weight = tiny().get_parameter("levels.2.1.conv_0.weight")
    assert 0.95 * bound < weight.abs().max() <= bound


def test_norm_keeps_differences_between_means() -> None:
    """Of constant channels, α times their standardized means is left."""
    norm = InstanceNormPlus(3, None).double()
    with torch.no_grad():
        norm.alpha.fill_(2.0), norm.gamma.fill_(3.0), norm.beta.fill_(1.0)
    x = torch.tensor([-40.0, 0.0, 40.0]).double().reshape(1, 3, 1, 1).expand(1, 3, 4, 5)
    expected = torch.tensor([-5.0, 1.0, 7.0]).double().reshape(1, 3, 1, 1).expand_as(x)
    # 1e-5, compared with the variance 1600, changes 6 by 2e-8
    torch.testing.assert_close(norm(x, None), expected, rtol=0, atol=1e-7)


# --- descriptions and the score


@pytest.mark.parametrize("variant", VARIANTS)
def test_description_makes_the_network_again(variant: str) -> None:
    net = tiny(variant, (3, None, None))
    described = describe(net)
    assert described["_target_"] == "scoresde.models.RefineNet"
    again = construct(described)
    again.load_state_dict(net.state_dict())
    x, c_noise = batch(net, (3, 8, 16), torch.float32)
    assert torch.equal(again(x, c_noise), net(x, c_noise))


@pytest.mark.parametrize("data_range", [None, (0.0, 1.0)])
def test_raw_scores_are_those_of_the_level(data_range: tuple[float, float] | None) -> None:
    sde = Discretized(VE(0.01, 1.0), 10)
    net = tiny("ncsn", num_levels=10).double()
    model = ScoreModel(net, sde, "raw_score", c_noise="descending", data_range=data_range)
    x, _ = batch(net, (3, 8, 16), torch.float64)
    seen = x if data_range is None else 2 * x - 1
    for i, t in enumerate(sde.times):
        # Level 9 of the chain is the noisiest, and is level 0 of the network.
        expected = net(seen, torch.full((4,), 9 - i))
        # float64: multiplied and divided by σ
        torch.testing.assert_close(model(x, t), expected, rtol=1e-12, atol=1e-12)


def test_scores_of_ncsnv2_are_divided_by_sigma() -> None:
    sde = Discretized(VE(0.01, 50.0), 232)
    net = tiny("ncsnv2").double()
    x, _ = batch(net, (3, 8, 16), torch.float64)
    t = sde.times[[0, 7, 100, 231]]
    sigma = sde.sigmas[[0, 7, 100, 231]].reshape(4, 1, 1, 1)
    expected = net(2 * x - 1, torch.zeros(4)) / sigma
    actual = ScoreModel(net, sde, "score", data_range=(0.0, 1.0))(x, t)
    # float64; σ of the chain is interpolated in log σ
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


# --- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (3, 7, 8)}, "image size 7 is not divisible by 2^1 (1 downsamplings); use 6, 8"),
        (
            {"shape": (3, 28, 28), **VARIANTS["ncsnv2_256"]},
            "image size 28 is not divisible by 2^3 (3 downsamplings); use 24, 32",
        ),
        ({"shape": (3, 8)}, "shape must be (channels, height, width), each ≥ 1, got (3, 8)"),
        ({"nf": 1}, "nf must be ≥ 2, got 1"),
        ({"widths": (1,), "dilations": (1,)}, "a factor ≥ 1 for each level ≥ 2, got [1]"),
        ({"widths": (1, 0, 2, 2)}, "widths must hold a factor ≥ 1"),
        ({"dilations": (1, 1, 2)}, "a number ≥ 1 for each of the 4 levels, the first 1, got"),
        ({"dilations": (2, 1, 2, 4)}, "the first 1, got [2, 1, 2, 4]"),
        ({"num_levels": 0}, "num_levels must be ≥ 1, or None for a network without labels, got 0"),
        (
            {"activation": "ELU"},
            "unknown activation 'ELU'. Available: elu, relu, lrelu, swish; did",
        ),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny(**options)


@pytest.mark.parametrize(
    ("level", "message"),
    [
        (5.0, "among the levels 0 … 4 of this network, got 5; use sde.discretize(5)"),
        (-4.6, "got -4.6"),
        (float("nan"), "got nan"),
    ],
)
def test_levels_that_there_are_not_are_refused(level: float, message: str) -> None:
    net = tiny()
    with pytest.raises(ValueError, match=re.escape(message)):
        net(torch.zeros(2, 3, 8, 16), torch.tensor([1.0, level]))


def test_a_process_of_more_levels_is_refused() -> None:
    chain = Discretized(VE(0.01, 1.0), 8)
    with pytest.raises(ValueError, match="among the levels 0 … 4"):
        ScoreModel(tiny(), chain)(torch.zeros(2, 3, 8, 16), chain.times[7])


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (torch.zeros(2, 1, 8, 16), torch.zeros(2), "model has 3 input channels, data has 1"),
        (torch.zeros(2, 3, 16, 8), torch.zeros(2), "expected (N, 3, 8, 16) for this model"),
        (torch.zeros(2, 3, 8, 16), torch.zeros(3), "c_noise must have shape (2,), got (3,)"),
    ],
)
def test_wrong_inputs_are_refused(x: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny()(x, labels)


def test_integer_images_are_refused() -> None:
    with pytest.raises(TypeError, match="expected floating-point images"):
        tiny()(torch.zeros(2, 3, 8, 16, dtype=torch.uint8), torch.zeros(2))


def test_sizes_that_do_not_halve_are_refused() -> None:
    net = tiny("ncsnv2_256", (3, None, None))
    with pytest.raises(ValueError, match=re.escape("expected (N, 3, a multiple of 8")):
        net(torch.zeros(1, 3, 28, 28), torch.zeros(1))
