"""ScoreModel: the parameterizations of one score, data ranges, and the labels of processes."""

import math

import pytest
import torch
from torch import nn

from scoresde.models import MLP, GaussianScore, ScoreModel
from scoresde.models.embedding import FourierFeatures
from scoresde.sde import EDM, VE, VP, expand

DOUBLE = {"dtype": torch.float64}
MEAN, VARIANCE = torch.tensor([0.5, -1.0], **DOUBLE), torch.tensor([0.4, 0.9], **DOUBLE)


class Ideal(nn.Module):
    """The network that a perfect training would give, for each meaning of its output."""

    def __init__(self, sde, t, kind, sigma_data):
        super().__init__()
        self.sde, self.t, self.kind, self.sigma_data = sde, t, kind, sigma_data
        self.exact = GaussianScore(sde, MEAN, VARIANCE)

    def forward(self, x, c_noise):
        alpha, sigma = expand(self.sde.alpha(self.t), x), expand(self.sde.sigma(self.t), x)
        r = (alpha**2 * self.sigma_data**2 + sigma**2).sqrt()
        state = x * r if self.kind == "edm" else x
        score = self.exact(state, self.t)
        noise, data = -sigma * score, (state + sigma**2 * score) / alpha
        return {
            "noise": noise,
            "score": sigma * score,
            "data": data,
            "v": (alpha * noise - sigma * data) / (alpha**2 + sigma**2).sqrt(),
            # Karras et al.: D = c_skip y + c_out F with y = x/α and their σ = σ/α.
            "edm": (data - self.sigma_data**2 * alpha * state / r**2)
            / (sigma * self.sigma_data / r),
        }[self.kind]


