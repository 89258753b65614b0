"""A batch holds samples and their condition, and follows the same rules in every data set."""

import pytest
import torch

from scoresde.data import (
    Batch,
    Blank,
    Checkerboard,
    Digits,
    EightGaussians,
    Folder,
    Mixture,
    Moons,
    SwissRoll,
)
from tests.data.test_data import Grey

SMALL = {"n": 600, "n_test": 200}
TOYS = {Moons: 2, Checkerboard: 8, EightGaussians: 8, Mixture: 4}


def test_labels_are_those_of_the_rows_of_the_batch():
    plain, labelled = (
        Grey(levels=256, dequantize=True, flip=True, condition=c) for c in (None, "label")
    )
    for step in (0, 5, 2, 9):  # several epochs
        batch = labelled.batch(step, 16, seed=3)
        assert isinstance(batch, Batch) and batch.condition.dtype == torch.int64
        # The labels of this set are the numbers of its samples.
        assert torch.equal(batch.condition, labelled.indices(step, 16, seed=3))
        same = plain.batch(step, 16, seed=3)
        assert torch.equal(batch.x, same.x) and same.condition is None
    assert plain.train_condition is None and plain.test_condition is None
    assert torch.equal(labelled.test_condition, labelled.test_labels)


def test_number_of_classes_is_of_both_parts():
    grey = Grey(n=20, levels=256)
    assert grey.classes == 20
    grey.test_labels = torch.tensor([3, 77, 0, 1])
    assert grey.classes == 78
    assert Digits().classes == 10
    assert Blank((1, 2, 2)).classes is None and Moons(n=4, n_test=4).classes is None


@pytest.mark.parametrize("distribution", TOYS)
def test_points_are_the_same_with_labels(distribution):
    plain, labelled = distribution(**SMALL), distribution(**SMALL, condition="label")
    assert torch.equal(plain.train, labelled.train) and torch.equal(plain.test, labelled.test)
    assert (
        plain.train_labels is None
        and plain.classes is None
        and labelled.classes == TOYS[distribution]
    )
    assert labelled.train_labels.shape == (600,) and labelled.test_labels.shape == (200,)
    batch = labelled.batch(1, 50, seed=0)
    assert torch.equal(batch.condition, labelled.train_labels[labelled.indices(1, 50, seed=0)])
    assert torch.equal(batch.x, plain.batch(1, 50, seed=0).x)


def test_label_of_a_point_is_the_part_that_it_comes_from():
    # The components are far apart, so that the label is that of the nearest mean.
    means = [[-50.0, 0.0], [0.0, 50.0], [50.0, 0.0]]
    far = Mixture([0.6, 0.3, 0.1], means, [1.0, 2.0, 0.5], **SMALL, condition="label")
    nearest = torch.cdist(far.train.double(), torch.tensor(means).double()).argmin(-1)
    assert torch.equal(far.train_labels, nearest)
    ring = EightGaussians(
        **SMALL, condition="label"
    )  # neighbours are 7.6 standard deviations apart
    nearest = torch.cdist(ring.test.double(), ring.means).argmin(-1)
    assert (ring.test_labels == nearest).double().mean() > 0.99
    board = Checkerboard(**SMALL, condition="label")
    column, row = (board.train.double() / 0.75**0.5 + 2).floor().long().unbind(-1)
    assert torch.equal(board.train_labels, 2 * row + column // 2)
    moons = Moons(**SMALL, condition="label")
    for label in (0, 1):
        x = moons.train[moons.train_labels == label].double()
        apart = torch.tensor([1, 4 / torch.pi - 0.5]).double()
        within = torch.tensor([0.5, 0.5 - 4 / torch.pi**2]).double()
        raw = x * (within + apart**2 / 4 + 0.05**2).sqrt() + torch.tensor([0.5, 0.25])
        centre = torch.tensor([label, 0.5 * label]).double()
        assert ((raw - centre).norm(dim=-1) - 1).abs().max() < 5 * 0.05


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("lable", r"condition must be null or label, got 'lable'; did you mean label\?"),
        ("None", r"condition must be null or label, got 'None'; did you mean null\?"),
        ("text", "condition must be null or label, got 'text'; use one of these"),
        (7, "condition must be null or label, got 7"),
        (True, "condition must be null or label, got True"),
    ],
)
def test_unknown_conditions_are_named_before_anything_is_read(condition, message, tmp_path):
    for build in (Moons, Digits, lambda **k: Folder(tmp_path / "absent", **k)):
        with pytest.raises(ValueError, match=message):
            build(condition=condition)


def test_labels_that_there_are_not_are_no_condition(tmp_path):
    with pytest.raises(ValueError, match=r"condition=label, but the data 'swissroll' have no lab"):
        SwissRoll(**SMALL, condition="label")
    with pytest.raises(ValueError, match=r"'absent' have no labels; set data.labels=folders, num"):
        Folder(tmp_path / "absent", condition="label")
