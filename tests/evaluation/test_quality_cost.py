"""The metric of digits: which data request it, and its largest cost."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scoresde.evaluation import ClassifierQuality
from scoresde.evaluation.cost import block_side, copies_of, cost
from scoresde.evaluation.features import DigitClassifier
from scoresde.experiments.tasks.generate import _quality
from tests.data.test_data import Grey, noise


@pytest.mark.parametrize("samples", [2, 10**6])
@pytest.mark.parametrize("real", [4, 200, 1797, 70000, 10**7])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 64, 64), (3, 1024, 1024)])
def test_the_cost_is_bounded_whatever_the_data(samples, real, shape):
    bound = cost(samples, real, shape)
    assert bound.images <= 5000 and bound.rows <= 10_000 and bound.values <= 1024
    assert bound.read <= 10_000 and 0 < bound.seconds < 20
    assert str(bound).startswith(f"a classifier trains on {bound.images} images ({bound.rows} with")


def test_the_cost_is_that_of_the_classifier(monkeypatch):
    images, labels = noise(0, 40, 3, 40, 36), np.arange(40) % 2
    taught = []
    monkeypatch.setattr(
        "scoresde.evaluation.features.MLPClassifier.fit", lambda self, rows, y: taught.append(rows)
    )
    classifier = DigitClassifier(256).fit(images, labels)
    (rows,) = taught
    bound = cost(10, 80, (3, 40, 36))
    assert rows.shape == (bound.rows, bound.values) == (9 * 40, 3 * 14 * 12)
    # The first rows are the images themselves: means over blocks, the last row of which is short.
    padded = np.pad(images, ((0, 0), (0, 0), (0, 2), (0, 0)), mode="edge").astype(float)
    means = padded.reshape(40, 3, 14, 3, 12, 3).mean((3, 5)) / 127.5 - 1
    np.testing.assert_allclose(rows[:40].reshape(means.shape), means, atol=1e-12)
    assert classifier._scale(images).shape == means.shape


def test_small_images_are_read_as_they_are():
    assert block_side(1, 32, 32) == block_side(1, 28, 28) == block_side(1, 8, 8) == 1
    assert block_side(1, 33, 32) == 2 and block_side(2000, 3, 4) == 4
    assert copies_of(899) == 8 and copies_of(5000) == 1


@pytest.mark.parametrize("asked", [None, "classifier"])
def test_only_data_that_ask_are_read_by_the_classifier(asked, monkeypatch, capsys):
    data = Grey(levels=256)
    data.train_labels, data.test_labels = data.train_labels % 2, data.test_labels % 2
    data.quality = asked
    parts = SimpleNamespace(seed=0, quality=ClassifierQuality(), data=data)
    samples, record = torch.zeros(5, 2, 3, 5), SimpleNamespace(entries={})
    fitted = []
    monkeypatch.setattr(DigitClassifier, "fit", lambda self, *_: fitted.append(1) or stop())

    def stop():
        raise InterruptedError("trained")

    if asked is None:
        assert _quality(parts, samples, record) is None and not fitted
        assert capsys.readouterr().out == ""
    else:
        with pytest.raises(InterruptedError):
            _quality(parts, samples, record)
        assert capsys.readouterr().out.startswith("quality: a classifier trains on 50 images (450")
