"""Losses as objects, conditions through the forward of a network, and several networks."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

from scoresde.evaluation import Cells
from scoresde.models import (
    MLP,
    DequantizationFlow,
    GaussianMixtureScore,
    NoiseLevelEstimator,
    ScoreModel,
)
from scoresde.sde import VP
from scoresde.training import (
    EMA,
    DenoisingScoreMatching,
    DequantizationLoss,
    HybridLoss,
    Loss,
    NoiseLevelLoss,
    Warmup,
    checkpoint,
    fit,
)


class Labelled(NamedTuple):
    """A batch like that of a data set."""

    x: torch.Tensor
    condition: torch.Tensor | None = None


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(step, size=8):
    x = torch.randn(size, 2, generator=generator(step))
    return Labelled(x, torch.arange(size) % 3)


class Twin(nn.Module):
    """A network with ẑ and a share, and with a class as its condition."""

    learned_variance = True

    def __init__(self):
        super().__init__()
        self.model = ScoreModel(MLP((2,), width=8, depth=1, classes=3), VP())

    def forward(self, x, t, condition=None, *, predict="score"):
        noise = self.model(x, t, condition, predict="noise")
        return noise, noise.sigmoid()


# Conditions


def test_a_loss_asks_for_the_score_of_each_samples_class():
    """With the exact score of the classes, the true labels have a smaller loss than others."""
    sde, means = VP(), torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0]])
    score = GaussianMixtureScore(sde, torch.ones(3), means, torch.full((3, 2), 0.01))
    labels = torch.arange(600) % 3
    x = means[labels] + 0.1 * torch.randn(600, 2, generator=generator())
    loss = DenoisingScoreMatching(sde)
    own, other, none, alone = (
        loss(score, given, generator(1)).item()
        for given in (
            *(Labelled(x, labels), Labelled(x, labels.roll(1)), Labelled(x, None)),
            x,
        )
    )
    assert own < none < other and none == alone


@pytest.mark.parametrize("condition", [None, torch.tensor([0, 1, 2, 3])], ids=["none", "labels"])
@pytest.mark.parametrize("name", ["dsm", "hybrid"])
def test_losses_pass_the_condition_and_nothing_else(name, condition):
    seen = []

    class Watched(nn.Module):
        learned_variance = True

        def forward(self, x, t, *rest, predict="score"):
            seen.append(rest)
            return (x, x.sigmoid()) if predict == "noise_and_share" else -x

    loss = {"dsm": DenoisingScoreMatching(VP()), "hybrid": HybridLoss(VP(), steps=10)}[name]
    loss(Watched(), Labelled(torch.randn(4, 2), condition), generator())
    assert len(seen) == 1 and len(seen[0]) == (0 if condition is None else 1)
    assert condition is None or seen[0][0] is condition


def test_every_call_reaches_a_network_through_its_forward():
    """A forward hook, on which wrappers for parallel training rely, sees each evaluation once."""
    sde, labelled = VP(), batch(0)
    shaped = torch.rand(8, 1, 4, 4) * 2 - 1
    model = ScoreModel(MLP((2,), width=8, depth=1, classes=3), sde)
    trained = [
        (DenoisingScoreMatching(sde), model, labelled),
        (HybridLoss(sde, steps=10), Twin(), labelled),
        (NoiseLevelLoss(sde), NoiseLevelEstimator(sde, (1, 4, 4), width=8, depth=1), shaped),
        (
            DequantizationLoss(sde, lambda x, t: -x, Cells(8)),
            DequantizationFlow((1, 4, 4), 8, width=4, depth=2),
            shaped,
        ),
    ]
    for loss, module, given in trained:
        calls = []
        module.register_forward_hook(lambda *_: calls.append(1))  # noqa: B023
        loss(module, given, generator()).backward()
        assert len(calls) == 1, type(loss).__name__
        reached = {name for name, p in module.named_parameters() if p.grad is not None}
        assert reached == {name for name, _ in module.named_parameters()}, type(loss).__name__


def test_a_hybrid_loss_of_a_score_model_is_that_of_its_methods():
    """The forward that losses call returns the values of `noise_and_share`."""
    torch.manual_seed(0)
    net = nn.Sequential()
    net.forward = lambda x, c, condition=None: torch.cat([x * 0.3, -x], 1)
    model = ScoreModel(net, VP(), learned_variance=True)
    x, t = torch.randn(3, 2, 4), torch.tensor(0.4, dtype=torch.float64)
    for predict in ("score", "noise", "denoise", "noise_and_share"):
        by_forward, by_method = model(x, t, predict=predict), getattr(model, predict)(x, t)
        for one, other in zip(by_forward, by_method, strict=True):
            assert torch.equal(one, other)


# Losses with a state


class Consistent(Loss):
    """The distance to the average's own output: a loss with a target network."""

    def __init__(self):
        self.started, self.target = [], None

    def check(self, model):
        if not isinstance(model, nn.Linear):
            raise ValueError("this loss trains a linear map")

    def start(self, step, ema):
        self.started.append((step, ema.updates))
        self.target = ema.model

    def __call__(self, model, batch, generator=None):
        return (model(batch.x) - self.target(batch.x) - 1).square().mean()


