"""The loss compared with its known minimum; average, loop, exact repetition and resuming."""

import csv
import math

import pytest
import torch
from torch import nn

from scoresde.models import MLP, GaussianScore, ScoreModel
from scoresde.sde import VP
from scoresde.training import EMA, DenoisingScoreMatching, Warmup, checkpoint, fit, uniform_times
from scoresde.training.loggers import CSVLogger, WandbLogger

DOUBLE = {"dtype": torch.float64}
MEAN, VARIANCE = torch.tensor([0.4, -0.2], **DOUBLE), torch.tensor([0.5, 2.0], **DOUBLE)


def data(n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return MEAN + VARIANCE.sqrt() * torch.randn(n, 2, generator=generator, **DOUBLE)


def smallest_loss(sde, weight):
    """∫ w(t) Σ_i α² ℓ_i/(α² ℓ_i + σ²) / D over the times of training, by a fine sum."""
    u = (torch.arange(200_000, **DOUBLE) + 0.5) / 200_000
    first, last = sde.eps ** (1 / sde.rho), sde.T ** (1 / sde.rho)
    t = sde.to_levels((first + (last - first) * u) ** sde.rho)  # the process's own clock
    signal = sde.alpha(t).square()[:, None] * VARIANCE
    return (weight(t) * (signal / (signal + sde.sigma(t).square()[:, None])).mean(1)).mean()


@pytest.mark.parametrize("reduce, factor", [("mean", 1.0), ("sum", 0.5 * 2)])
def test_loss_of_the_exact_score_is_the_smallest(sde, reduce, factor, generator):
    """The exact score has the posterior variance of the noise as its loss, within 2 %."""
    loss = DenoisingScoreMatching(sde, reduce=reduce)
    exact = GaussianScore(sde, MEAN, VARIANCE)
    value = loss(exact, data(200_000), generator)
    expected = factor * smallest_loss(sde, torch.ones_like)
    torch.testing.assert_close(value, expected, rtol=0.02, atol=0)
    worse = loss(lambda x, t: 1.5 * exact(x, t), data(200_000), generator)
    assert worse > 1.05 * value


@pytest.mark.parametrize("name", ["ve", "ddpm"])
def test_likelihood_weighting_is_g_squared_over_sigma_squared(name, generator):
    """The loss of a Gaussian is exact to 5 %: the weight is constant for VE, bounded for DDPM."""
    from tests.conftest import CHAINS, PROCESSES

    sde = (PROCESSES | CHAINS)[name]
    loss = DenoisingScoreMatching(sde, weighting="likelihood")
    value = loss(GaussianScore(sde, MEAN, VARIANCE), data(400_000), generator)
    expected = smallest_loss(sde, lambda t: (sde.g(t) / sde.sigma(t)).square())
    torch.testing.assert_close(value, expected, rtol=0.05, atol=0)


def test_times_are_uniform_on_the_process(sde, generator):
    """Continuous times fill [eps, T] in t^{1/ρ}; a chain's are its levels, each equally often."""
    t = uniform_times(sde, 40_000, generator, torch.device("cpu"))
    assert t.dtype == torch.float64 and t.min() >= sde.eps and t.max() <= sde.T
    first, last, clock = (s ** (1 / sde.rho) for s in (sde.eps, sde.T, t))
    error = (last - first) / math.sqrt(12 * 40_000)
    assert abs(clock.mean().item() - 0.5 * (first + last)) < 5 * error
    assert abs(clock.std().item() - (last - first) / math.sqrt(12)) < 0.02 * (last - first)
    if len(t.unique()) < 2000:
        counts = torch.bincount(sde.label(t).round().long())
        expected = 40_000 / len(counts)
        assert (counts - expected).abs().max() < 6 * math.sqrt(expected)


def test_ddpm_loss_is_l_simple(generator):
    """On the chain it is mean (ẑ − z)², x_t = √ᾱ x_0 + √(1 − ᾱ) z at uniform levels, by hand."""
    chain, x0 = VP().discretize(1000), data(64)
    model = ScoreModel(MLP((2,), width=16, depth=1), chain).double()
    nn.init.normal_(model.net.leave.weight)
    value = DenoisingScoreMatching(chain)(model, x0, torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(9)
    u = torch.rand(64, generator=generator, **DOUBLE)
    z = torch.randn(64, 2, generator=generator, **DOUBLE)
    level = torch.ceil((1 - u) * 1000).long() - 1
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, **DOUBLE), 0)[level][:, None]
    predicted = model.net(bar.sqrt() * x0 + (1 - bar).sqrt() * z, level.double())
    torch.testing.assert_close(value, (predicted - z).square().mean(), rtol=1e-8, atol=0)


