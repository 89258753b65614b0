"""A condition follows its rows: with a label for each sample, a batch equals its samples alone.

The data are a mixture whose components are classes, so that the exact score of a class is known and
nothing is trained.
"""

import pytest
import torch

from scoresde.evaluation import (
    Cells,
    elbo,
    log_likelihood,
    quantized_likelihood,
    variational_bound,
)
from scoresde.models import MLP, GaussianMixtureScore, GaussianScore, Given, ScoreModel, UNet
from scoresde.models.labels import LabelEmbedding
from scoresde.samplers import (
    DDIM,
    SRA1,
    AdaptiveSDE,
    Ancestral,
    AnnealedLangevin,
    EDMHeun,
    Langevin,
    NoiseAdaptive,
    ParallelPicard,
    PredictorCorrector,
    ProbabilityFlowODE,
    Restart,
    ReverseDiffusion,
    TorchSDE,
    draw,
)
from scoresde.samplers.presets import PRESETS
from scoresde.sde import EDM, VE, VP, Evaluations, SubVP, rows
from scoresde.sde.cautions import caution_training
from scoresde.sde.precision import computing_dtype, module_of

PROCESSES = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "ddpm": VP().discretize(40)}
WEIGHTS = torch.tensor([0.2, 0.5, 0.3])
MEANS = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -0.8]])
COVARIANCES = torch.tensor([[[0.1, 0.05], [0.05, 0.2]], [[0.3, 0.0], [0.0, 0.1]], [[0.2, 0.1]] * 2])
COVARIANCES[2] = torch.tensor([[0.2, 0.1], [0.1, 0.2]])
LABELS = torch.tensor([2, 0, 1, 3, 1, 0])  # 3 is no label: the whole mixture
SEEDS = [5, 3, 11, 7, 2, 13]

SAMPLERS = {
    "pc": PredictorCorrector(ReverseDiffusion(), Langevin(0.16), steps=4),
    "predictor first": PredictorCorrector(
        Ancestral(), Langevin(0.16), steps=3, order="predictor-first"
    ),
    "ald": AnnealedLangevin(steps=3, n_steps=2),
    "restart": PredictorCorrector(Restart(EDMHeun()), steps=5),
    "churn": PredictorCorrector(EDMHeun(churn=3.0), steps=5),
    "sra1": PredictorCorrector(SRA1(), steps=3),
    "parallel": ParallelPicard(DDIM(), steps=6, window=3, tolerance=0.3),
    "noise adaptive": NoiseAdaptive(Ancestral(), steps=5),
    "adaptive": AdaptiveSDE(0.3, 0.3),
    "adaptive, denoised": AdaptiveSDE(0.5, 0.5, denoise=True),
    "torchsde": TorchSDE(steps=4),
    "torchsde adaptive": TorchSDE(adaptive=True, rtol=0.5, atol=0.5),
    "bosh3": ProbabilityFlowODE(1e-2, 1e-2, method="bosh3"),
    "dopri5": ProbabilityFlowODE(1e-3, 1e-3),
    "dop853": ProbabilityFlowODE(1e-3, 1e-3, method="dop853"),
} | {name: PredictorCorrector(preset(), steps=5) for name, preset in PRESETS.items()}
ONE_STEP_FOR_ALL = {
    name: ProbabilityFlowODE(1e-7, 1e-7, method=name) for name in ("RK45", "DOP853", "LSODA")
}
ENCODERS = {
    "ddim": PredictorCorrector(DDIM(), steps=5),
    "ode": ProbabilityFlowODE(1e-3, 1e-3, norm="sum"),
    "parallel": ParallelPicard(DDIM(), steps=4),
    "torchsde": TorchSDE("euler", steps=4, eta=0),
}


def mixture(sde):
    return GaussianMixtureScore(sde, WEIGHTS, MEANS, COVARIANCES)


def alone(sde):
    """For each sample, the score of its class as a mixture of that component alone."""
    for k in LABELS.tolist():
        own = slice(None) if k == 3 else slice(k, k + 1)
        yield GaussianMixtureScore(sde, WEIGHTS[own], MEANS[own], COVARIANCES[own])


