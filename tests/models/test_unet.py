"""The U-Nets compared with published parameter counts and outputs of the reference networks."""

import itertools
import json
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde.models.embedding import FourierEmbedding, SinusoidalEmbedding
from scoresde.models.layers import NIN, Attention, BlockOptions, variance_scaling_
from scoresde.models.resample import Downsample2d, InputSkip, ResidualPyramid, UpsampleConv2d
from scoresde.models.unet import UNet
from scoresde.sde import expand
from tests.composed import composed
from tests.places import SHARED

GOLDEN = SHARED / "golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.exists(), reason="the reference's outputs (../shared/golden) are not here"
)

TINY: dict[str, Any] = {
    "shape": (3, 8, 4),
    "nf": 8,
    "ch_mult": (1, 2),
    "num_res_blocks": 1,
    "attn_resolutions": (4,),
    "channels_per_group": 2,
    "init_scale": 1.0,  # with 0 the gradients of the branches would be 1e-10 of the others
}


def tiny(**options: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(**{**TINY, **options})


def batch(net: UNet, size: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, *net.shape, generator=generator)
    return x, torch.linspace(0.5, 3.0, size)


# --- published networks


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [
        ("ddpm", 32, 35_218_947),
        ("ddpmpp", 32, 61_804_419),
        ("ddpmpp_deep", 32, 106_632_579),
        ("ncsnpp", 32, 62_693_251),  # NCSN++ (discrete) has the same positional embedding
        ("ncsnpp_ve", 32, 62_758_787),
        ("ncsnpp_deep_ve", 32, 107_586_947),
        ("ncsnpp_256", 256, 65_574_421),
        ("ncsnpp_1024", 1024, 105_785_880),
    ],
)
def test_published_parameter_counts(name: str, size: int, count: int) -> None:
    config = composed("model", name)
    keys = {"net", "parameterization", "fourier_features", "learned_variance", "c_noise"}
    assert set(config) == keys
    assert config["parameterization"] == (
        "score" if config["net"].get("fourier_scale") else "noise"
    )
    assert config["net"].pop("_target_") == "scoresde.models.UNet"
    with torch.device("meta"):
        net = UNet(shape=(3, size, size), **config["net"])
    assert sum(p.numel() for p in net.parameters()) == count


# --- outputs of the reference implementation

GOLDEN_NAMES = [
    "ncsnpp_ve_continuous",
    "ncsnpp_vp_continuous",
    "ncsnpp_ve_256_style",
    "ddpmpp_subvp_continuous",
    "ddpm_vp",
]


def golden_net(config: dict[str, Any]) -> UNet:
    """The network that a configuration in the reference's field names describes."""
    names = "nf ch_mult num_res_blocks attn_resolutions dropout resamp_with_conv"
    if config["model"]["name"] == "ncsnpp":
        names += " fir fir_kernel skip_rescale resblock_type progressive progressive_input"
        names += " progressive_combine embedding_type fourier_scale init_scale"
    options = {name: config["model"][name] for name in names.split()}
    options["noise_conditional"] = config["model"]["conditional"]
    if config["model"]["name"] == "ddpm":
        options.update(resblock_type="ddpm", skip_rescale=False, channels_per_group=1)
    data = config["data"]
    return UNet((data["num_channels"], data["image_size"], data["image_size"]), **options).eval()


@needs_golden
def test_every_golden_network_is_tested() -> None:
    assert set(GOLDEN_NAMES) == set(json.loads((GOLDEN / "networks.json").read_text()))