def test_ema_follows_its_recursion():
    """d = min(decay, (1 + n)/(10 + n)), written out for one weight."""
    model = nn.Linear(1, 1, bias=False)
    ema, expected = EMA(model, 0.5), model.weight.item()
    for n in range(30):
        with torch.no_grad():
            model.weight.fill_(float(n))
        ema.update(model)
        d = min(0.5, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * n
    assert ema.model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert not ema.model.training and not ema.model.weight.requires_grad


def test_learning_rate_rises_and_falls():
    constant, cosine = Warmup(4, "none", 10), Warmup(4, "cosine", 10)
    assert [constant(k) for k in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert cosine(9) == pytest.approx(0.5 * (1 + math.cos(0.9 * math.pi)))
    assert Warmup(0, "none", 10)(0) == 1.0


class Training:
    """A small training whose whole state can be saved and restored."""

    def __init__(self, steps):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.2), nn.SiLU(), nn.Linear(8, 2))
        self.model = _Labelless(net)
        self.ema = EMA(self.model, 0.9)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.generator = torch.Generator().manual_seed(0)
        self.steps = steps

    def run(self, start=0):
        return fit(
            self.model,
            DenoisingScoreMatching(VP()),
            lambda step: data(16, seed=step).float(),
            self.optimizer,
            self.ema,
            steps=self.steps,
            start=start,
            schedule=Warmup(2, "cosine", 20),
            generator=self.generator,
        )

    def save(self, folder, step, config=None):
        parts = (self.model, self.ema, self.optimizer, self.generator)
        return checkpoint.save(folder, step, *parts, config or {"seed": 0})

    def weights(self):
        both = [*self.model.state_dict().values(), *self.ema.model.state_dict().values()]
        return torch.cat([w.flatten() for w in both])


class _Labelless(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t):
        return self.net(x)


def test_training_is_deterministic():
    """Two runs of one seed end at bitwise equal weights, dropout included."""
    losses, weights = [], []
    for _ in range(2):
        training = Training(6)
        losses.append([step.loss for step in training.run()])
        weights.append(training.weights())
    assert losses[0] == losses[1]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_resumed_training_is_bitwise_the_straight_one(tmp_path, stop):
    straight = Training(8)
    for _ in straight.run():
        pass
    interrupted = Training(8)
    for step in interrupted.run():
        if step.step == stop:
            interrupted.save(tmp_path, stop)
            break
    torch.manual_seed(123)  # the global generator must not matter
    resumed = Training(8)
    _, state = checkpoint.newest(tmp_path)
    parts = (resumed.model, resumed.ema, resumed.optimizer, resumed.generator)
    assert checkpoint.restore(state, *parts) == stop
    for _ in resumed.run(start=stop):
        pass
    torch.testing.assert_close(resumed.weights(), straight.weights(), rtol=0, atol=0)
    assert resumed.ema.updates == straight.ema.updates == 8


def test_loss_falls_and_gradients_are_clipped():
    training = Training(150)
    steps = list(training.run())
    first, last = (sum(s.loss for s in part) / 30 for part in (steps[:30], steps[-30:]))
    assert last < first
    assert [s.step for s in steps] == list(range(1, 151))


def test_a_bad_step_changes_nothing_and_many_end_the_training():
    """One NaN loss changes no weights; ten in a row raise an error that names the step."""
    training = Training(30)
    before = training.weights().clone()
    bad = iter([True] + [False] * 3 + [True] * 20)

    def loss(score, x, generator):
        value = score(x, torch.tensor(0.5)).square().mean()
        return value * math.nan if next(bad) else value

    steps = fit(
        training.model,
        loss,
        lambda step: data(4).float(),
        training.optimizer,
        training.ema,
        steps=30,
        schedule=lambda step: 1.0,
    )
    assert next(steps).loss.isnan()
    torch.testing.assert_close(training.weights(), before, rtol=0, atol=0)
    next(steps)
    assert (training.weights() - before).abs().max() > 0
    with pytest.raises(FloatingPointError, match=r"not finite in 10 steps in a row, .* step 14"):
        list(steps)
    assert training.weights().isfinite().all()


