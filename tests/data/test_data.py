"""Image sets: scaling, stateless batches, the checks common to all sets, and the digits."""

import inspect

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import kstest

from scoresde import data
from scoresde.data import CIFAR10, MNIST, Digits, Folder, GreyLevels, InMemory, Split
from tests.places import ROOT, SHARED

CONF = ROOT / "conf" / "data"
REAL = SHARED / "data"
RANGES = [(-1.0, 1.0), (0.0, 1.0), (-0.37, 2.9), (10.0, 11.0), (-1e-3, 2e-3)]
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"


class Grey(InMemory):
    """Random images, none of which equals another image or its own mirror image."""

    def __init__(self, n=96, shape=(2, 3, 5), levels=256, range=(-1.0, 1.0), **settings):
        def read():
            samples = torch.randint(levels, (n + 4, *shape), dtype=torch.uint8, generator=seeded(7))
            return Split(samples[:n], torch.arange(n)), Split(samples[n:], torch.arange(4))

        super().__init__("grey", read, GreyLevels(range, levels), **settings)


class Points(InMemory):
    def __init__(self, train, test):
        super().__init__("points", lambda: (Split(train, None), Split(test, None)))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Scaling


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("range", RANGES)
def test_scale_then_quantize_is_the_identity(range, levels, monkeypatch):
    grey = Grey(levels=levels, range=range, dequantize=True)
    k = torch.arange(levels, dtype=torch.uint8).view(1, 1, 1, -1)
    lo, hi = range
    x = grey.scale(k)
    middle = torch.from_numpy(lo + (hi - lo) * (np.arange(levels) + 0.5) / levels).view(1, 1, 1, -1)
    # The tolerance is one float32 rounding of the value.
    torch.testing.assert_close(x, middle.float(), atol=0, rtol=1.2e-7)
    assert x.dtype == torch.float32 and torch.equal(grey.quantize(x), k)
    assert grey.cell == pytest.approx((hi - lo) / levels, rel=1e-15)
    # The least and the greatest number that a float32 uniform generator can return.
    for extreme in (0.0, 1 - 2**-24):
        monkeypatch.setattr(torch, "rand", lambda shape, u=extreme, **_: torch.full(shape, u))
        assert torch.equal(grey.quantize(grey.scale(k, seeded(0))), k)


@pytest.mark.parametrize(("range", "levels"), [((-1.0, 1.0), 256), ((0.0, 1.0), 17)])
def test_dequantisation_is_uniform_within_the_own_cell(range, levels):
    grey = Grey(levels=levels, range=range, dequantize=True)
    k = torch.randint(levels, (50, 1, 20, 20), dtype=torch.uint8, generator=seeded(1))
    u = (grey.scale(k, seeded(2)).double() - range[0]) / grey.cell - k
    assert u.min() >= 0 and u.max() < 1
    # With 20000 values, Kolmogorov's distance exceeds 1.95 / sqrt(n) with probability 0.001.
    assert kstest(u.flatten().numpy(), "uniform").statistic < 1.95 / np.sqrt(u.numel())
    # Noise is generated per pixel, so that neighbours are uncorrelated, to 4 / sqrt(n).
    pairs = torch.stack([u[..., 1:].flatten(), u[..., :-1].flatten()])
    assert abs(torch.corrcoef(pairs)[0, 1]) < 4 / np.sqrt(pairs.shape[1])


def test_no_noise_without_generator_and_none_in_training_when_switched_off():
    """The switch concerns training alone: likelihoods always use dequantised data."""
    k = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    noisy = Grey(levels=256, dequantize=True)
    plain = Grey(levels=256, dequantize=False)
    for grey in (noisy, plain):
        assert not torch.equal(grey.scale(k, seeded(0)), grey.scale(k))
    batch = plain.batch(0, 16, seed=5).x
    assert torch.equal(batch, plain.scale(plain.train[plain.indices(0, 16, seed=5)]))
    assert not torch.equal(noisy.batch(0, 16, seed=5).x, batch)
    assert torch.equal(k, torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16))