@needs_golden
@pytest.mark.parametrize("name", GOLDEN_NAMES)
@pytest.mark.parametrize("output", ["output", "output_ema"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_golden_outputs(name: str, output: str, memory_format: torch.memory_format) -> None:
    config = json.loads((GOLDEN / "networks.json").read_text())[name]
    checkpoint = torch.load(GOLDEN / f"{name}.pth", weights_only=True)
    arrays = np.load(GOLDEN / f"{name}.npz")
    net = golden_net(config)

    tensors = {key.removeprefix("module."): value for key, value in checkpoint["model"].items()}
    del tensors["sigmas"]
    frequencies = tensors.pop("all_modules.0.W", None)
    source = list(tensors.values()) if output == "output" else checkpoint["ema"]["shadow_params"]
    with torch.no_grad():
        for p, value in zip(net.parameters(), source, strict=True):
            assert p.shape == value.shape
            p.copy_(value)
        if frequencies is not None:
            net.get_buffer("embedding.embed.W").copy_(frequencies)

    net.to(memory_format=memory_format)  # type: ignore[call-overload]  # absent from its stubs
    x, labels = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["labels"])
    ve = config["training"]["sde"] == "vesde"
    with torch.no_grad():
        x = (x if config["data"]["centered"] else 2 * x - 1).contiguous(memory_format=memory_format)
        actual = net(x, labels.log() if ve else labels)
    assert actual.is_contiguous(memory_format=memory_format)
    if config["model"]["scale_by_sigma"]:
        actual = actual / expand(labels, actual)

    # Relative to each image's largest entry: the outputs of VE differ by a factor 1000 between
    # the labels, and single entries pass through zero.
    expected = torch.from_numpy(arrays[output])
    scale = expected.abs().amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=1e-5)


# --- every option

PYRAMIDS = [
    {"progressive": progressive, "progressive_input": pyramid, "progressive_combine": combine}
    for progressive in ("none", "output_skip", "residual")
    for pyramid, combine in (
        ("none", "sum"),
        ("input_skip", "sum"),
        ("input_skip", "cat"),
        ("residual", "sum"),
    )
]
EMBEDDINGS: list[dict[str, Any]] = [
    {"embedding_type": "fourier"},
    {"embedding_type": "positional"},
    {"noise_conditional": False},
]


def check_that_it_runs_and_trains(**options: Any) -> None:
    net = tiny(dropout=0.0, **options)
    x, c_noise = batch(net)
    y = net(x, c_noise)
    assert y.shape == x.shape
    y.square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, (name, options)
        assert p.grad.isfinite().all(), (name, options)
        # Softmax does not depend on a constant added to all scores of a query.
        assert name.endswith("k.bias") or p.grad.abs().max() > 0, (name, options)


@pytest.mark.parametrize("blocks", [("biggan", True), ("ddpm", True), ("ddpm", False)])
@pytest.mark.parametrize("pyramids", PYRAMIDS, ids=lambda p: "-".join(p.values()))
def test_every_combination_runs_and_trains(
    blocks: tuple[str, bool], pyramids: dict[str, str]
) -> None:
    resblock_type, with_conv = blocks
    for fir, rescale in itertools.product((False, True), (False, True)):
        options = {"fir": fir, "skip_rescale": rescale, "resamp_with_conv": with_conv, **pyramids}
        check_that_it_runs_and_trains(resblock_type=resblock_type, **options)


# The embedding enters the rest of the network in the residual blocks alone.
@pytest.mark.parametrize("resblock_type", ["biggan", "ddpm"])
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_every_embedding_runs_and_trains(resblock_type: str, embedding: dict[str, Any]) -> None:
    check_that_it_runs_and_trains(resblock_type=resblock_type, **embedding)


def test_pyramids_add_the_parameters_of_their_layers() -> None:
    def count(**options: str) -> int:
        net = tiny(nf=6, ch_mult=(1, 2, 3), shape=(2, 8, 8), fir=True, **options)
        return sum(p.numel() for p in net.parameters())

    plain = count()
    images = [9 * width * 2 + 2 + 2 * width for width in (6, 12, 18)]  # norm, 3x3 to 2 channels
    assert count(progressive="output_skip") - plain == sum(images[1:])  # the head moves inside
    start = 9 * 18 * 18 + 18 + 2 * 18
    ups = 9 * 18 * 12 + 12 + 9 * 12 * 6 + 6
    assert count(progressive="residual") - plain == start + ups
    assert count(progressive_input="input_skip") - plain == (2 * 6 + 6) + (2 * 12 + 12)
    downs = (9 * 2 * 6 + 6) + (9 * 6 * 12 + 12)
    assert count(progressive_input="residual") - plain == downs


