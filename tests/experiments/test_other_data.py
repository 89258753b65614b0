"""A training continues with the data that it had, or says how they differ."""

import pytest
import torch
from omegaconf import OmegaConf

from scoresde.experiments.command_line import named
from scoresde.experiments.identity import data_difference, data_identity
from scoresde.experiments.resume import Resumption, resumption
from scoresde.training import checkpoint
from tests.experiments.runs import ends, images, start


class Data:
    """Two parts of a data set, and what distinguishes them from others."""

    def __init__(self, train, test, digest):
        self.train, self.test, self.digest = [0] * train, [0] * test, digest


def test_data_differ_by_number_or_content():
    was = data_identity(Data(10, 2, "a"))
    assert data_difference(was, Data(10, 2, "a")) is None
    assert data_difference(None, Data(10, 2, "a")) is None  # an old checkpoint has no digest
    assert data_difference(was, Data(21, 3, "b")).endswith(
        "10 + 2 samples (train + test) then, 21 + 3 now"
    )
    assert "of another content" in data_difference(was, Data(10, 2, "b"))


@pytest.mark.slow
def test_a_training_on_other_data_is_named_and_refused(tmp_path, capsys):
    """24 images instead of 12 are refused in its own folder, by name, and by resume=auto."""
    settings = images(tmp_path / "data", 12)
    runs = tmp_path / "runs"
    start(runs / "one", *settings)
    (path,) = checkpoint.available(runs / "one" / "checkpoints")
    capsys.readouterr()
    images(tmp_path / "data", 12, 12)
    more = [*settings, "train.steps=4", "evaluate/quality=none"]
    for name, run in (("one", "auto"), ("new", "auto"), ("new", runs / "one"), ("new", path)):
        code, sentence = ends(capsys, runs / name, *more, f"resume={run}")
        assert (
            code == 2 and "other data: 11 + 1 samples (train + test) then, 22 + 2 now" in sentence
        )
        assert "resume.allow=data" in sentence
    assert not (runs / "new").exists()
    # Other data may be scored by design, but the run says so.
    start(runs / "scored", *settings, f"checkpoint={path}", "evaluate/quality=none")
    assert "may have been trained on" in capsys.readouterr().out
    start(runs / "new", *more, "resume=auto", "resume.allow=data")
    said = capsys.readouterr().out
    assert "continues after step 2" in said and "as resume.allow=data says" in said
    # Of two runs of this configuration, the one with these data is taken, even if it is older.
    start(runs / "own", *more, "resume=auto")
    assert f"continues after step 4 of {runs / 'new'}" in capsys.readouterr().out
    state = torch.load(path, weights_only=True)
    del state["data"]  # older checkpoints have none
    torch.save(state, path)
    path.with_suffix(".sha256").unlink()
    start(runs / "old", *more, f"resume={path}")
    assert "other data" not in capsys.readouterr().out


@pytest.mark.slow
def test_likelihoods_of_other_data_are_not_mixed_in(tmp_path, capsys):
    settings = images(tmp_path / "data", 12)
    start(tmp_path / "run", *settings)
    score = [*settings, "task=likelihood", f"checkpoint={tmp_path / 'run'}", "task.shards=2"]
    score += ["evaluate/likelihood=flow"]  # `images` leaves these out
    score += ["evaluate.split=train", "evaluate.batch_size=6", "evaluate.scored=7"]
    score += ["evaluate.likelihood.rtol=0.1", "evaluate.likelihood.atol=0.1"]
    with pytest.raises(FileNotFoundError):  # there is no result yet
        start(tmp_path / "scored", *score)
    images(tmp_path / "data", 12, 12)
    code, sentence = ends(capsys, tmp_path / "scored", *score)
    assert code == 2 and "holds likelihoods by other settings (samples)" in sentence


@pytest.mark.parametrize(
    "resume, expected",
    [
        (None, Resumption(None, ())),
        ("auto", Resumption("auto", ())),
        ({"from": "a/b", "allow": []}, Resumption("a/b", ())),
        ({"from": "auto", "allow": "data"}, Resumption("auto", ("data",))),
        ({"from": "auto", "allow": ["data"]}, Resumption("auto", ("data",))),
        (7, "resume must be auto or a path, got 7"),
        ({"from": "auto", "allow": ["sde"]}, "unknown resume.allow 'sde'. Available: data"),
        ({"from": None, "allow": ["data"]}, "which is not given"),
    ],
)
def test_what_resume_asks_for(resume, expected):
    cfg = OmegaConf.create({"resume": resume})
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            resumption(cfg)
    else:
        assert resumption(cfg) == expected


def test_the_short_form_of_resume():
    short = [
        "-m",
        "resume=auto",
        "+resume=x=y",
        "resume={from:a}",
        "resume.allow=data",
        "x=resume=",
    ]
    assert named(short) == [
        *("-m", "resume.from=auto", "+resume.from=x=y", "resume={from:a}"),
        *("resume.allow=data", "x=resume="),
    ]