def start(sde, size=6):
    generator = torch.Generator().manual_seed(1)
    return sde.prior((size, 2)).sample(generator, dtype=torch.float64)


def sampled(sampler, sde, score, rows):
    """Samples of some rows, from the states and the noise that belong to them."""
    x, seeds = start(sde)[rows], [SEEDS[i] for i in rows]
    return sampler(sde, score, tuple(x.shape), x_init=x, seeds=seeds)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_batch_of_classes_is_its_samples_alone(name):
    for sde in PROCESSES.values() if name in ("pc", "dopri5", "adaptive") else [VP()]:
        if name == "adaptive" and sde.steps is not None:
            continue
        whole = sampled(SAMPLERS[name], sde, mixture(sde).given(LABELS), range(len(LABELS)))
        for i, score in enumerate(alone(sde)):
            one = sampled(SAMPLERS[name], sde, score, [i])
            torch.testing.assert_close(whole.x[i : i + 1], one.x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ONE_STEP_FOR_ALL)
def test_a_batch_of_one_step_for_all_agrees_to_its_tolerance(name):
    sde, sampler = VP(), ONE_STEP_FOR_ALL[name]
    whole = sampled(sampler, sde, mixture(sde).given(LABELS), range(len(LABELS)))
    for i, score in enumerate(alone(sde)):
        one = sampled(sampler, sde, score, [i])
        torch.testing.assert_close(whole.x[i : i + 1], one.x, rtol=0, atol=2e-5)  # 200 tolerances


@pytest.mark.parametrize("name", ENCODERS)
def test_latents_of_classes_are_those_of_samples_alone(name):
    sde, x = VP(), start(VP()) * 0.5
    whole = ENCODERS[name].encode(sde, mixture(sde).given(LABELS), x).x
    for i, score in enumerate(alone(sde)):
        one = ENCODERS[name].encode(sde, score, x[i : i + 1]).x
        torch.testing.assert_close(whole[i : i + 1], one, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [1, 4, 6, 10])
@pytest.mark.parametrize("name", ["pc", "dopri5", "parallel"])
def test_batches_take_the_conditions_of_their_rows(name, size):
    sde, count = VP(), len(LABELS)
    drawn = draw(SAMPLERS[name], sde, mixture(sde).given(LABELS), (count, 2), size, seeds=SEEDS)
    for i, score in enumerate(alone(sde)):
        one = SAMPLERS[name](sde, score, (1, 2), seeds=SEEDS[i : i + 1])
        torch.testing.assert_close(drawn.x[i : i + 1], one.x, rtol=1e-4, atol=1e-4)  # float32


@pytest.mark.parametrize("options", [{}, {"batch_size": 4}, {"clock": "log_snr"}], ids=str)
@pytest.mark.parametrize("sde", [VP(), VE()], ids=["vp", "ve"])
def test_likelihoods_of_classes_are_those_of_samples_alone(sde, options):
    x = MEANS[LABELS.clamp(max=2)].double() + 0.3 * start(VP())
    options = {"divergence": "hutchinson", "rtol": 1e-4, "atol": 1e-4} | options
    whole = log_likelihood(sde, mixture(sde).given(LABELS), x, **options)
    for i, score in enumerate(alone(sde)):
        one = log_likelihood(sde, score, x[i : i + 1], sample_ids=[i], **options)
        torch.testing.assert_close(whole.log_prob[i], one.log_prob[0], rtol=1e-10, atol=1e-10)
        assert whole.nfe[i] == one.nfe[0]


def test_a_likelihood_is_that_of_the_class():
    sde, x = VP(), MEANS[LABELS.clamp(max=2)].double() + 0.3 * start(VP())
    score, eps = mixture(sde).given(LABELS), torch.tensor(sde.eps, dtype=torch.float64)
    found = log_likelihood(sde, score, x, rtol=1e-7, atol=1e-7).log_prob
    # The prior replaces p_T, whose mean is a hundred-and-fiftieth of the data's.
    torch.testing.assert_close(found, score.log_prob(x, eps), rtol=0, atol=0.02)