@pytest.mark.parametrize("conditional", [True, False])
def test_only_a_noise_conditional_network_depends_on_the_noise_level(conditional: bool) -> None:
    net = tiny(noise_conditional=conditional).eval()
    x, c_noise = batch(net)
    assert torch.equal(net(x, c_noise), net(x, c_noise + 1)) != conditional


@pytest.mark.parametrize("shape", [(1, 4, 4), (5, 12, 8), (2, 6, 10)])
@pytest.mark.parametrize("nf", [2, 5, 9])
def test_any_channels_and_any_size_that_divides(shape: tuple[int, ...], nf: int) -> None:
    net = tiny(shape=shape, nf=nf, channels_per_group=4)
    x, c_noise = batch(net, size=3)
    y = net(x, c_noise)
    assert y.shape == x.shape
    assert y.isfinite().all()


def test_attention_is_decided_by_height() -> None:
    def attentions(*resolutions: int) -> int:
        net = tiny(shape=(3, 8, 16), num_res_blocks=2, attn_resolutions=resolutions)
        return sum(isinstance(module, Attention) for module in net.modules())

    assert attentions(16) == 1  # 16 is a width, so that only the middle attends
    assert attentions(8) == 1 + 2 + 1  # each stage down, once up
    assert attentions(8, 4) == 1 + 2 * (2 + 1)


def test_integer_labels_equal_float_labels() -> None:
    net = tiny().eval()
    x, _ = batch(net)
    torch.testing.assert_close(
        net(x, torch.tensor([3, 999])), net(x, torch.tensor([3.0, 999.0])), rtol=0, atol=0
    )


def test_double_precision_agrees_with_single() -> None:
    net = tiny(fir=True, progressive_input="residual").eval()
    x, c_noise = batch(net)
    single = net(x, c_noise)
    double = net.double()(x.double(), c_noise.double())
    assert double.dtype == torch.float64
    # float32 rounding through about 20 layers, outputs of order 1
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-4)


def test_dropout_acts_in_training_only() -> None:
    net = tiny(dropout=0.5)
    x, c_noise = batch(net)
    assert not torch.equal(net(x, c_noise), net(x, c_noise))
    net.eval()
    torch.testing.assert_close(net(x, c_noise), net(x, c_noise), rtol=0, atol=0)


@pytest.mark.parametrize("resblock_type", ["biggan", "ddpm"])
@pytest.mark.parametrize("progressive", ["none", "output_skip", "residual"])
def test_output_starts_at_zero(resblock_type: str, progressive: str) -> None:
    net = tiny(resblock_type=resblock_type, progressive=progressive, fir=True, init_scale=0.0)
    x, c_noise = batch(net)
    y = net(x, c_noise)
    # The variance scale is 1e-10, hence 1e-5 of the usual size; the output pyramid's sum has a
    # factor 10.
    torch.testing.assert_close(y, torch.zeros_like(y), rtol=0, atol=1e-4)
    assert y.abs().max() > 0


def test_only_the_last_layers_of_branches_start_at_zero() -> None:
    net = tiny(nf=16, progressive="residual", progressive_input="residual", init_scale=0.0)
    for name, p in net.named_parameters():
        if p.ndim > 1:
            last = name.endswith(("conv_1.weight", "out.weight")) or name == "head.2.weight"
            assert (p.abs().max() < 1e-4) == last, name
    # q, k and v have variance scale 0.1; the 32 x 32 uniform weights come within 2 % of the bound.
    bound = math.sqrt(3 * 0.1 / 32)
    for key in ("q", "k", "v"):
        largest = net.get_parameter(f"middle_0.attention.{key}.weight").abs().max().item()
        assert 0.98 * bound < largest <= bound


def test_checkpoints_hold_parameters_and_fourier_frequencies_only() -> None:
    net = tiny(fir=True, progressive="residual", progressive_input="residual")
    assert list(net.state_dict()) == [name for name, _ in net.named_parameters()]
    net = tiny(embedding_type="fourier")
    assert set(net.state_dict()) - set(dict(net.named_parameters())) == {"embedding.embed.W"}


