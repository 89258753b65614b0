"""A sweep continues after a failed job, lists the failures at its end, and has its own folder."""

import json
import pickle
from datetime import datetime

import pytest

from scoresde.experiments import job, sweep
from scoresde.experiments.claim import LOCK, Claim
from scoresde.experiments.sweep import FAILURES, Sweep
from tests.experiments.runs import RUN, files, swept
from tests.experiments.test_run import fails

YEAR = str(datetime.now().year)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_failed_jobs_stop_no_others(tmp_path, monkeypatch, capsys):
    """One job is refused, one fails after it was built, and one must not notice.

    Another sweep of the same second has the folder already.
    """
    (tmp_path / YEAR).mkdir()
    (tmp_path / YEAR / "multirun.yaml").write_text("of another sweep")
    before, trained, train = files(tmp_path), [], job.train

    def fails_once(*arguments):
        trained.append(arguments)
        if len(trained) == 1:
            raise KeyError("layer")
        return train(*arguments)

    monkeypatch.setattr(job, "train", fails_once)
    sizes = "train.batch_size=99999,8,4"
    assert swept(monkeypatch, tmp_path / "${now:%Y}", sizes) == 1
    own = tmp_path / f"{YEAR}_1"
    assert before.items() <= files(tmp_path).items()
    assert [path.parent.name for path in own.glob("*/result.json")] == ["2_mixture-vp-pc"]
    assert not (own / "0_mixture-vp-pc").exists() and not list(own.rglob(LOCK))
    refused, broken = map(json.loads, (own / FAILURES).read_text().splitlines())
    assert (refused["job"], refused["code"]) == (0, 2) and (broken["job"], broken["code"]) == (1, 1)
    assert "train.batch_size=99999" in refused["overrides"]
    said = capsys.readouterr().err
    at_once, _, end = said.partition("error: 2 of the sweep's jobs failed:")
    for sentence in ("batch_size 99999 > dataset size 64", "KeyError: 'layer'"):
        assert sentence in at_once and sentence in end
    assert "Traceback" not in said


@pytest.mark.usefixtures("undrawn")
def test_a_folder_in_use_is_refused_and_an_old_list_is_not_taken_for_new(
    tmp_path, monkeypatch, capsys
):
    claim = Claim(tmp_path)
    before = files(tmp_path)
    assert swept(monkeypatch, tmp_path, "seed=0,1") == 2
    assert "use another folder (hydra.sweep.dir=…)" in capsys.readouterr().err
    assert files(tmp_path) == before
    claim.release()
    tmp_path.mkdir(exist_ok=True)
    sweep.note(tmp_path, 0, ["seed=0"], "failed yesterday", 1)
    assert swept(monkeypatch, tmp_path, "seed=0") == 0
    assert not (tmp_path / FAILURES).exists() and (tmp_path / "0_mixture-vp-pc").is_dir()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "run"
    assert "hydra.run.dir cannot be made" in fails(capsys, monkeypatch, inside, *RUN)
    assert swept(monkeypatch, inside, "seed=0,1") == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "Not a directory" in said and "\n" not in said


def test_a_job_in_another_process_has_no_part_in_the_claim(tmp_path):
    """The launchers of parallel jobs send the callback to them."""
    callback = Sweep()
    callback._claim = Claim(tmp_path)
    assert pickle.loads(pickle.dumps(callback))._claim is None
    callback._claim.release()
