"""Errors after a run was built end with one sentence and lose no finished work."""

import errno
import json
import math
import os
import resource
import signal

import numpy as np
import pytest
import torch

from scoresde.data import Folder
from scoresde.evaluation import quality
from scoresde.evaluation.features import class_problem, stratified_halves
from scoresde.experiments import job, likelihood, samples
from scoresde.experiments.outcome import sentence
from scoresde.experiments.record import Record, complete, finished
from scoresde.experiments.tasks import Generate
from scoresde.training import checkpoint
from scoresde.training.loggers import CSVLogger, Guarded
from tests.experiments.runs import RUN, ends, images, raises, start
from tests.experiments.test_run import weights
from tests.training.test_training import Training


@pytest.mark.parametrize(
    "error, said",
    [
        (RuntimeError("solver\n\n  stopped"), "solver stopped"),
        (FloatingPointError("NaN"), "NaN"),
        (KeyError("x"), "KeyError: 'x' (SCORE_SDE_TRACEBACK=1 shows where)"),
        (AssertionError(), "AssertionError:  (SCORE_SDE_TRACEBACK=1 shows where)"),
        (RuntimeError("x" * 700), "x" * 600 + "…"),
        (MemoryError(), "out of memory: nothing more can be allocated; use a smaller train.batch"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory: CUDA out of memory.; use"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.pt"),
            "No space left on device: 'a.pt",
        ),
    ],
)
def test_every_error_is_one_sentence(error, said):
    assert said in sentence(error) and "\n" not in sentence(error)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "place, error, code",
    [
        ("build", RuntimeError("CUDA error"), 1),
        ("build", OSError(errno.EACCES, "Permission denied", "x"), 2),
        ("make_loggers", ValueError("no key"), 2),
        ("train", ValueError("a bad batch"), 1),
        ("generate", RuntimeError("step below minimum"), 1),
    ],
)
def test_exit_codes(tmp_path, monkeypatch, capsys, place, error, code):
    """The code is 2 while a run is built and 1 after; a traceback is printed on request alone."""
    where = (Generate, "finish") if place == "generate" else (job, place)
    monkeypatch.setattr(*where, raises(error))
    got, said = ends(capsys, tmp_path / "run", *RUN)
    assert got == code and " ".join(str(error).split()) in said
    assert (tmp_path / "run").exists() == (place != "build")
    if place == "train":
        monkeypatch.setenv("SCORE_SDE_TRACEBACK", "1")
        with pytest.raises(SystemExit) as stop:
            start(tmp_path / "again", *RUN)
        assert stop.value.code == code
        assert "Traceback (most recent call last)" in capsys.readouterr().err
    if place == "generate":
        assert "resume=auto goes on from its checkpoint" in said
        kept = json.loads((tmp_path / "run" / "result.json").read_text())
        assert kept["unfinished"] and kept["seconds"]["train"] > 0
        monkeypatch.undo()
        monkeypatch.setattr(samples, "_save_points", raises(RuntimeError("no flow")))
        whole = start(tmp_path / "run", *RUN, "resume=auto")
        assert "unfinished" not in whole and whole["nfe"] > 0
        assert whole["failed"] == {"pictures": "no flow"}
        assert "warning: pictures failed" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_training_that_is_not_finite_is_not_saved(tmp_path, monkeypatch, capsys):
    """Weights overflow in step 2, which is noticed by its checkpoint alone."""
    build = job.build

    def overflows(cfg):
        parts, done = build(cfg), []

        def fill(*_):
            done.append(True)
            if len(done) == 2:
                next(parts.model.parameters()).data.fill_(math.inf)

        parts.optimizer.register_step_post_hook(fill)
        return parts

    monkeypatch.setattr(job, "build", overflows)
    steps = ["train.steps=4", "train.checkpoint_every=1"]
    code, said = ends(capsys, tmp_path / "run", *RUN, *steps)
    assert code == 1 and "after step 2 the weights are not finite" in said
    assert "lower train.optimizer.lr" in said and "resume=auto goes on" in said
    (path,) = checkpoint.available(tmp_path / "run" / "checkpoints")
    assert checkpoint.load(path)["step"] == 1


