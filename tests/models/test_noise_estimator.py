"""The noise level estimated from a state alone: the network, its sampler, and the command."""

import json

import pytest
import torch
from PIL import Image

from scoresde.evaluation.plots import save_estimates
from scoresde.models import GaussianScore, NoiseLevelEstimator
from scoresde.samplers import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    FixedGrid,
    LogSNRGrid,
    NoiseAdaptive,
    PredictorCorrector,
    ReverseDiffusion,
    RungeKutta,
    UniformGrid,
)
from scoresde.sde import VE, VP
from scoresde.training import EMA, NoiseLevelLoss, Warmup, checkpoint, fit
from tests.conftest import CHAINS, PROCESSES
from tests.experiments.test_run import POINTS, QUICK, call, fails

DOUBLE = {"dtype": torch.float64}
DIM, STD = 64, 0.3
SOME = {name: (PROCESSES | CHAINS)[name] for name in ("vp", "subvp", "ve", "ddpm", "ncsn")}


@pytest.fixture(params=list(SOME))
def some(request):
    """A few processes and chains."""
    return SOME[request.param]


def gaussian(sde):
    return GaussianScore(sde, torch.zeros(DIM, **DOUBLE), torch.full((DIM,), STD**2, **DOUBLE))


def from_norm(sde):
    """λ̂ of data N(0, STD² I) in closed form: the λ at which E‖x_t‖² is this ‖x‖²."""
    ends = sde.half_log_snr(torch.tensor([sde.T, sde.eps], **DOUBLE))
    lam = torch.linspace(*ends.tolist(), 4001, **DOUBLE)
    t = sde.time_of_half_log_snr(lam)
    squares = (sde.alpha(t) * STD).square() + sde.sigma(t).square()
    squares, order = squares.sort()
    lam = lam[order]

    def estimator(x):
        seen = x.flatten(1).square().mean(1)
        return lam[torch.searchsorted(squares, seen).clamp(max=len(lam) - 1)]

    return estimator


def perfect(sde, times, every=1):
    """An estimator that knows at which time of a grid it is called."""
    ask = iter(sde.half_log_snr(times)[:-1:every])
    return lambda x: next(ask).expand(len(x))


# --- The network and its loss


def toy_error(sde, shape, data, steps):
    """The root mean square error of an estimator after a short training, in four parts of λ."""
    torch.manual_seed(0)
    model = NoiseLevelEstimator(sde, shape, width=16, depth=2)
    loss, ema, g = NoiseLevelLoss(sde), EMA(model, 0.9), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    schedule = Warmup(10, "cosine", steps)
    batches = [data(128, g) for _ in range(steps)]
    for _ in fit(
        model,
        loss,
        batches.__getitem__,
        optimizer,
        ema,
        steps=steps,
        schedule=schedule,
        generator=g,
    ):
        pass
    share = (torch.arange(800, **DOUBLE) + 0.5) / 800
    x, lam = loss.perturb(data(800, g), share, g)
    with torch.no_grad():
        error = ema.model(x) - lam
    torch.testing.assert_close(ema.model.time(x), sde.time_of_half_log_snr(ema.model(x)))
    return error.square().reshape(4, -1).mean(1).sqrt()


@pytest.mark.slow
def test_the_estimator_learns_on_points_of_many_dimensions():
    """λ is known up to 1/√(2 · 64) = 0.09 between the ends; its range is 8.5."""
    error = toy_error(VE(), (DIM,), lambda n, g: 0.01 * torch.randn(n, DIM, generator=g), 300)
    assert error.max() < 0.3 and error[1:3].max() < 0.15


@pytest.mark.slow
def test_the_estimator_learns_on_images():
    """The images are flat with one grey level, so that every filter of mean zero sees the noise."""
    flat = lambda n, g: (2 * torch.rand(n, 1, 1, 1, generator=g) - 1).expand(n, 1, 7, 6)  # noqa: E731
    error = toy_error(VE(), (1, 7, 6), flat, 250)
    assert error.max() < 0.5