@pytest.mark.parametrize("bound", [elbo, variational_bound, quantized_likelihood])
def test_bounds_of_classes_are_those_of_samples_alone(bound):
    sde, cells = VP(), Cells(16, -2.0, 2.0)
    k = torch.randint(16, (len(LABELS), 2), generator=torch.Generator().manual_seed(0))
    options = {
        elbo: {"terms": 3},
        variational_bound: {"steps": 5},
        quantized_likelihood: {"rtol": 1e-3, "atol": 1e-3, "samples": 2},
    }[bound]
    options["dtype"] = torch.float64
    whole = bound(sde, mixture(sde).given(LABELS), k, cells, **options).log_prob
    for i, score in enumerate(alone(sde)):
        one = bound(sde, score, k[i : i + 1], cells, sample_ids=[i], **options).log_prob
        torch.testing.assert_close(whole[i], one[0], rtol=1e-10, atol=1e-10)


# What cannot follow its rows


def closed(labels, sde=PROCESSES["vp"]):
    """A score with labels in a closure, which cannot be split by rows."""
    score = mixture(sde)
    return lambda x, t: score(x, t, labels)


@pytest.mark.parametrize(
    "act",
    [
        lambda s: sampled(SAMPLERS["dopri5"], PROCESSES["vp"], s, range(6)),
        lambda s: sampled(SAMPLERS["adaptive"], PROCESSES["vp"], s, range(6)),
        lambda s: sampled(SAMPLERS["parallel"], PROCESSES["vp"], s, range(6)),
        lambda s: sampled(SAMPLERS["torchsde adaptive"], PROCESSES["vp"], s, range(6)),
        lambda s: draw(SAMPLERS["pc"], PROCESSES["vp"], s, (6, 2), 4),
        lambda s: log_likelihood(PROCESSES["vp"], s, start(VP()), rtol=1e-3, atol=1e-3),
        lambda s: log_likelihood(PROCESSES["vp"], s, start(VP()), batch_size=4),
    ],
    ids=["ode", "adaptive", "parallel", "torchsde", "draw", "likelihood", "batches"],
)
@pytest.mark.parametrize("kind", ["fails", "returns a batch"])
def test_a_closure_that_ignores_rows_is_refused_in_one_sentence(act, kind):
    if kind == "fails":
        score = closed(LABELS)
    else:  # it has the shape of the whole batch for any input

        def score(x, t):
            return closed(LABELS)(x if len(x) == 6 else start(VP()), t if len(x) == 6 else t[0])

    with pytest.raises(
        ValueError, match=r"the score failed on \d+ of the 6 samples .*model\.given\(condition\)"
    ):
        act(score)


def test_a_closure_is_as_good_where_the_batch_stays_whole():
    sde, whole = VP(), sampled(SAMPLERS["pc"], VP(), closed(LABELS), range(6))
    bound = sampled(SAMPLERS["pc"], sde, mixture(sde).given(LABELS), range(6))
    assert torch.equal(whole.x, bound.x)


def test_an_error_of_the_score_itself_stays_as_it_is():
    def score(x, t):
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        sampled(SAMPLERS["pc"], VP(), score, range(6))


# The parts


class Twice:
    """A score of two evaluations, as in classifier-free guidance, that records its rows."""

    evaluations = 2

    def __init__(self, labels):
        self.labels = labels

    def rows(self, index):
        return Twice(self.labels[index])

    def __call__(self, x, t):
        assert len(self.labels) == len(x)
        return mixture(PROCESSES["vp"])(x, t, self.labels)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["pc", "dopri5", "adaptive", "parallel"])