@pytest.mark.parametrize("kind", ["noise", "score", "data", "v", "edm"])
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_every_parameterization_gives_the_same_score(sde, kind, share):
    """From the ideal output of each kind, score, noise and denoiser are exact to 1e-8."""
    t = torch.full((6,), share * sde.T, **DOUBLE)
    x = torch.randn(6, 2, **DOUBLE)
    exact = GaussianScore(sde, MEAN, VARIANCE)
    model = ScoreModel(Ideal(sde, t, kind, 0.7), sde, kind, sigma_data=0.7)
    torch.testing.assert_close(model.score(x, t), exact(x, t), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(model.denoise(x, t), exact.denoise(x, t), rtol=1e-8, atol=1e-8)
    noise = -expand(sde.sigma(t), x) * exact(x, t)
    torch.testing.assert_close(model.noise(x, t), noise, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(model(x, t), model.score(x, t), rtol=0, atol=0)


def test_edm_sees_inputs_and_targets_of_unit_variance(process, generator):
    """c_in x has unit variance for data of standard deviation sigma_data."""
    seen = {}

    class Spy(nn.Module):
        def forward(self, x, c_noise):
            seen["x"], seen["c"] = x, c_noise
            return 0 * x

    t = torch.tensor(0.6 * process.T, **DOUBLE)
    x0 = 0.5 * torch.randn(50_000, 2, generator=generator)
    x = process.perturb(x0, t, torch.randn(50_000, 2, generator=generator))
    ScoreModel(Spy(), process, "edm", sigma_data=0.5).score(x, t)
    assert abs(seen["x"].std().item() - 1) < 0.02
    expected = 0.25 * (process.sigma(t) / process.alpha(t)).log()
    torch.testing.assert_close(seen["c"], expected.float().expand(50_000), rtol=1e-6, atol=1e-6)


def test_an_edm_network_is_the_denoiser_of_any_process(process):
    """At equal noise relative to the data, x/α of range [−1, 1], the denoised data agree to 1e-9.

    A network that receives x/α and σ/α alone cannot distinguish processes.
    """
    net, other = MLP((3,), embedding_type="fourier", fourier_scale=1.0).double(), EDM()
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    t = torch.linspace(0.1, 0.9, 5, **DOUBLE) * process.T
    low, high = process.data_range
    middle, half = (low + high) / 2, (high - low) / 2
    sigma = process.sigma(t) / (process.alpha(t) * half)
    clean = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), **DOUBLE)
    own = ScoreModel(net, process, "edm", data_range=process.data_range)
    theirs = ScoreModel(net, other, "edm", data_range=(-1.0, 1.0))
    y = middle + half * clean
    found = (own.denoise(expand(process.alpha(t), y) * y, t) - middle) / half
    expected = theirs.denoise(clean, other.time_of_half_log_snr(-sigma.log()))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_fourier_features_are_what_is_left_of_waves_in_noise(generator):
    """They are the mean over 400000 samples of the noise, to 0.01, which is six standard errors."""
    data, sigma = torch.tensor([0.3, -0.7], **DOUBLE), 0.01
    z = torch.randn(400_000, 1, 1, 2, generator=generator, **DOUBLE)
    clean = data.reshape(1, 1, 1, 2)
    found = FourierFeatures((3, 5))(clean, torch.tensor(sigma, **DOUBLE))
    angles = [2**n * math.pi * (clean + sigma * z) for n in (3, 5)]
    expected = torch.cat(
        [w(a).mean(0, keepdim=True) for a in angles for w in (torch.sin, torch.cos)], 1
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


class Spy(nn.Module):
    """A network that records its input."""

    def forward(self, x, c_noise):
        self.seen = x
        return x[:, :1]


def test_fourier_features_distinguish_the_values_of_eight_bits(process):
    """Values 1/128 apart in [−1, 1] get opposite signs at n = 7, whatever the process.

    All but the first channel vanish where the noise hides them.
    """
    low, high = process.data_range
    k = torch.arange(-4, 4, **DOUBLE)
    data = ((low + high) / 2 + (high - low) / 2 * k / 128).reshape(1, 1, 2, 4)
    model = ScoreModel(
        spy := Spy(), process, "edm", data_range=process.data_range, fourier_features=[7]
    )
    noises = []
    for t in (torch.full((1,), process.eps, **DOUBLE), torch.full((1,), process.T, **DOUBLE)):
        model(expand(process.alpha(t), data) * data, t)
        assert spy.seen.shape == (1, 3, 2, 4)
        noises.append(spy.seen[0, 2].flatten())
    seen = math.exp(-0.5 * (128 * math.pi * (2 / (high - low)) * noise_at_eps(process)) ** 2)
    torch.testing.assert_close(noises[0], seen * (-1) ** k, rtol=1e-9, atol=1e-9)
    assert (noises[1] == 0).all()


def noise_at_eps(process):
    eps = torch.tensor(process.eps, **DOUBLE)
    return (process.sigma(eps) / process.alpha(eps)).item()


def test_labels_are_those_of_the_process():
    """It is 999 t for VP, log σ for VE, and the integer level for a chain, one for each sample."""
    seen = []

    class Spy(nn.Module):
        def forward(self, x, c_noise):
            seen.append(c_noise)
            return x

    x, t = torch.zeros(3, 2), torch.tensor(0.25, **DOUBLE)
    ScoreModel(Spy(), VP())(x, t)
    ScoreModel(Spy(), VE())(x, t)
    chain = VP().discretize(1000)
    ScoreModel(Spy(), chain)(x, chain.times[[0, 7, 999]])
    torch.testing.assert_close(seen[0], torch.full((3,), 249.75))
    torch.testing.assert_close(seen[1], VE().sigma(t).log().float().expand(3))
    assert seen[2].tolist() == [0.0, 7.0, 999.0]


@pytest.mark.parametrize(
    ("parameterization", "c_noise", "expected"),
    [
        ("noise", None, lambda at: at.level),
        ("edm", None, lambda at: at.edm),
        ("edm", "process", lambda at: at.level),
        ("v", "edm", lambda at: at.edm),
        ("edm", "descending", lambda at: 9 - at.level),
        ("score", "descending", lambda at: 9 - at.level),
    ],
)
def test_c_noise_is_an_option_of_its_own(parameterization, c_noise, expected):
    """Its default alone follows from the parameterization; σ is in units of half the range."""
    seen = []

    class Spy(nn.Module):
        def forward(self, x, c_noise):
            seen.append(c_noise)
            return x

    class At:
        chain = VE(0.1, 10.0).discretize(10)
        level = torch.arange(10.0)
        edm = 0.25 * (chain.sigmas / 0.5).log().float()

    settings = {"c_noise": c_noise, "data_range": (0.0, 1.0)}
    model = ScoreModel(Spy(), At.chain, parameterization, **settings)
    model(torch.zeros(10, 2), At.chain.times)
    torch.testing.assert_close(seen[0], expected(At))
    described = ScoreModel(MLP((2,)), At.chain, parameterization, **settings).description()
    default = described["c_noise"] is None
    assert default == (c_noise in (None, {"edm": "edm"}.get(parameterization, "process")))


def test_data_in_zero_to_one_reach_the_network_as_minus_one_to_one():
    """With range (0, 1) VE's network receives 2 x − 1, and the score is in the units of x."""
    seen = []

    class Spy(nn.Module):
        def forward(self, x, c_noise):
            seen.append(x)
            return torch.ones_like(x)

    x, t = torch.rand(4, 1, 2, 2), torch.tensor(0.3, **DOUBLE)
    model = ScoreModel(Spy(), VE(), "score", data_range=(0.0, 1.0))
    score = model(x, t)
    torch.testing.assert_close(seen[0], 2 * x - 1, rtol=1e-6, atol=1e-6)
    # An output of 1 is σ s, as in NCSN++ with scale_by_sigma.
    torch.testing.assert_close(score, torch.full_like(x, 1 / VE().sigma(t).item()))


def test_state_keeps_its_type(sde):
    """Float64 coefficients do not promote a float32 state."""
    model = ScoreModel(MLP((2,), width=16, depth=1), sde)
    for t in (torch.tensor(0.5 * sde.T, **DOUBLE), torch.full((3,), 0.5 * sde.T, **DOUBLE)):
        assert model(torch.randn(3, 2), t).dtype == torch.float32


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (
            {"parameterization": "nois"},
            r"unknown parameterization 'nois'\. Available: .*; did you mean 'noise'\?",
        ),
        (
            {"c_noise": "decending"},
            r"unknown c_noise 'decending'\. Available: process, descending, edm; did you mean "
            r"'descending'\?",
        ),
        ({"c_noise": "descending"}, r"this process has none; use sde\.discretize\(steps\)"),
        ({"sigma_data": 0.0}, "sigma_data must be > 0, got 0"),
        ({"data_range": (1.0, 0.0)}, "data_range must be"),
        ({"fourier_features": (6, 7.5)}, r"must be integers ≥ 0, got \[6, 7.5\]"),
        ({"fourier_features": (-1,)}, r"fourier_features must be integers ≥ 0, got \[-1\]"),
    ],
)
def test_wrong_settings_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        ScoreModel(nn.Identity(), VP(), **arguments)


@pytest.mark.parametrize("embedding_type", ["positional", "fourier"])
@pytest.mark.parametrize("shape", [(2,), (1, 2, 3)])
def test_mlp_shapes_and_gradients(embedding_type, shape):
    net = MLP(shape, width=32, depth=2, embedding_type=embedding_type)
    x, c = torch.randn(5, *shape), torch.rand(5)
    assert net(x, c).shape == x.shape
    assert net(x, c).abs().max() == 0  # it starts at the trivial prediction
    nn.init.normal_(net.leave.weight)
    net(x, c).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    assert (net(x, c) - net(x, c + 0.3)).abs().max() > 1e-3  # the label is read


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: MLP((2,), width=1), "need width ≥ 2"),
        (lambda: MLP((2,), depth=0), "depth ≥ 1, got 128 and 0"),
        (lambda: MLP((2,), embedding_type="sine"), "unknown embedding_type 'sine'"),
        (
            lambda: MLP((2,))(torch.zeros(4, 3), torch.zeros(4)),
            r"expected \(N, 2\) .* got \(4, 3\)",
        ),
    ],
)
def test_mlp_refuses_wrong_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
