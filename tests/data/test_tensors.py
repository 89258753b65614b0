"""Tensors as a data set, with their conditions."""

import pytest
import torch

from scoresde.data import Tensors
from tests.data.test_data import seeded

KINDS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def latents(n=30, shape=(4, 2, 3), dtype=torch.float32):
    """Samples whose first value is their number."""
    x = torch.randn(n, *shape, generator=seeded(1)).to(dtype)
    x.view(n, -1)[:, 0] = torch.arange(n)
    return x


def numbers(x):
    return x.flatten(1)[:, 0].long()


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("shape", [(4, 2, 3), (5,), (2, 3, 2, 2)])
def test_tensors_keep_their_type_and_values(dtype, shape):
    samples = latents(shape=shape, dtype=dtype)
    data = Tensors(samples, test_fraction=0.2)
    assert data.shape == shape and data.levels is data.range is data.cell is data.classes is None
    assert data.train.dtype == data.test.dtype == dtype
    assert (len(data.train), len(data.test)) == (24, 6)
    both = torch.cat([data.train, data.test])
    assert torch.equal(both[numbers(both).argsort()], samples)  # each exactly once
    batch = data.batch(5, 7, seed=2)
    assert batch.x.dtype == dtype and batch.condition is None
    assert torch.equal(batch.x, data.train[data.indices(5, 7, seed=2)])
    assert torch.equal(data.scale(batch.x, seeded(0)), batch.x)
    assert torch.equal(data.quantize(batch.x), batch.x)
    assert torch.equal(Tensors(samples, test_fraction=0.2).batch(5, 7, seed=2).x, batch.x)
    assert not torch.equal(Tensors(samples, seed=1, test_fraction=0.2).test, data.test)


def test_conditions_follow_their_samples():
    samples, labels = latents(), torch.arange(30) % 4
    labelled = Tensors(samples, labels)
    batch = labelled.batch(3, 9, seed=0)
    assert torch.equal(batch.condition, numbers(batch.x) % 4)
    assert labelled.classes == 4 and torch.equal(labelled.test_labels, numbers(labelled.test) % 4)
    text = {
        "text": latents(30, (3, 5), torch.float16),
        "length": torch.arange(30, dtype=torch.int32),
    }
    many = Tensors(samples, text)
    for step in (0, 4):
        batch = many.batch(step, 9, seed=0)
        index = numbers(batch.x)
        assert set(batch.condition) == {"text", "length"} and many.classes is None
        assert torch.equal(batch.condition["text"], text["text"][index])
        assert torch.equal(batch.condition["length"], text["length"][index])
    assert torch.equal(many.test_condition["length"], numbers(many.test).int())
    images = latents(30, (1, 2, 2))  # this tensor holds no labels
    assert Tensors(samples, images).train_labels is None
    assert torch.equal(
        numbers(Tensors(samples, images).batch(0, 5, 0).condition),
        numbers(Tensors(samples, images).batch(0, 5, 0).x),
    )


def test_a_test_part_that_is_given_is_the_test_part():
    samples, test = latents(), latents(5) + 100
    data = Tensors(samples, {"a": samples[:, 0]}, test, {"a": test[:, 0]})
    assert torch.equal(data.train, samples) and torch.equal(data.test, test)
    assert torch.equal(data.test_condition["a"], test[:, 0])
    assert len(Tensors(latents(1), test=test).train) == 1


def test_digest_distinguishes_values_types_and_conditions():
    samples, labels = latents(), torch.arange(30)
    made = [
        (samples, labels),
        (samples, None),
        (samples, {"a": labels}),
        (samples, {"b": labels}),
        (samples, labels.flip(0)),
        (samples.double(), labels),
        (samples.bfloat16(), labels),
        (samples.half(), labels),
        (samples + 1, labels),
        (samples.flatten(1), labels),
    ]
    digests = [Tensors(*one).digest for one in made]
    assert len(set(digests)) == len(made)
    assert Tensors(samples.clone(), labels.clone()).digest == digests[0]
    several = {"a": labels, "b": samples}
    backwards = dict(reversed(several.items()))
    assert Tensors(samples, several).digest == Tensors(samples, backwards).digest


X = latents(6)
NAN = X.clone()
NAN[2, 0, 0, 0] = float("nan")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"samples": [[1.0]]}, TypeError, "samples must be a tensor, got list; use torch.as_t"),
        ({"samples": X.long()}, ValueError, "samples must be floating point, got torch.int64"),
        ({"samples": X[:1]}, ValueError, r"samples must be \(N, \*\) with N ≥ 2 .*got \(1, 4, 2"),
        ({"samples": torch.zeros(5)}, ValueError, r"must be \(N, \*\) .*, got \(5,\)"),
        ({"samples": torch.zeros(5, 0)}, ValueError, r"one number in each, got \(5, 0\)"),
        ({"samples": NAN}, ValueError, "NaN/Inf: 1 of 6 samples, first index 2"),
        ({"test": X[:0]}, ValueError, r"test must be \(N, \*\) with N ≥ 1"),
        ({"test": X.double()}, ValueError, "the test part must be of the type and shape of the"),
        ({"test": X[:, :1]}, ValueError, "the test part must be of the type and shape of the"),
        ({"test": X, "condition": X}, ValueError, "the test part must be of the type and shape"),
        ({"test_condition": X}, ValueError, "test_condition belongs to a test part; give test"),
        ({"condition": "label"}, TypeError, "condition must be a tensor or a dict of tensors, got"),
        ({"condition": {"a": [1]}}, TypeError, "condition must hold tensors, got list as 'condit"),
        ({"condition": X[:5]}, ValueError, r"condition must have the 6 samples first, got \(5,"),
        ({"condition": torch.tensor(1)}, ValueError, r"condition must have the 6 samples first"),
        ({"condition": NAN}, ValueError, "NaN/Inf: 1 of 6 samples"),
        ({"condition": -torch.ones(6).long()}, ValueError, "labels must be ≥ 0, got -1"),
        ({"test_fraction": 0.0}, ValueError, r"test_fraction must be in \(0, 1\), got 0.0"),
    ],
)
def test_impossible_tensors_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        Tensors(**{"samples": X, **arguments})