def test_weights_that_are_not_finite_are_named_on_loading(tmp_path, capsys):
    training = Training(1)
    training.save(tmp_path, 1)
    path = training.save(tmp_path, 2)
    state = torch.load(path, weights_only=True)
    name, values = next(iter(state["ema"]["model"].items()))
    values.view(-1)[1] = math.inf
    torch.save(state, path)
    path.with_suffix(".sha256").unlink()
    with pytest.raises(ValueError, match=rf"not finite \({name}: 1 of {values.numel()} values\)"):
        checkpoint.load(path)
    assert checkpoint.newest(tmp_path)[1]["step"] == 1
    assert "trying the one before" in capsys.readouterr().out
    with torch.no_grad():
        next(training.model.parameters()).fill_(math.nan)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FloatingPointError, match="after step 3 the weights are not finite"):
        training.save(tmp_path, 3)
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path):
    """The size of files is really limited; torch's writer hides that error under one of its own."""
    training = Training(1)
    old = training.save(tmp_path, 1)
    training.model.net[0] = torch.nn.Linear(2, 4000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*step_000000002\.pt'"):
            training.save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name for path in tmp_path.iterdir()} == {old.name, f"{old.stem}.sha256"}
    assert checkpoint.load(old)["step"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_is_saved_at_its_step(tmp_path, monkeypatch, capsys, number):
    """The signal comes in the middle of step 2 of 4; resumed, the weights are bitwise the same."""
    steps = ["train.steps=4", "train.checkpoint_every=4"]
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    build = job.build

    def interrupted(cfg):
        parts = build(cfg)
        batch = parts.data.batch

        def asks(step, *arguments):
            if step == 1:
                os.kill(os.getpid(), number)
            return batch(step, *arguments)

        parts.data.batch = asks
        return parts

    with monkeypatch.context() as patch:
        patch.setattr(job, "build", interrupted)
        code, said = ends(capsys, tmp_path / "run", *RUN, *steps)
    assert code == 128 + number and "resume=auto goes on from its checkpoint" in said
    assert handlers == [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    (path,) = checkpoint.available(tmp_path / "run" / "checkpoints")
    assert path.name == "step_000000002.pt"
    start(tmp_path / "run", *RUN, *steps, "resume=auto")
    start(tmp_path / "straight", *RUN, *steps)
    for key, value in weights(tmp_path / "straight").items():
        torch.testing.assert_close(weights(tmp_path / "run")[key], value, rtol=0, atol=0)


def test_a_class_of_one_picture_is_said_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Folder, "quality", "classifier")
    settings = [*images(tmp_path / "data", 11, 1), "data.labels=folders"]
    result = start(tmp_path / "run", *settings)
    assert "got {0: 11, 1: 1}" in result["skipped"]["quality"]
    assert "quality" not in result and "failed" not in result and result["nfe"] > 0
    out = capsys.readouterr().out
    assert 0 <= out.index("warning: quality is left out") < out.index("drawing")


def test_optional_parts_do_not_cost_the_result(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Folder, "quality", "classifier")
    settings = [*images(tmp_path / "data", 6, 6), "data.labels=folders"]
    monkeypatch.setattr(quality, "sample_quality", raises(np.linalg.LinAlgError("SVD")))
    monkeypatch.setattr(samples, "_save_pictures", raises(OSError(errno.ENOSPC, "full")))
    monkeypatch.setattr(likelihood.Evaluator, "bounds", raises(RuntimeError("bound")))
    monkeypatch.setattr(CSVLogger, "summary", raises(ConnectionError("offline")))
    result = start(tmp_path / "run", *settings, "evaluate.bounds.elbo=true")
    said = {name: text.partition(" (")[0] for name, text in result["failed"].items()}
    assert said == {
        "pictures": "[Errno 28] full",
        "quality": "SVD",
        "bounds": "bound",
        "CSVLogger": "offline",
    }
    assert "unfinished" not in result and result["nfe"] > 0
    assert finished(tmp_path / "run") is not None and not complete(tmp_path / "run")


def test_what_is_known_of_classes_before_training_is_what_the_metric_refuses():
    """This also holds beyond ten thousand images, where the rare classes may lose theirs."""
    rng = np.random.default_rng(0)
    cases = [[5, 5], [5, 1], [7], [30_000, 3], [30_000, 9], [2, 2, 2]]
    for counts in cases:
        labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        problem = class_problem(labels, len(labels))
        if problem is None:
            halves = stratified_halves(labels, len(labels), rng)
            assert all(set(labels[half]) == set(range(len(counts))) for half in halves)
        else:
            with pytest.raises(ValueError, match="at least 2 classes with at least 2 images"):
                stratified_halves(labels, len(labels), rng)
    problems = [class_problem(np.repeat(np.arange(len(c)), c), sum(c)) is None for c in cases]
    assert problems == [True, False, False, False, True, True]


def test_a_failing_logger_is_said_once_and_then_left_alone(tmp_path, monkeypatch, capsys):
    logger = Guarded(CSVLogger(tmp_path))
    logger.log(1, {"loss": 1.0})
    monkeypatch.setattr(CSVLogger, "log", raises(ConnectionError("gone")))
    for step in (2, 3):
        logger.log(step, {"loss": 1.0})
    assert capsys.readouterr().out.count("CSVLogger failed, and logs no more: gone") == 1
    record = Record(tmp_path, {"sde": "vp"})
    record.loggers = [logger]
    record.finish()
    assert json.loads((tmp_path / "result.json").read_text())["failed"] == {"CSVLogger": "gone"}


def test_a_result_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    record = Record(tmp_path, {"sde": "vp"})
    record.add({"nfe": 4, "seconds": {"train": 1.0}})
    assert finished(tmp_path) is None
    before = (tmp_path / "result.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", raises(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            record.add({"nfe": 5})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"result.json": before}
    record.add({"seconds": {"total": 2.0}})
    record.finish()
    assert finished(tmp_path)["seconds"] == {"train": 1.0, "total": 2.0}
