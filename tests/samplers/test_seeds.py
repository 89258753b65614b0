"""A sample with a seed of its own is the same alone, in any batch, and in any order."""

import pytest
import torch

from scoresde.models import GaussianMixtureScore
from scoresde.samplers import (
    SRA1,
    AdaptiveSDE,
    Ancestral,
    AnnealedLangevin,
    EDMHeun,
    Langevin,
    NoiseAdaptive,
    PredictorCorrector,
    ProbabilityFlowODE,
    Restart,
    ReverseDiffusion,
    TorchSDE,
    draw,
)
from scoresde.samplers.presets import sde_dpm_solver_pp
from scoresde.sde import EDM, VE, VP
from scoresde.sde.prior import Prior

MEANS = torch.tensor([[1.0, 0.0], [-1.0, 0.5]])
SAMPLERS = {
    "pc": PredictorCorrector(ReverseDiffusion(), Langevin(0.16), steps=5),
    "predictor first": PredictorCorrector(
        Ancestral(), Langevin(0.16, n_steps=2), steps=3, order="predictor-first"
    ),
    "ald": AnnealedLangevin(steps=3, n_steps=2),
    "restart": PredictorCorrector(Restart(EDMHeun()), steps=5),
    "churn": PredictorCorrector(EDMHeun(churn=3.0), steps=5),
    "sra1": PredictorCorrector(SRA1(), steps=3),
    "sde-dpm++": PredictorCorrector(sde_dpm_solver_pp(2), steps=5),
    "noise adaptive": NoiseAdaptive(Ancestral(), steps=5),
    "adaptive": AdaptiveSDE(0.5, 0.5),
    "ode": ProbabilityFlowODE(1e-2, 1e-2, method="bosh3"),
    "torchsde": TorchSDE(steps=4),
    "torchsde adaptive": TorchSDE(adaptive=True, rtol=0.5, atol=0.5),
}


def exact(sde):
    return GaussianMixtureScore(sde, torch.tensor([0.3, 0.7]), MEANS, torch.full((2, 2), 0.2))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("sde", [VP(), VE(), EDM()], ids=["vp", "ve", "edm"])
def test_a_sample_belongs_to_its_seed(sde, name):
    """Permuted, in parts or alone, samples are equal in float64 but for the rounding of sums."""
    sampler, score, seeds = SAMPLERS[name], exact(sde), [11, 5, 7, 3]

    def sample(seeds):
        return sampler(sde, score, (len(seeds), 2), seeds=seeds, dtype=torch.float64).x

    whole = sample(seeds)
    torch.testing.assert_close(sample([7, 11]), whole[[2, 0]], rtol=0, atol=1e-12)
    torch.testing.assert_close(sample([3]), whole[3:], rtol=0, atol=1e-12)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    options = {"generator": generators, "dtype": torch.float64}
    torch.testing.assert_close(sampler(sde, score, (4, 2), **options).x, whole, rtol=0, atol=0)
    assert len(whole.unique(dim=0)) == 4


def test_batches_change_no_sample():
    """`draw` gives them in batches of 1, 2 and 5, with seeds or with a generator per sample."""
    sampler, sde = SAMPLERS["pc"], VP()
    whole = draw(sampler, sde, exact(sde), (5, 2), 5, seeds=range(5)).x
    for size in (1, 2):
        parts = draw(sampler, sde, exact(sde), (5, 2), size, seeds=range(5)).x
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)  # float32
    generators = [torch.Generator().manual_seed(seed) for seed in range(5)]
    listed = draw(sampler, sde, exact(sde), (5, 2), 2, generator=generators).x
    torch.testing.assert_close(listed, whole, rtol=0, atol=1e-6)


def test_one_generator_for_all_gives_the_same_noise_as_before():
    """The noise of a batch is one tensor of its shape, which reproduces published runs."""
    drawn = Prior((3, 2), 2.0).sample(torch.Generator().manual_seed(1))
    expected = 2 * torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn, expected, rtol=0, atol=0)
    each = [torch.Generator().manual_seed(seed) for seed in range(3)]
    rows = [torch.randn(2, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    drawn = Prior((3, 2), 2.0).sample(each)
    torch.testing.assert_close(drawn, 2 * torch.stack(rows), rtol=0, atol=0)


@pytest.mark.parametrize(
    "options, error, sentence",
    [
        ({"seeds": [1, 2]}, ValueError, "3 samples need as many seeds, one for each, got 2"),
        (
            {"generator": [torch.Generator()] * 4},
            ValueError,
            "3 samples need as many generators, one for each, got 4",
        ),
        (
            {"generator": torch.Generator(), "seeds": [1, 2, 3]},
            ValueError,
            "got both generator and seeds",
        ),
        (
            {"generator": 3},
            TypeError,
            "generator must be a torch.Generator or a list of them, got int",
        ),
    ],
)
def test_wrong_sources_are_named(options, error, sentence):
    with pytest.raises(error, match=sentence):
        SAMPLERS["pc"](VP(), exact(VP()), (3, 2), **options)
    with pytest.raises(error, match=sentence):
        draw(SAMPLERS["pc"], VP(), exact(VP()), (3, 2), 2, **options)