def test_network_evaluations_are_counted(name, dtype):
    if dtype == torch.bfloat16 and name == "dopri5":
        pytest.skip("bfloat16 does not resolve its tolerance")
    sampler, sde, x = SAMPLERS[name], VP(), start(VP()).to(dtype)
    shape = {"x_init": x, "seeds": SEEDS}
    once = sampler(sde, mixture(sde).given(LABELS), (6, 2), **shape)
    twice = sampler(sde, Twice(LABELS), (6, 2), **shape)
    assert twice.nfe == 2 * once.nfe and torch.equal(twice.x, once.x)
    if dtype == torch.float64:
        settings = {"rtol": 1e-3, "atol": 1e-3}
        one, two = (log_likelihood(sde, s, x, **settings) for s in (closed_none, Twice(LABELS)))
        assert two.nfe.float().mean() > 1.2 * one.nfe.float().mean()


def closed_none(x, t):
    return mixture(PROCESSES["vp"])(x, t)


def test_rows_of_any_order_and_number():
    score = mixture(VP()).given(LABELS)
    x, t = start(VP()), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    index = torch.tensor([4, 0, 0, 3])
    part = rows(score, index)(x[index], t[index])
    torch.testing.assert_close(part, score(x, t)[index], rtol=1e-13, atol=1e-13)
    assert rows(closed_none, index) is closed_none
    nested = rows(rows(Evaluations(score), torch.tensor([5, 1, 2])), torch.tensor([2, 0]))
    again = nested(x[[2, 5]], t[[2, 5]])
    torch.testing.assert_close(again, score(x, t)[[2, 5]], rtol=1e-13, atol=1e-13)
    for_all = mixture(VP()).given(torch.tensor([1]))
    torch.testing.assert_close(
        rows(for_all, index)(x[index], t[index]), for_all(x, t)[index], rtol=1e-13, atol=1e-13
    )


def test_conditions_can_be_several_tensors_with_names():
    def model(x, t, condition):
        return -x * condition["scale"][:, None] + condition["shift"]

    condition = {"scale": torch.tensor([1.0, 2.0, 3.0]), "shift": torch.zeros(1, 2)}
    score = Given(model, condition)
    x = torch.ones(3, 2)
    assert torch.equal(
        rows(score, torch.tensor([2, 0]))(x[:2], torch.tensor(0.5))[:, 0],
        torch.tensor([-3.0, -1.0]),
    )


def test_a_label_of_none_is_the_mixture():
    sde, x = VP(), start(VP())
    score, t = mixture(sde), torch.tensor(0.4, dtype=torch.float64)
    none = torch.full((6,), 3)
    for kind in ("denoise", "log_prob"):
        torch.testing.assert_close(
            getattr(score.given(none), kind)(x, t),
            getattr(score, kind)(x, t),
            rtol=1e-13,
            atol=1e-13,
        )
    torch.testing.assert_close(score.given(none)(x, t), score(x, t), rtol=1e-13, atol=1e-13)
    gaussian = GaussianScore(sde, MEANS[1], COVARIANCES[1])
    torch.testing.assert_close(
        score.given(torch.tensor([1])).denoise(x, t), gaussian.denoise(x, t), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    ("labels", "error", "said"),
    [
        (torch.tensor([0, 4]), ValueError, r"labels must be in 0 … 2, or 3 for no label, got 4"),
        (torch.tensor([0, -1]), ValueError, r"got -1"),
        (torch.tensor([0.0, 1.0]), TypeError, r"tensor of integers, got torch.float32"),
        (torch.tensor([[0, 1]]), ValueError, r"labels must have shape \(B,\)"),
        (torch.tensor([0, 1, 1]), ValueError, r"of 2 samples must have 2 rows, or 1 for all"),
        ([0, 1], TypeError, r"must be a tensor"),
    ],
)
def test_wrong_labels_are_refused(labels, error, said):
    for model in (mixture(VP()), ScoreModel(MLP((2,), width=4, depth=1, classes=3), VP())):
        with pytest.raises(error, match=said):
            model.given(labels)(torch.zeros(2, 2), torch.tensor(0.5))


# Networks