# --- layers


def test_attention_is_softmax_over_all_pixels() -> None:
    torch.manual_seed(0)
    options = BlockOptions(None, 0.0, True, 1.0, 4, None)
    layer = Attention(8, options).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)

    def nin(linear: NIN, image: Tensor) -> Tensor:
        return torch.einsum("bchw,cd->bdhw", image, linear.weight) + linear.bias[:, None, None]

    normed = layer.norm(x)
    q, k, v = (nin(linear, normed).flatten(2) for linear in (layer.q, layer.k, layer.v))
    weights = torch.softmax(torch.einsum("bcn,bcm->bnm", q, k) / math.sqrt(8), dim=2)
    mixed = torch.einsum("bnm,bcm->bcn", weights, v).unflatten(2, (3, 5))
    expected = (x + nin(layer.out, mixed)) / math.sqrt(2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)  # float64


def test_pyramid_layers() -> None:
    torch.manual_seed(0)
    options = BlockOptions(None, 0.0, True, 1.0, 4, None)
    h, image, features = torch.randn(2, 6, 4, 4), torch.randn(2, 3, 8, 8), torch.randn(2, 5, 2, 2)

    cat = InputSkip(3, 6, "cat", Downsample2d(None))
    joined, pyramid = cat(h, image)
    half = torch.nn.functional.avg_pool2d(image, 2)
    torch.testing.assert_close(pyramid, half, rtol=0, atol=0)
    torch.testing.assert_close(joined, torch.cat([cat.conv(half), h], dim=1), rtol=0, atol=0)

    up = UpsampleConv2d(5, 6, (1, 3, 3, 1))
    joined, pyramid = ResidualPyramid(up, options)(h, features)
    assert joined is pyramid
    # float32: a product with √½ instead of a division by √2
    torch.testing.assert_close(joined, (up(features) + h) / math.sqrt(2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "per_group", "groups"),
    [(128, 4, 32), (64, 4, 16), (256, 4, 32), (48, 1, 24), (128, 1, 32), (3, 4, 1), (14, 4, 2)],
)
def test_number_of_groups_divides_the_channels(channels: int, per_group: int, groups: int) -> None:
    norm = BlockOptions(None, 0.0, True, 0.0, per_group, None).norm(channels)
    assert (norm.num_groups, norm.eps) == (groups, 1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.0])
def test_variance_scaling_is_uniform_with_averaged_fans(scale: float) -> None:
    torch.manual_seed(0)
    weight = torch.empty(100, 60, 3, 3)
    variance_scaling_(weight, scale)
    variance = (scale or 1e-10) / (9 * (100 + 60) / 2)
    # With 54000 weights the variance of a uniform variable is known to 0.4 %, of which five are
    # allowed.
    torch.testing.assert_close(weight.var().item(), variance, rtol=0.02, atol=0.0)
    bound = math.sqrt(3 * variance)
    assert 0.99 * bound < weight.max() <= bound
    assert 0.99 * bound < -weight.min() <= bound