def test_quantize_shows_the_nearest_colour_but_no_broken_sample():
    grey = Grey(levels=17, range=(0.0, 1.0))
    x = torch.tensor([-3.0, -1e-6, 0.0, 0.999999, 1.0, 7.0]).view(1, 1, 1, 6)
    assert grey.quantize(x).flatten().tolist() == [0, 0, 0, 16, 16, 16]
    broken = torch.zeros(5, 1, 2, 2)
    broken[3, 0, 1, 1], broken[4] = float("nan"), float("inf")
    with pytest.raises(ValueError, match="data contains NaN/Inf: 2 of 5 samples, first index 3"):
        grey.quantize(broken)
    with pytest.raises(ValueError, match=r"quantize expects .* got torch.uint8"):
        grey.quantize(grey.train)


# Batches


def test_batch_depends_on_its_arguments_alone():
    first, second = (Grey(levels=256, dequantize=True, flip=True) for _ in range(2))
    torch.manual_seed(1)
    expected = {step: first.batch(step, 16, seed=5).x for step in (0, 7, 3)}
    torch.manual_seed(2)
    np.random.seed(3)
    before = torch.get_rng_state()
    second.batch(11, 32, seed=8)
    for step in (3, 7, 0):
        x = second.batch(step, 16, seed=5).x
        assert x.shape == (16, 2, 3, 5) and x.dtype == torch.float32
        assert torch.equal(x, expected[step])
    assert torch.equal(torch.get_rng_state(), before)
    # The second call is in the same epoch as the last one above, whose order is cached.
    other = Grey(levels=256, dequantize=True, flip=True).batch(0, 16, seed=6).x
    assert torch.equal(second.batch(0, 16, seed=6).x, other) and not torch.equal(other, expected[0])


@pytest.mark.parametrize("batch_size", [1, 16, 20, 96])
def test_epoch_takes_every_sample_once(batch_size):
    grey = Grey(levels=256)
    per_epoch = 96 // batch_size
    epochs = [
        torch.cat([grey.indices(e * per_epoch + i, batch_size, 0) for i in range(per_epoch)])
        for e in range(3)
    ]
    for taken in epochs:
        # A batch size of 20 drops the last 16 of an epoch.
        assert len(taken) == len(set(taken.tolist())) == per_epoch * batch_size
        assert set(taken.tolist()) <= set(range(96))
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])
    assert not torch.equal(epochs[0][:16], Grey(levels=256).indices(0, 16, seed=1))


def test_batch_holds_the_samples_of_its_indices():
    grey = Grey(levels=256, dequantize=True, flip=False)
    for step in range(8):
        k = grey.quantize(grey.batch(step, 32, seed=1).x)
        assert torch.equal(k, grey.train[grey.indices(step, 32, seed=1)])


def test_half_of_the_images_are_mirrored_where_asked():
    grey = Grey(levels=256, dequantize=True, flip=True)
    before, mirrored, total = grey.train.clone(), 0, 0
    for step in range(60):
        k = grey.quantize(grey.batch(step, 48, seed=2).x)
        raw = grey.train[grey.indices(step, 48, seed=2)]
        same = (k == raw).flatten(1).all(1)
        turned = (k == raw.flip(-1)).flatten(1).all(1)
        assert torch.equal(same, ~turned)
        mirrored, total = mirrored + int(turned.sum()), total + 48
    assert abs(mirrored / total - 0.5) < 4 * 0.5 / np.sqrt(total)
    assert torch.equal(grey.train, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (0, 128),
            "batch_size 128 > dataset size 96: zero batches per epoch; use batch_size <= 96",
        ),
        ((0, 0), "batch_size must be an integer ≥ 1, got 0"),
        ((-1, 4), "step must be an integer ≥ 0, got -1"),
    ],
)
def test_impossible_batches_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grey(levels=256).batch(*arguments, seed=0)