def training(model, loss, optimizer, steps, start=0, ema=None, **options):
    ema = ema or EMA(model, 0.9)
    return ema, fit(
        model,
        loss,
        batch,
        optimizer,
        ema,
        steps=steps,
        start=start,
        schedule=Warmup(2, "none", steps),
        **options,
    )


def test_a_loss_receives_each_step_and_the_average():
    torch.manual_seed(0)
    model, loss = nn.Linear(2, 2), Consistent()
    ema, steps = training(model, loss, torch.optim.SGD(model.parameters(), 0.1), 5, start=2)
    values = [step.loss.item() for step in steps]
    assert loss.started == [(2, 0), (3, 1), (4, 2)] and loss.target is ema.model
    assert values[0] == pytest.approx(1)  # model and average are equal at first


def test_a_loss_refuses_a_model_before_the_first_batch():
    model = nn.Conv1d(1, 1, 1)

    def untouched(step):
        raise AssertionError("a batch was read")

    steps = fit(
        model,
        Consistent(),
        untouched,
        torch.optim.SGD(model.parameters(), 0.1),
        EMA(model),
        steps=1,
        schedule=lambda step: 1.0,
    )
    with pytest.raises(ValueError, match="trains a linear map"):
        next(steps)


# Several networks


def adversaries(seed=0):
    """A generator of points and a discriminator, with their losses and optimizers."""
    torch.manual_seed(seed)
    networks = nn.ModuleDict(
        {
            "generator": nn.Sequential(
                nn.Linear(2, 8), nn.Dropout(0.2), nn.SiLU(), nn.Linear(8, 2)
            ),
            "discriminator": nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1)),
        }
    )
    soft = nn.functional.softplus

    def fake(model, x, generator):
        return model["generator"](torch.randn(x.shape, generator=generator))

    losses = {
        "discriminator": lambda m, b, g: (
            soft(-m["discriminator"](b.x)) + soft(m["discriminator"](fake(m, b.x, g).detach()))
        ).mean(),
        "generator": lambda m, b, g: soft(-m["discriminator"](fake(m, b.x, g))).mean(),
    }
    optimizers = {
        name: torch.optim.Adam(networks[name].parameters(), rate)
        for name, rate in (("generator", 1e-2), ("discriminator", 3e-2))
    }
    return networks, losses, optimizers


def weights(module):
    return torch.cat([value.flatten() for value in module.state_dict().values()])


def test_turns_are_taken_in_order_and_train_their_own_networks():
    """The step equals two updates that are written out, bit by bit."""
    networks, losses, optimizers = adversaries()
    _, steps = training(networks, losses, optimizers, 3, generator=generator(7), grad_clip=0.5)
    list_of = list(steps)
    by_hand, hand_losses, hand_optimizers = adversaries()
    source, warm = generator(7), Warmup(2, "none", 3)
    for step in range(3):
        for name in ("discriminator", "generator"):
            for group in hand_optimizers[name].param_groups:
                group["lr"] = {"generator": 1e-2, "discriminator": 3e-2}[name] * warm(step)
            by_hand.zero_grad()
            value = hand_losses[name](by_hand, batch(step), source)
            value.backward()
            nn.utils.clip_grad_norm_(by_hand[name].parameters(), 0.5)
            hand_optimizers[name].step()
            assert list_of[step].losses[name] == value
        assert list_of[step].loss == sum(list_of[step].losses.values())
    assert torch.equal(weights(networks), weights(by_hand))