def test_loss_of_the_truth_is_zero_and_levels_of_a_chain_are_its_own(some, generator):
    loss = NoiseLevelLoss(some)
    share = torch.rand(500, generator=generator, **DOUBLE)
    x, lam = loss.perturb(torch.zeros(500, 3), share, generator)
    t = some.time_of_half_log_snr(lam)
    torch.testing.assert_close(some.to_levels(t), t)
    assert x.dtype == torch.float32 and lam.dtype == torch.float64
    spread = loss(lambda x: torch.zeros(len(x), **DOUBLE) + lam.mean(), torch.zeros(4000, 3))
    assert 0.9 < spread / lam.var() < 1.1


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_estimates_stay_in_the_range_of_the_process(name):
    """They do for noise of any size, and for a state of zeros."""
    sde = SOME[name]
    model = NoiseLevelEstimator(sde, (1, 8, 8), (0.0, 1.0))
    low, high = sde.half_log_snr(torch.tensor([sde.T, sde.eps], **DOUBLE)).tolist()
    for scale in (0.0, 1e-3, 1.0, 1e4):
        lam = model(scale * torch.randn(5, 1, 8, 8))
        assert lam.shape == (5,) and lam.isfinite().all()
        assert low <= lam.min() and lam.max() <= high


def test_the_estimator_refuses():
    with pytest.raises(ValueError, match="width must be an integer ≥ 1, got 0"):
        NoiseLevelEstimator(VP(), (2,), width=0)
    with pytest.raises(ValueError, match="low < high"):
        NoiseLevelEstimator(VP(), (2,), (1.0, 1.0))
    with pytest.raises(ValueError, match=r"expected \(N, 1, 8, 8\) for this estimator, got \(3, 8"):
        NoiseLevelEstimator(VP(), (1, 8, 8))(torch.zeros(3, 8, 8))


# --- The sampler


