"""Runs with a condition: how they train, sample, score and plot, and what they refuse."""

import re
import shutil

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from scoresde.conditioning import ClassifierGuidance
from scoresde.experiments.condition import order_by_class
from scoresde.experiments.model import make
from scoresde.experiments.tasks import Classifier, Generate
from scoresde.sde import describe
from scoresde.training import checkpoint
from tests.experiments.runs import CONF, RUN, ends, images, start

LABELLED = [*RUN, "condition=label"]
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A class-conditional run of digits, two steps long."""
    folder = tmp_path_factory.mktemp("classes") / "run"
    settings = [
        *("condition=label", "model.net.nf=4", "model.net.num_res_blocks=1", "train.steps=2"),
        *("train.batch_size=8", "train.decay=none", "sampler.steps=2", "evaluate.samples.count=20"),
        *("evaluate.samples.frames=2", "evaluate/quality=none", "evaluate.scored=3"),
        *(
            "evaluate.likelihood.rtol=0.1",
            "evaluate.likelihood.atol=0.1",
            "evaluate.bounds.elbo=true",
            "evaluate.bounds.terms=2",
        ),
    ]
    return folder, settings, start(folder, *settings)


@pytest.mark.slow
def test_a_run_of_classes_is_scored_and_loaded(trained):
    folder, _, result = trained
    assert result["bits_per_dim"] > 0 and result["elbo"]["samples"] == 3
    model = Generate.load(folder)
    assert describe(model.net)["classes"] == 10
    x, t = torch.zeros(2, 1, 8, 8), torch.tensor(0.5, dtype=torch.float64)
    with torch.no_grad():
        assert model.given(torch.tensor([3, 10]))(x, t).shape == x.shape


def test_the_picture_has_a_row_for_each_class(trained):
    with Image.open(trained[0] / "samples.png") as picture:
        width, height = picture.size
    assert height == pytest.approx(5 * width, rel=0.1)  # there are ten rows of two


@pytest.mark.slow
def test_classes_are_drawn_in_turn_or_as_chosen(trained, tmp_path):
    sample = ["task=sample", f"checkpoint={trained[0]}", "sampler=ddim", "sampler.steps=2"]
    sample += ["evaluate.samples.count=6", "evaluate.samples.frames=2"]
    start(tmp_path / "all", *sample)  # a class-conditional network receives classes here too
    assert np.load(tmp_path / "all" / "samples.npz")["labels"].tolist() == list(range(6))
    start(tmp_path / "two", *sample, "condition=label", "condition.draw=[3,7]")
    two = np.load(tmp_path / "two" / "samples.npz")
    assert two["labels"].tolist() == [3, 7] * 3
    start(tmp_path / "none", *sample, "condition=none")
    assert "labels" not in np.load(tmp_path / "none" / "samples.npz")


def test_a_resumed_run_of_classes_goes_on(trained, tmp_path):
    folder, settings, _ = trained
    result = start(tmp_path / "run", *settings, f"resume={folder}", "train.steps=3")
    assert result["nfe"] == 4 and (tmp_path / "run" / "checkpoints").is_dir()


def test_the_share_of_labels_left_out_belongs_to_the_training(trained, tmp_path, capsys):
    """A run from before dropout counts as one without it, which sampling can find out."""
    folder, settings, _ = trained
    assert Generate.load(folder).condition_dropout == 0.1
    code, said = ends(
        capsys, tmp_path / "other", *settings, "condition.dropout=0", f"resume={folder}"
    )
    assert code == 2 and "condition.dropout is 0.1, requested 0" in said
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    path, state = checkpoint.find(old)
    del state["config"]["condition"]["dropout"]
    torch.save(state, path)
    path.with_suffix(".sha256").unlink()
    assert Generate.load(old).condition_dropout == 0
    more = ["train.steps=3", f"resume={old}", "condition.dropout=0", "evaluate/likelihood=none"]
    start(tmp_path / "new", *settings[:-4], "evaluate.bounds.elbo=false", *more)


@pytest.mark.parametrize("share", ["1", "-0.5"])
def test_a_share_outside_its_range_is_refused(share, tmp_path, capsys):
    code, said = ends(capsys, tmp_path / "run", *LABELLED, f"condition.dropout={share}")
    assert code == 2 and "condition.dropout must be in [0, 1), got" in said


def test_points_of_classes(tmp_path):
    result = start(
        tmp_path / "run",
        *LABELLED,
        "evaluate/likelihood=flow",
        "evaluate.scored=3",
        "evaluate.likelihood.rtol=0.1",
        "evaluate.likelihood.atol=0.1",
    )
    assert np.isfinite(result["log_likelihood"])


def test_a_folder_of_classes(tmp_path):
    settings = [*images(tmp_path / "images", 6, 6, 6), "data.labels=folders", "condition=label"]
    start(tmp_path / "run", *settings)
    assert describe(Generate.load(tmp_path / "run").net)["classes"] == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["data=swissroll"],
            "condition=label, but the data .swissroll. have no labels; use data=mixture",
        ),
        (["condition.draw=[4]"], r"classes in 0 … 3, got \[4\]"),
        (["condition.draw=[]"], r"classes in 0 … 3, got \[\]"),
        (["condition.draw=[true]"], r"classes in 0 … 3, got \[True\]"),
        (["checkpoint=PLAIN"], "condition.kind is None, requested label"),
    ],
)
def test_what_cannot_be_conditioned_is_refused(settings, said, tmp_path, capsys):
    if "PLAIN" in settings[0]:
        start(tmp_path / "plain", *RUN)
        settings = [settings[0].replace("PLAIN", str(tmp_path / "plain"))]
    code, sentence = ends(capsys, tmp_path / "run", *LABELLED, *settings)
    assert code == 2
    assert re.search(said, sentence), sentence
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_networks_and_folders_without_classes_are_refused(tmp_path, capsys):
    settings = images(tmp_path / "images", 4, 4)
    code, said = ends(capsys, tmp_path / "run", *settings, "condition=label")
    assert code == 2 and "have no labels; set data.labels=folders" in said
    code, said = ends(capsys, tmp_path / "run", "condition=label", "model=ncsn", "sde=ncsn")
    assert code == 2 and "scoresde.models.RefineNet has none; use model=unet" in said


def test_rows_of_classes():
    labels = torch.arange(1000) % 10
    order, columns = order_by_class(labels, 64)
    assert columns == 6 and labels[order].reshape(10, 6).eq(torch.arange(10)[:, None]).all()
    order, columns = order_by_class(torch.arange(64) % 2, 64)
    assert columns == 8 and (torch.arange(64) % 2)[order].reshape(2, 4, 8).unique(dim=1).shape == (
        2,
        1,
        8,
    )
    order, columns = order_by_class(torch.arange(3000) % 1000, 64)  # more classes than pictures
    assert columns == 1 and order.tolist() == list(range(64))
    order, columns = order_by_class(None, 5)
    assert columns is None and order.tolist() == list(range(5))


def test_a_classifier_is_trained_resumed_and_loaded(trained, tmp_path, capsys):
    settings = [
        *("task=classifier", "condition=label", "classifier.width=4", "classifier.depth=1"),
        *("train.steps=2", "train.batch_size=8", "train.decay=none", "train.checkpoint_every=1"),
        *("evaluate.samples.count=20", "task.shift=1"),
    ]
    result = start(tmp_path / "run", *settings)["classifier"]
    assert len(result["bins"]) == 5 and 0 <= result["accuracy"] <= 1
    assert (tmp_path / "run" / "classifier.png").is_file()
    for path in (tmp_path / "run" / "checkpoints").glob("step_000000002.*"):
        path.unlink()
    assert start(tmp_path / "on", *settings, f"resume={tmp_path / 'run'}")["classifier"] == result
    with initialize_config_dir(str(CONF), version_base="1.3"):
        guide = f"+guide='{tmp_path / 'run'}'"
        cfg = compose("config", overrides=[guide, "condition=label", "data.range=[-1.0,1.0]"])
    data = make(cfg.data)
    model = Classifier.auxiliary("guide", cfg, data, torch.device("cpu"))
    score = ClassifierGuidance(Generate.load(trained[0]), model, torch.tensor([3]))
    x, t = torch.randn(2, 1, 8, 8), torch.tensor(0.5, dtype=torch.float64)
    with torch.no_grad():
        assert score(x, t).shape == x.shape
    code, said = ends(capsys, tmp_path / "none", "task=classifier")
    assert code == 2 and "learns the labels of the data; add condition=label" in said