def test_checkpoints_are_pruned_and_the_newest_is_found(tmp_path):
    training = Training(1)
    for step in (1, 2, 3):
        training.save(tmp_path, step)
    assert [p.name for p in checkpoint.available(tmp_path)] == [
        "step_000000003.pt",
        "step_000000002.pt",
    ]
    assert checkpoint.newest(tmp_path)[1]["step"] == 3
    assert checkpoint.newest(tmp_path / "nothing") is None


def test_a_failing_write_keeps_what_was_there(tmp_path, monkeypatch):
    """After a full disk during a write, the old file stays and no temporary file is left."""
    training = Training(1)
    old = training.save(tmp_path, 1)

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        training.save(tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == {old.name, old.stem + ".sha256"}
    assert checkpoint.load(old)["step"] == 1


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named_and_the_one_before_used(tmp_path, share, capsys):
    training = Training(1)
    training.save(tmp_path, 1)
    last = training.save(tmp_path, 2)
    content = last.read_bytes()
    last.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"step_000000002\.pt is damaged"):
        checkpoint.load(last)
    assert checkpoint.newest(tmp_path)[1]["step"] == 1
    (tmp_path / "step_000000002.sha256").unlink()  # without a checksum torch's reader refuses
    with pytest.raises(ValueError, match=r"step_000000002\.pt cannot be read"):
        checkpoint.load(last)
    assert "step_000000002.pt" in capsys.readouterr().out
    (tmp_path / "step_000000001.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint under .* can be read"):
        checkpoint.newest(tmp_path)


def test_a_flipped_bit_is_detected(tmp_path):
    """The checksum detects damage that torch's reader does not check."""
    path = Training(1).save(tmp_path, 1)
    content = path.read_bytes()
    for place in range(100, len(content), len(content) // 40):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged: its SHA-256"):
            checkpoint.load(path)
    path.write_bytes(content)
    assert checkpoint.load(path)["step"] == 1


def test_a_malicious_pickle_is_not_executed(tmp_path):
    """A file that would run code when unpickled is refused without running it."""
    import pickle

    marker = tmp_path / "executed"

    class Attack:
        def __reduce__(self):
            return (marker.write_text, ("x",))

    path = tmp_path / "step_000000001.pt"
    torch.save({"model": Attack()}, path)
    with pytest.raises(ValueError, match="cannot be read as tensors and plain values"):
        checkpoint.load(path)
    path.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(ValueError, match="cannot be read as tensors and plain values"):
        checkpoint.load(path)
    assert not marker.exists()


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "step_000000001.pt"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        checkpoint.load(path)
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match="lacks format, step, ema"):
        checkpoint.load(path)


def test_metrics_continue_after_a_resumed_step(tmp_path):
    """Rows after the resumed step are removed, and earlier ones stay."""
    logger = CSVLogger(tmp_path)
    for step in (1, 2, 3):
        logger.log(step, {"loss": float(step)})
    logger.close()
    logger = CSVLogger(tmp_path, start=2)
    logger.log(3, {"loss": 30.0})
    logger.close()
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert rows == [(1, 1.0), (2, 2.0), (3, 30.0)]


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: DenoisingScoreMatching(VP(), "song"), "unknown weighting 'song'. Available: unif"),
        (lambda: DenoisingScoreMatching(VP(), reduce="max"), "unknown reduce 'max'"),
        (lambda: EMA(nn.Linear(1, 1), 1.0), r"ema decay must be in \[0, 1\), got 1"),
        (lambda: Warmup(1, "linear", 5), "unknown decay 'linear'. Available: none, cosine"),
        (lambda: Warmup(-1, "none", 5), "warmup must be ≥ 0, got -1"),
    ],
)
def test_wrong_settings_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_wandb_online_without_a_key_is_refused(monkeypatch, tmp_path):
    """It is refused before anything is created, and without a prompt."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ValueError, match="mode=online needs a key: set WANDB_API_KEY"):
        WandbLogger.check(mode="online")
    with pytest.raises(ValueError, match="unknown wandb mode 'onlin'"):
        WandbLogger.check(mode="onlin")
    WandbLogger.check(mode="offline")