def test_fourier_embedding_is_fixed_random_features() -> None:
    torch.manual_seed(0)
    embedding = FourierEmbedding(1000, scale=16.0)
    assert not list(embedding.parameters())
    assert list(embedding.state_dict()) == ["W"]
    # the standard error of a standard deviation of 1000 values is 2.2 %
    torch.testing.assert_close(embedding.W.std().item(), 16.0, rtol=0.1, atol=0.0)
    c = torch.tensor([-1.5, 0.25], dtype=torch.float64)
    phase = 2 * np.pi * c.numpy()[:, None] * embedding.W.double().numpy()
    expected = torch.from_numpy(np.concatenate([np.sin(phase), np.cos(phase)], axis=1))
    # float64 phases up to 500
    torch.testing.assert_close(embedding(c), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("nf", [2, 3, 8, 11])
def test_sinusoidal_embedding(nf: int) -> None:
    half = nf // 2
    c = np.array([0.0, 1.0, 400.25, 999.0])
    expected = np.zeros((4, nf))
    for row, k in itertools.product(range(4), range(half)):
        phase = c[row] * 10000.0 ** (-k / max(half - 1, 1))
        expected[row, k], expected[row, half + k] = np.sin(phase), np.cos(phase)
    actual = SinusoidalEmbedding(nf)(torch.from_numpy(c))
    torch.testing.assert_close(actual, torch.from_numpy(expected), rtol=0, atol=1e-11)  # float64


def test_sinusoidal_embedding_keeps_low_precision_labels_apart() -> None:
    embedding = SinusoidalEmbedding(8)(torch.tensor([7, 8], dtype=torch.bfloat16))
    assert embedding.dtype == torch.float32


# --- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"shape": (3, 30, 30), "ch_mult": (1, 2, 2, 2)},
            "image size 30 is not divisible by 2^3 (3 downsamplings); use 24, 32, or fewer levels",
        ),
        (
            {"shape": (3, 8, 6), "ch_mult": (1, 2, 2, 2)},
            "image size 6 is not divisible by 2^3 (3 downsamplings); use 8, or fewer levels",
        ),
        ({"shape": (2,)}, "shape must be (channels, height, width), each ≥ 1, got (2,)"),
        ({"nf": 1}, "nf must be ≥ 2 and num_res_blocks ≥ 1, got 1 and 1"),
        ({"num_res_blocks": 0}, "nf must be ≥ 2 and num_res_blocks ≥ 1, got 8 and 0"),
        ({"ch_mult": ()}, "ch_mult must hold one factor ≥ 1 per level, got []"),
        ({"dropout": 1.0}, "dropout must be in [0, 1), got 1.0"),
        ({"init_scale": -1.0}, "init_scale must be ≥ 0, got -1.0"),
        ({"channels_per_group": 0}, "channels_per_group must be ≥ 1, got 0"),
        ({"embedding_type": "fourier", "fourier_scale": 0.0}, "scale must be > 0, got 0.0"),
        (
            {"progressive": "output-skip"},
            "unknown progressive 'output-skip'. Available: none, output_skip, residual; "
            "did you mean 'output_skip'?",
        ),
        ({"progressive_input": "inputskip"}, "did you mean 'input_skip'?"),
        (
            {"progressive_combine": "concat"},
            "unknown progressive_combine 'concat'. Available: sum, cat",
        ),
        (
            {"resblock_type": "BigGAN"},
            "unknown resblock_type 'BigGAN'. Available: biggan, ddpm; did you mean 'biggan'?",
        ),
        ({"embedding_type": "fourrier"}, "did you mean 'fourier'?"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny(**options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 1, 32, 32), "model has 3 input channels, data has 1"),
        (
            (5, 32, 32, 3),
            "expected (N, 3, 32, 32) for this model, got (N, 32, 32, 3); "
            "did you pass NHWC? Use x.permute(0, 3, 1, 2)",
        ),
        ((3, 32, 32), "expected (N, 3, 32, 32) for this model, got (3, 32, 32)"),
        ((5, 2), "expected (N, 3, 32, 32) for this model, got (5, 2)"),
        ((5, 3, 64, 64), "expected (N, 3, 32, 32) for this model, got (N, 3, 64, 64)"),
    ],
)
def test_wrong_images_are_refused(shape: tuple[int, ...], message: str) -> None:
    net = tiny(shape=(3, 32, 32))
    with pytest.raises(ValueError, match=re.escape(message)):
        net(torch.zeros(shape), torch.zeros(shape[0]))


def test_integer_images_are_refused() -> None:
    net = tiny()
    with pytest.raises(
        TypeError, match=re.escape("expected floating-point images, got torch.uint8")
    ):
        net(torch.zeros(2, *net.shape, dtype=torch.uint8), torch.zeros(2))


@pytest.mark.parametrize("shape", [(), (3,), (2, 1)])
def test_one_label_per_image(shape: tuple[int, ...]) -> None:
    net = tiny()
    with pytest.raises(ValueError, match=re.escape(f"c_noise must have shape (2,), got {shape}")):
        net(torch.zeros(2, *net.shape), torch.zeros(shape))
