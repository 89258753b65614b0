"""The classifier of noisy states: what it takes, how it is described, what it learns."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from scoresde.data import Batch
from scoresde.evaluation.classification import classification
from scoresde.models import NoisyClassifier
from scoresde.sde import EDM, VE, VP, SubVP, construct, describe
from scoresde.training import ClassifierLoss
from scoresde.training.classifier import moved

SMALL = {"width": 8, "depth": 1}


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4), (3, 8, 6)], ids=str)
@pytest.mark.parametrize("sde", [VP(), VE(), SubVP(), EDM()], ids=lambda sde: type(sde).__name__)
def test_logits_are_finite_and_differentiable_at_every_noise_level(sde, shape):
    model = NoisyClassifier(sde, shape, 3, **SMALL).eval()
    torch.nn.init.normal_(model.net.leave.weight)
    for t in (sde.eps, sde.T):
        time = torch.full((5,), t, dtype=torch.float64)
        x = torch.randn(5, *shape, dtype=torch.float64) * sde.sigma(time)[0]
        x.requires_grad_()
        logits = model(x, time)
        (gradient,) = torch.autograd.grad(logits.log_softmax(1)[:, 0].sum(), x)
        assert logits.shape == (5, 3) and logits.isfinite().all()
        assert gradient.dtype == torch.float64 and gradient.isfinite().all()
    torch.testing.assert_close(model(x, time[0]), logits)


def test_at_first_all_classes_are_equally_probable():
    model = NoisyClassifier(VP(), (1, 4, 4), 3, **SMALL)
    assert model(torch.randn(2, 1, 4, 4), torch.tensor(0.5)).eq(0).all()


def test_a_description_makes_it_again():
    model = NoisyClassifier(VP(), (1, 8, 8), 3, (0.0, 1.0), attn_resolutions=[4], **SMALL)
    again = construct(describe(model))
    again.load_state_dict(model.state_dict())
    x, t = torch.rand(2, 1, 8, 8), torch.tensor([0.1, 0.9])
    assert torch.equal(model.eval()(x, t), again.eval()(x, t))


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"expected \(N, 1, 8, 8\) for this classifier, got"):
        NoisyClassifier(VP(), (1, 8, 8), 3, **SMALL)(torch.zeros(2, 1, 4, 4), torch.tensor(0.5))


def test_the_probabilities_of_a_mixture_are_learned():
    """The classes are components of a mixture, whose probabilities are known at each time.

    250 steps leave less than 0.05 of probability on average, and untrained answers are off by 0.25.
    """
    torch.manual_seed(0)
    sde = VP()
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    model, loss = NoisyClassifier(sde, (2,), 2, width=32, depth=1), ClassifierLoss(sde)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def data(n):
        y = torch.randint(2, (n,))
        return means[y] + 0.2**0.5 * torch.randn(n, 2), y

    for _ in range(250):
        x0, y = data(128)
        optimizer.zero_grad()
        loss(model, Batch(x0, y)).backward()
        optimizer.step()
    x0, _ = data(2000)
    t = torch.rand(2000, dtype=torch.float64).clamp(min=sde.eps)
    x = sde.perturb(x0, t, torch.randn_like(x0))
    alpha, variance = sde.alpha(t)[:, None], (0.2 * sde.alpha(t) ** 2 + sde.sigma(t) ** 2)[:, None]
    gaps = x[:, None] - (alpha * means.double()[:, None]).movedim(0, 1)
    true = (-0.5 * gaps.square().sum(2) / variance).softmax(1)
    with torch.no_grad():
        error = (model(x, t).softmax(1) - true).abs().mean()
    assert error < 0.05


def test_calibration_of_probabilities_that_are_right():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 3, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    right = classification(logits, labels)
    assert right.calibration_error < 0.01  # about √(15/20000)/2 from noise alone
    assert right.cross_entropy == pytest.approx(cross_entropy(logits, labels).item(), abs=1e-6)
    assert classification(3 * logits, labels).calibration_error > 0.15
    sure = classification(torch.eye(3), torch.tensor([0, 1, 0]))
    assert sure.accuracy == pytest.approx(2 / 3)


def test_images_are_moved_each_by_its_own():
    x = torch.arange(36.0).reshape(1, 1, 6, 6).expand(50, -1, -1, -1)
    one = moved(x, 1, torch.Generator().manual_seed(0))
    inside = {tuple(int(v) for v in row[0, 2, 2:4]) for row in one}
    assert inside == {(14 + 6 * i + j, 15 + 6 * i + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert one[:, 0, 0, 0].min() == 0