def test_one_network_is_the_case_of_size_one():
    """A single loss and a dictionary of one loss train the same weights bit by bit."""
    results = []
    for several in (False, True):
        torch.manual_seed(0)
        model = ScoreModel(MLP((2,), width=8, depth=1, classes=3), VP())
        loss, optimizer = DenoisingScoreMatching(VP()), torch.optim.Adam(model.parameters(), 1e-2)
        if several:
            whole = nn.ModuleDict({"student": model})
            ema, steps = training(
                whole,
                {"student": lambda m, b, g: DenoisingScoreMatching(VP())(m["student"], b, g)},
                {"student": optimizer},
                4,
                generator=generator(1),
            )
            average = ema.model["student"]
        else:
            ema, steps = training(model, loss, optimizer, 4, generator=generator(1))
            average = ema.model
        losses = [step.loss.item() for step in steps]
        results.append((losses, weights(model), weights(average)))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1]) and torch.equal(results[0][2], results[1][2])


@pytest.mark.parametrize("stop", [1, 3])
def test_several_networks_resume_bit_by_bit(tmp_path, stop):
    networks, losses, optimizers = adversaries()
    straight, steps = training(networks, losses, optimizers, 5, generator=generator(2))
    list(steps)
    broken, losses, optimizers = adversaries()
    source = generator(2)
    ema, steps = training(broken, losses, optimizers, 5, generator=source)
    for step in steps:
        if step.step == stop:
            checkpoint.save(tmp_path, stop, broken, ema, optimizers, source, {"seed": 0})
            break
    resumed, losses, optimizers = adversaries(seed=9)
    ema, source = EMA(resumed, 0.9), generator(5)
    _, state = checkpoint.newest(tmp_path)
    torch.manual_seed(99)
    assert checkpoint.restore(state, resumed, ema, optimizers, source) == stop
    _, steps = training(resumed, losses, optimizers, 5, stop, ema, generator=source)
    list(steps)
    assert torch.equal(weights(resumed), weights(networks))
    assert torch.equal(weights(ema.model), weights(straight.model))


def test_a_teacher_stays_as_it_is():
    """A frozen network is in the average and the checkpoint, but in no optimizer."""
    torch.manual_seed(0)
    networks = nn.ModuleDict({"student": nn.Linear(2, 2), "teacher": nn.Linear(2, 2)})
    networks["teacher"].requires_grad_(False)
    before, own = weights(networks["teacher"]), weights(networks["student"])
    ema, steps = training(
        networks,
        lambda m, b, g: (m["student"](b.x) - m["teacher"](b.x)).square().mean(),
        torch.optim.Adam(networks["student"].parameters(), 1e-2),
        3,
    )
    list(steps)
    assert torch.equal(weights(networks["teacher"]), before)
    assert torch.equal(weights(ema.model["teacher"]), before)
    assert not torch.equal(weights(networks["student"]), own)


def test_a_turn_that_is_not_finite_is_left_out_and_counted():
    networks, losses, optimizers = adversaries()
    before = weights(networks["generator"])
    broken = losses | {"generator": lambda m, b, g: losses["generator"](m, b, g) * torch.nan}
    other = weights(networks["discriminator"])
    ema, steps = training(networks, broken, optimizers, 20, generator=generator(), patience=3)
    next(steps)
    assert torch.equal(weights(networks["generator"]), before) and ema.updates == 0
    assert not torch.equal(weights(networks["discriminator"]), other)
    with pytest.raises(FloatingPointError, match="in 3 steps in a row"):
        list(steps)


@pytest.mark.parametrize(
    ("loss", "optimizer", "said"),
    [
        (["a", "b"], ["a"], "got losses a, b and optimizers a"),
        (["a"], None, "got losses a and optimizers one without a name"),
        (None, ["a"], "got losses one without a name and optimizers a"),
        ([], [], "got losses none and optimizers none"),
    ],
)
def test_losses_and_optimizers_of_other_names_are_refused(loss, optimizer, said):
    model = nn.Linear(2, 2)
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    plain = DenoisingScoreMatching(VP())
    losses = plain if loss is None else dict.fromkeys(loss, plain)
    optimizers = sgd if optimizer is None else dict.fromkeys(optimizer, sgd)
    with pytest.raises(ValueError, match=f"each loss needs an optimizer of its name, {said}"):
        next(training(model, losses, optimizers, 1)[1])


def test_a_checkpoint_of_other_networks_changes_nothing(tmp_path):
    networks, _, optimizers = adversaries()
    path = checkpoint.save(tmp_path, 1, networks, EMA(networks), optimizers, generator(), {})
    state = checkpoint.load(path)
    other, _, several = adversaries(seed=4)
    before = weights(other)
    for given in (several["generator"], {"generator": several["generator"]}):
        with pytest.raises(ValueError, match="has the optimizers discriminator, generator, and"):
            checkpoint.restore(state, other, EMA(other), given, generator())
    assert torch.equal(weights(other), before)