def networks():
    torch.manual_seed(0)
    unet = UNet(
        (1, 8, 8),
        nf=4,
        ch_mult=(1, 2),
        num_res_blocks=1,
        attn_resolutions=(),
        classes=3,
        dropout=0.0,
        init_scale=1.0,
        channels_per_group=2,
    )
    mlp = MLP((1, 8, 8), width=8, depth=2, classes=3)
    torch.nn.init.normal_(mlp.leave.weight)
    return {"unet": unet, "mlp": mlp}


@pytest.mark.parametrize("name", ["unet", "mlp"])
def test_a_network_receives_its_class(name):
    model = ScoreModel(networks()[name], VP()).double().eval()
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    t, labels = torch.tensor(0.3, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        whole = model.given(labels)
        s = whole(x, t)
        for i in range(4):  # alone, by rows, and where one label is for all
            for one in (model.given(labels[i : i + 1])(x, t), model(x, t, labels[i].expand(4))):
                torch.testing.assert_close(s[i], one[i], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(s[3], model(x, t)[3], rtol=1e-10, atol=1e-10)  # no label
        first = model.given(torch.tensor([0]))(x, t)
        assert not torch.allclose(first, model(x, t), rtol=0, atol=1e-3)
        for kind in ("noise", "denoise"):
            value = getattr(whole, kind)(x, t)
            assert torch.equal(value, getattr(model, kind)(x, t, labels))
    index = torch.tensor([2, 1])
    with torch.no_grad():
        torch.testing.assert_close(
            rows(whole, index)(x[index], t), s[index], rtol=1e-10, atol=1e-10
        )


def test_a_label_is_a_column_added_to_the_embedding_of_the_noise():
    embedding = LabelEmbedding(3, 5)
    vectors = embedding(torch.tensor([2, 3, 0]))
    assert torch.equal(
        vectors, torch.stack([embedding.weight[:, 2], torch.zeros(5), embedding.weight[:, 0]])
    )
    vectors.sum().backward()
    assert embedding.weight.grad[:, 1].eq(0).all() and embedding.weight.grad[:, 0].eq(1).all()


def test_classes_add_one_matrix_and_change_nothing_else():
    """Without classes a network has the same weights as before, and with them K vectors more."""
    options = {"nf": 4, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": ()}
    plain, labelled = UNet((1, 8, 8), **options), UNet((1, 8, 8), **options, classes=7)
    extra = set(labelled.state_dict()) - set(plain.state_dict())
    assert extra == {"embedding.label.weight"}
    assert labelled.state_dict()["embedding.label.weight"].shape == (16, 7)
    assert set(plain.state_dict()) < set(labelled.state_dict())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: UNet((1, 8, 8), nf=4, attn_resolutions=(), classes=0),
            "classes must be an integer ≥ 1",
        ),
        (
            lambda: UNet((1, 8, 8), nf=4, classes=3, noise_conditional=False),
            "noise_conditional=true",
        ),
        (lambda: MLP((2,), classes=True), "classes must be an integer ≥ 1, got True"),
    ],
)
def test_wrong_numbers_of_classes_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


class Unaware(torch.nn.Module):
    def forward(self, x, c_noise):
        return x


def test_a_network_without_classes_refuses_a_condition():
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="Unaware takes no condition; use a network whose forward"):
        ScoreModel(Unaware(), VP()).given(labels)
    model = ScoreModel(MLP((2,), width=4, depth=1), VP())
    with pytest.raises(ValueError, match=r"classes=K, or on a command line use condition=label"):
        model.given(labels)(torch.zeros(2, 2), torch.tensor(0.5))


def test_what_wraps_a_network_does_not_hide_it():
    """Its mode, its type and its device are found through condition and counter."""
    model = ScoreModel(MLP((2,), width=4, depth=1, classes=2), VP()).to(torch.bfloat16)
    score = Evaluations(model.given(torch.tensor([1])))
    assert module_of(score) is model and module_of(rows(score, torch.tensor([0]))) is model
    assert computing_dtype(score, torch.zeros(1, 2)) == torch.bfloat16
    model.net.drop = torch.nn.Dropout(0.5)
    with pytest.warns(UserWarning, match="train\\(\\) mode with dropout"):
        caution_training(score)