@pytest.mark.parametrize("grid", [UniformGrid(), LogSNRGrid()])
@pytest.mark.parametrize("predictor", [DDIM(), Ancestral(), ReverseDiffusion(), EulerMaruyama()])
@pytest.mark.parametrize("every", [1, 3])
def test_a_perfect_estimator_gives_the_grid(some, predictor, grid, every):
    """The samples are those on the fixed grid with the same noise."""
    times = grid(some, 8)
    x = some.prior((5, DIM)).sample(torch.Generator().manual_seed(1), **DOUBLE)
    runs = [
        PredictorCorrector(predictor, steps=8, grid=grid),
        NoiseAdaptive(predictor, perfect(some, times, every), 8, grid=grid, every=every),
        NoiseAdaptive(predictor, None, 8, grid=grid),
    ]
    fixed, adaptive, without = (
        run(some, gaussian(some), x.shape, x_init=x, noise=torch.sin, trajectory=3) for run in runs
    )
    torch.testing.assert_close(adaptive.x, fixed.x, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(without.x, fixed.x, rtol=1e-6, atol=1e-8)
    assert adaptive.nfe == fixed.nfe == 8
    torch.testing.assert_close(adaptive.trajectory, fixed.trajectory, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("predictor", [DDIM(), Ancestral(), DDIM(0.5)])
@pytest.mark.parametrize("start", ["later", "smaller"])
def test_a_start_of_the_wrong_noise_is_put_right(some, predictor, start, generator):
    """The start has the deviation of p_0.6, or 0.8 times the prior's, instead of that at T.

    W₂ between the Gaussians of these deviations, over the standard deviation of the data, falls at
    least by a fifth (by 0.8 to 0.99 on VE); that of the fixed grid is above 0.1.
    """
    shape = (400, DIM)
    if start == "later":
        t = some.to_levels(torch.tensor(0.6, **DOUBLE))
        x0 = STD * torch.randn(shape, generator=generator, **DOUBLE)
        x = some.perturb(x0, t, torch.randn(shape, generator=generator, **DOUBLE))
    else:
        x = 0.8 * some.prior(shape).sample(generator, **DOUBLE)
    runs = (
        PredictorCorrector(predictor, steps=20),
        NoiseAdaptive(predictor, from_norm(some), 20),
    )
    fixed, adaptive = (
        abs(
            run(some, gaussian(some), shape, x_init=x, generator=generator).x.std().item() / STD - 1
        )
        for run in runs
    )
    assert fixed > 0.1 and adaptive < 0.8 * fixed


class Path:
    """Records the times of the states that a predictor leaves and reaches."""

    def __init__(self, estimator, sde, steps, **options):
        self.times, self.ends = [], []

        def score(x, t):
            self.times.append(t)
            return -x

        NoiseAdaptive(DDIM(), estimator, steps, **options)(
            sde, score, (6, 4), callback=lambda i, t, x: self.ends.append(t)
        )


@pytest.mark.parametrize("every", [1, 2])
def test_estimates_cannot_leave_their_place(some, every):
    """After any estimates, times fall, end at the grid's end, and move less than a step at once."""
    wild = torch.Generator().manual_seed(3)
    path = Path(lambda x: 40 * torch.randn(len(x), generator=wild), some, 9, every=every)
    times, ends = torch.stack(path.times), torch.stack(path.ends)
    grid = UniformGrid()(some, 9)
    assert times.shape == ends.shape == (9, 6)
    assert (times.diff(dim=0) <= 0).all() and (ends <= times).all()
    torch.testing.assert_close(ends[-1], grid[-1].expand(6))
    torch.testing.assert_close(some.to_levels(times), times)
    # G is the grid in λ, stretched over what the first estimate left.
    lam = some.half_log_snr(grid[some.sigma(grid) > 0])
    share = ((lam - lam[0]) / (lam[-1] - lam[0]))[:, None]
    first = some.half_log_snr(times[0])
    own = first + (lam[-1] - first) * torch.cat([share, torch.ones(10 - len(share), 1)])
    # t(λ) is a table, exact to 1e-4; a level of a chain is less than one level from its λ.
    slack = 1e-3 if some in PROCESSES.values() else 0.5
    seen = some.half_log_snr(times)
    assert (seen[1:] >= own[:8] - slack).all()
    assert (seen <= own[1:] + slack).all()


def test_a_sample_at_the_end_stays_there():
    """States without noise are not moved, by a stochastic predictor neither."""
    x = torch.randn(5, 4, **DOUBLE)
    for predictor in (DDIM(), Ancestral(), DDIM(1.0), ReverseDiffusion(), EulerMaruyama()):
        sampler = NoiseAdaptive(predictor, lambda x: torch.full((len(x),), 50.0), 7)
        torch.testing.assert_close(sampler(VP(), lambda x, t: -x, x.shape, x_init=x).x, x)


def test_samples_do_not_see_each_other(some, generator):
    """A permuted batch with permuted noise gives the permuted samples."""
    x = some.prior((16, DIM)).sample(generator, **DOUBLE)
    script = torch.randn(6, 16, DIM, generator=generator, **DOUBLE)
    order = torch.randperm(16, generator=generator)

    def run(x, script):
        queue = iter(script)
        sampler = NoiseAdaptive(Ancestral(), from_norm(some), 6, every=2)
        return sampler(some, gaussian(some), x.shape, x_init=x, noise=lambda x: next(queue)).x

    torch.testing.assert_close(run(x[order], script[:, order]), run(x, script)[order])


def test_a_constraint_holds_at_the_end(some):
    sampler = NoiseAdaptive(Ancestral(), from_norm(some), 5)
    fix = lambda x, t, noise: torch.cat([torch.ones_like(x[:, :1]), x[:, 1:]], 1)  # noqa: E731
    x = sampler(some, gaussian(some), (4, DIM), constraint=fix).x
    assert (x[:, 0] == 1).all() and x.isfinite().all()


def test_grids_of_one_step_and_of_other_ends():
    for sde in (VP(), VP().discretize(50)):
        for steps in (1, 2):
            x = NoiseAdaptive(DDIM(), from_norm(sde), steps)(sde, gaussian(sde), (3, DIM)).x
            assert x.isfinite().all()
    grid = FixedGrid([0.8, 0.5, 0.2, 0.0])
    assert (
        NoiseAdaptive(DDIM(), from_norm(VP()), 3, grid=grid)(VP(), gaussian(VP()), (3, DIM))
        .x.isfinite()
        .all()
    )


def test_the_sampler_refuses():
    with pytest.raises(TypeError, match="one-evaluation Predictor such as DDIM"):
        NoiseAdaptive(RungeKutta("heun"))
    with pytest.raises(ValueError, match="every must be an integer ≥ 1, got 0"):
        NoiseAdaptive(DDIM(), every=0)
    with pytest.raises(ValueError, match="cannot encode; use ProbabilityFlowODE"):
        NoiseAdaptive(DDIM()).encode(VP(), lambda x, t: -x, torch.zeros(2, 2))
    sampler = NoiseAdaptive(DDIM(), lambda x: x)
    with pytest.raises(ValueError, match=r"estimator must return λ of shape \(3,\), got \(3, 2\)"):
        sampler(VP(), lambda x, t: -x, (3, 2))


# --- The command line


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of task=noise_estimator."""
    folder = tmp_path_factory.mktemp("estimator") / "run"
    with pytest.MonkeyPatch.context() as patch:
        call(patch, folder, *QUICK, "task=noise_estimator", "sampler=noise_adaptive")
    return folder


@pytest.mark.slow
def test_the_task_trains_measures_and_is_used(trained, tmp_path, monkeypatch, capsys):
    result = json.loads((trained / "result.json").read_text())
    assert {path.name for path in trained.iterdir()} == {
        "config.yaml",
        "metrics.csv",
        "result.json",
        "loss.png",
        "noise_level.png",
        "checkpoints",
    }
    parts = [part["rmse"] for part in result["rmse_bins"]]
    assert len(parts) == 5 and result["estimates"] == 5
    assert result["rmse"] ** 2 == pytest.approx(sum(part**2 for part in parts) / 5)
    use = ["sampler=noise_adaptive", f"sampler.estimator={trained}"]
    sampled = call(monkeypatch, tmp_path / "used", *QUICK, *use)
    assert sampled["sampler"] == "noise_adaptive" and sampled["nfe"] == 2
    named = ["sampler=noise_adaptive", f"sampler.estimator={checkpoint.find(trained)[0]}"]
    base = ["train.optimizer.lr=0.1", f"checkpoint={tmp_path / 'used'}", "sampler.every=2"]
    call(monkeypatch, tmp_path / "again", *QUICK, *named, *base)


@pytest.mark.slow
def test_an_estimator_does_not_change_the_training(trained, tmp_path, monkeypatch):
    """The first weights of the network are the same with any other sampler."""
    adaptive = ["sampler=noise_adaptive", f"sampler.estimator={trained}"]
    for name, choice in {"plain": ["sampler=ddim"], "adaptive": adaptive}.items():
        call(monkeypatch, tmp_path / name, *QUICK, *choice)
    states = [checkpoint.find(tmp_path / name)[1]["model"] for name in ("plain", "adaptive")]
    for one, other in zip(*(state.values() for state in states), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.slow
def test_the_task_resumes_bitwise(tmp_path, monkeypatch):
    quick = [*POINTS, "task=noise_estimator", "train.batch_size=8", "train.decay=none"]
    quick += ["evaluate.samples.count=5"]
    straight = call(monkeypatch, tmp_path / "one", *quick, "train.steps=4")
    call(monkeypatch, tmp_path / "two", *quick, "train.steps=2")
    more = call(monkeypatch, tmp_path / "two", *quick, "train.steps=4", "resume=auto")
    assert more["rmse"] == straight["rmse"]
    again = call(monkeypatch, tmp_path / "three", *quick, f"checkpoint={tmp_path / 'one'}")
    assert again["rmse"] == straight["rmse"]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["task=noise_estimate"], "unknown task='noise_estimate'. Did you mean task=noise_estima"),
        (
            ["task=generate", "sampler=noise_adaptive"],
            "sampler.estimator must be the folder of a run",
        ),
        (["sampler=noise_adaptive", "sampler.estimator=/nowhere"], "/nowhere does not exist"),
        (["sampler=noise_adaptive", "sampler.every=0"], "sampler.estimator must be"),
        (["task=noise_estimator", "estimator.width=0"], "estimator.width must be an integer ≥ 1"),
        (["task=noise_estimator", "estimator.widht=8"], "Did you mean estimator.width?"),
        (["estimator=big"], "unknown estimator='big'. Choices: small"),
        (["sampler=ddim", "sampler.estimator=x"], "unknown key 'sampler.estimator'"),
    ],
)
def test_wrong_commands_end_with_one_sentence(tmp_path, monkeypatch, capsys, arguments, sentence):
    assert sentence in fails(capsys, monkeypatch, tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_wrong_file_is_named(trained, tmp_path, monkeypatch, capsys):
    """Such are a checkpoint of another task, process or shape of data, and one used as a score."""
    call(monkeypatch, tmp_path / "score", *QUICK)
    capsys.readouterr()

    def message(*arguments):
        return fails(capsys, monkeypatch, tmp_path / "bad", "dry_run=true", *arguments)

    use = ["sampler=noise_adaptive", "sampler.estimator="]
    plane = [*POINTS, use[0]]
    wrong = message(*plane, f"{use[1]}{tmp_path / 'score'}")
    assert "is a checkpoint of task=generate; give one of task=noise_estimator" in wrong
    wrong = message(*plane, f"{use[1]}{trained}", "sde=ve")
    assert (
        "was trained with sde" in wrong
        and "scoresde.sde.VP" in wrong
        and "scoresde.sde.VE" in wrong
    )
    wrong = message(use[0], f"{use[1]}{trained}")
    assert "was trained with data.range None, requested [-1.0, 1.0]" in wrong
    wrong = message(*POINTS, f"checkpoint={trained}")
    assert "checkpoint is of task=noise_estimator, requested task=generate" in wrong
    wrong = message(*POINTS, "task=noise_estimator", f"checkpoint={trained}", "estimator.depth=2")
    assert "estimator.depth is 3, requested 2" in wrong
    assert not (tmp_path / "bad").exists()


@pytest.mark.slow
def test_an_estimator_for_another_size_is_named(tmp_path, monkeypatch, capsys):
    """Convolutions accept images of any size, but their estimate would be wrong."""
    for size in (8, 10):
        (tmp_path / f"{size}").mkdir()
        for i in range(10):
            Image.new("L", (size, size), i).save(tmp_path / f"{size}" / f"{i}.png")
    data = ["dry_run=true", "data=folder", "model.net.attn_resolutions=[]"]
    small, large = ([*data, f"data.root={tmp_path / name}"] for name in ("8", "10"))
    call(monkeypatch, tmp_path / "run", *small, "task=noise_estimator")
    capsys.readouterr()
    use = ["sampler=noise_adaptive", f"sampler.estimator={tmp_path / 'run'}"]
    wrong = fails(capsys, monkeypatch, tmp_path / "bad", *large, *use)
    assert "was trained on data of shape [1, 8, 8], requested [1, 10, 10]" in wrong


def test_estimates_are_drawn_or_refused(tmp_path):
    x = torch.linspace(-1, 1, 20)
    with Image.open(save_estimates(x, x + 0.1, tmp_path / "e.png", "λ")) as picture:
        assert picture.size[0] > 300
    with pytest.raises(ValueError, match="one shape"):
        save_estimates(x, x[1:], tmp_path / "f.png", "λ")
    assert not (tmp_path / "f.png").exists()