# Checks that all sets share


@pytest.mark.parametrize(
    ("range", "message"),
    [
        ((1.0, -1.0), r"range \(1.0, -1.0\) is impossible: lo must be < hi"),
        ((0.0, float("inf")), "is impossible"),
        (None, r"range must be a pair \(lo, hi\), got None"),
        ((0.0, 0.5, 1.0), "range must be a pair"),
        ((1000.0, 1000.001), "too narrow for 256 levels in float32"),
    ],
)
def test_impossible_range_is_named_before_any_file_is_sought(range, message, tmp_path):
    for build in (MNIST, CIFAR10, Folder):
        with pytest.raises(ValueError, match=message):
            build(tmp_path / "absent", range=range)


def test_broken_samples_are_named():
    good, bad = torch.zeros(300, 2), torch.zeros(50000, 2)
    bad[117, 1], bad[200, 0], bad[49999] = float("nan"), float("-inf"), float("inf")
    with pytest.raises(ValueError, match="NaN/Inf: 3 of 50000 samples, first index 117"):
        Points(bad, good)
    with pytest.raises(ValueError, match=r"dataset 'points' is empty \(0 test samples\)"):
        Points(good, good[:0])
    with pytest.raises(ValueError, match=r"points must be float32, got torch.float64"):
        Points(good.double(), good)
    grey = Grey(levels=17)
    with pytest.raises(ValueError, match=r"raw grey levels must be in 0\.\.16, got 17"):
        grey.scale(torch.full((1, 1, 2, 2), 17, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"raw uint8 grey levels 0\.\.16, got torch.float32"):
        grey.scale(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10", "folder", "streamed"])
def test_configuration_lists_the_constructors_defaults(name):
    settings = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    build = getattr(data, settings.pop("_target_").removeprefix("scoresde.data."))
    expected = {key: p.default for key, p in inspect.signature(build).parameters.items()}
    assert expected["range"] == (-1.0, 1.0) and settings["range"] is None
    if "root" in expected:
        assert settings.pop("root") == "???" and expected.pop("root") is inspect.Parameter.empty
    assert settings.pop("condition") == "${condition.kind}" and expected.pop("condition") is None
    assert settings == {**expected, "range": None}
    assert settings["flip"] is (name in ("cifar10", "folder", "streamed"))


# Digits


def test_digits_split_is_stratified_and_its_own():
    np.random.seed(1)
    digits = Digits()
    np.random.seed(2)
    again, other = Digits(), Digits(seed=1, test_fraction=0.5)
    assert digits.levels == 17 and digits.shape == (1, 8, 8) and digits.cell == 2 / 17
    assert int(digits.train.max()) == 16 and digits.train.dtype == torch.uint8
    assert torch.equal(digits.train, again.train)
    assert torch.equal(digits.test_labels, again.test_labels)
    for split, fraction in ((digits, 0.2), (other, 0.5)):
        both = torch.cat([split.train_labels, split.test_labels]).bincount()
        # The tolerance is the rounding to whole images.
        assert (split.test_labels.bincount() - fraction * both).abs().max() <= 0.5
    assert len(other.train) + len(other.test) == 1797
    rows = [torch.cat([d.train, d.test]).flatten(1) for d in (digits, other)]
    # These are the same 1797 images, each in exactly one part.
    assert sorted(map(tuple, rows[0].tolist())) == sorted(map(tuple, rows[1].tolist()))


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1.5, -0.1, float("nan")])
def test_impossible_test_fraction_is_named(fraction, tmp_path):
    for build in (Digits, lambda **k: Folder(tmp_path / "absent", **k)):
        with pytest.raises(ValueError, match=r"test_fraction must be in \(0, 1\), got"):
            build(test_fraction=fraction)
