"""Runs whose condition is an image: trained, resumed, sampled, in a cascade, and refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.evaluation.restoration import psnr
from scoresde.experiments.tasks import Restore
from scoresde.training import checkpoint
from tests.experiments.runs import ends, start

SMALL = [
    *("data=digits", "model.net.nf=4", "model.net.ch_mult=[1]", "model.net.num_res_blocks=1"),
    *("model.net.attn_resolutions=[]", "train.steps=2", "train.batch_size=8"),
    *("train.decay=none", "train.checkpoint_every=1", "sampler=ddim", "sampler.steps=2"),
]
RUN = [*SMALL, "task=restore", "task.images=3", "task.draws=2"]
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def enlarging(tmp_path_factory):
    """A run of twofold super-resolution for cascades, two steps long."""
    folder = tmp_path_factory.mktemp("superres") / "run"
    settings = [*RUN, "condition=superres", "condition.levels=[0.1,0.8]"]
    return folder, settings, start(folder, *settings)


def test_a_run_of_super_resolution(enlarging):
    folder, _, result = enlarging
    found = result["restored"]
    assert found["images"] == 3 and found["draws"] == 2 and found["level"] == 0.1
    assert found["psnr"].keys() == {"given", "sample", "mean"} and found["consistency"] > 0
    arrays = np.load(folder / "samples.npz")
    assert arrays["samples"].shape == (3, 2, 1, 8, 8) and arrays["condition"].shape[2:] == (4, 4)
    with Image.open(folder / "restored.png") as picture:
        width, height = picture.size
    assert width == pytest.approx(2 * height, rel=0.1)  # three rows of six


def test_a_resumed_run_is_bitwise_the_same(enlarging, tmp_path):
    folder, settings, _ = enlarging
    whole = [f"resume={folder / 'checkpoints' / 'step_000000001.pt'}", *settings]
    start(tmp_path / "on", *whole)
    one, other = (checkpoint.find(place)[1] for place in (folder, tmp_path / "on"))
    assert one["step"] == other["step"] == 2
    for name, weights in one["model"].items():
        assert torch.equal(weights, other["model"][name])


def test_a_trained_model_says_what_it_was_told(enlarging):
    model = Restore.load(enlarging[0])
    assert model.condition_dropout == 0.1 and model.condition_settings["factor"] == 2
    assert model.net.condition_channels == 1 and model.net.condition_noise


@pytest.mark.parametrize("settings", [["condition.factor=4"], ["condition.dropout=0.2"]])
def test_other_pairs_or_dropout_are_another_training(enlarging, settings, tmp_path, capsys):
    folder, same, _ = enlarging
    code, said = ends(capsys, tmp_path / "run", *same, f"resume={folder}", *settings)
    assert code == 2 and "checkpoint differs from what is asked for: condition." in said


def test_samples_of_a_checkpoint_can_be_consistent(enlarging, tmp_path):
    folder, settings, result = enlarging
    asked = [*settings, f"checkpoint={folder}", "task.consistent=true", "task.level=0.4"]
    found = start(tmp_path / "run", *asked)["restored"]
    assert found["consistency"] < 1e-6 < result["restored"]["consistency"]
    assert found["level"] == 0.4


@pytest.mark.parametrize(
    "settings",
    [
        ["condition=inpainting"],
        ["condition=superres", "condition.pair.residual=true", "condition.encoder_blocks=1"],
    ],
    ids=["palette", "srdiff"],
)
def test_other_conditions(settings, tmp_path):
    result = start(tmp_path / "run", *RUN, *settings)["restored"]
    assert np.isfinite(result["psnr"]["mean"])
    if "condition=inpainting" in settings:
        arrays = np.load(tmp_path / "run" / "samples.npz")
        known = np.broadcast_to(arrays["condition"][:, None, 1:] == 1, arrays["samples"].shape)
        truth = np.broadcast_to(arrays["truth"][:, None], known.shape)
        assert (arrays["samples"][known] == truth[known]).all()
    else:
        assert 0 < result["clipped"] < 0.5


def test_a_cascade_is_sampled_by_one_command(enlarging, tmp_path):
    low = [*SMALL, "data=digits_low", "condition=label", "evaluate/likelihood=none"]
    low += ["evaluate/quality=none", "evaluate.samples.count=2", "evaluate.samples.frames=2"]
    start(tmp_path / "low", *low)
    both = ["task=cascade", f"checkpoint={enlarging[0]}", f"task.low={tmp_path / 'low'}"]
    both += ["sampler=ddim", "sampler.steps=3", "evaluate.samples.count=4"]
    result = start(tmp_path / "added", *both, "task.level=0.5", "task.consistent=true")
    assert result["nfe"] == result["first_nfe"] == 3 and result["level"] == 0.5
    arrays = np.load(tmp_path / "added" / "samples.npz")
    assert arrays["samples"].shape == (4, 1, 8, 8) and arrays["small"].shape == (4, 1, 4, 4)
    assert arrays["labels"].tolist() == [0, 1, 2, 3]
    result = start(tmp_path / "stopped", *both, "task.truncated=true", "sampler.predictor.eta=1")
    assert (tmp_path / "stopped" / "cascade.png").is_file() and result["level"] == 0.1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["task=restore"], "task=restore makes images from images; add condition=superres"),
        (["condition=superres"], "condition=superres makes images from images"),
        (["task=restore", "condition=superres", "condition.factor=3"], "must divide the size"),
        (["task=restore", "condition=superres", "task.level=0.3"], "trained with condition.levels"),
        (["task=restore", "condition=colorization"], "images of 3 channels, got 1"),
        (["task=restore", "condition=superres", "condition.levels=[0,1]"], "levels must be"),
        (["task=cascade"], "task=cascade samples two trained models"),
    ],
)
def test_what_cannot_be_is_refused(settings, said, tmp_path, capsys):
    code, sentence = ends(capsys, tmp_path / "run", *SMALL, *settings)
    assert code == 2 and said in sentence, sentence


def test_the_signal_to_noise_ratio_of_a_known_error():
    truth = torch.zeros(2, 1, 4, 4)
    assert psnr(truth + 0.2, truth, 2.0).tolist() == pytest.approx([20.0] * len(truth), abs=1e-5)
