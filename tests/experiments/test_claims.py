"""A folder belongs to one process at a time: it is refused to others, and free after its death."""

import errno
import fcntl
import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from scoresde.experiments import run
from scoresde.experiments.claim import LOCK, Claim, check_free, claim_new
from scoresde.training import checkpoint, lock
from tests.experiments.runs import RUN, ends, files
from tests.training.test_training import Training


def together(count, call):
    """The results of calls that start at once, each in a thread, with the errors among them."""
    with ThreadPoolExecutor(count) as pool:
        tasks = [pool.submit(call) for _ in range(count)]
    return [task.exception() or task.result() for task in tasks]


@pytest.fixture
def other(tmp_path):
    """Another process that holds tmp_path/run and writes a checkpoint there, until it is killed."""
    ready, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        claim = Claim(tmp_path / "run")
        (claim.folder / "checkpoints").mkdir()
        file = lock.create(claim.folder / "checkpoints" / ".step_000000001.pt.x.tmp")
        os.write(say, b"x")
        signal.pause()
        os._exit(bool(file))
    os.read(ready, 1)

    def kill():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    yield pid, kill
    if os.path.exists(f"/proc/{pid}"):
        kill()


@pytest.mark.slow
def test_another_process_is_named_and_its_files_outlive_every_refusal(tmp_path, capsys, other):
    pid, kill = other
    folder = tmp_path / "run"
    before = files(folder)
    for asked in ([], ["resume=auto"]):
        code, sentence = ends(capsys, folder, *RUN, *asked)
        assert code == 2 and f"{folder} is in use by process {pid} on " in sentence
        assert "use another folder (hydra.run.dir=…)" in sentence
    with pytest.raises(ValueError, match=f"process {pid} on .* start anew without resume"):
        check_free(folder)
    # A process that saves a checkpoint there without a claim removes nothing either.
    Training(1).save(folder / "checkpoints", 7)
    assert before.items() <= files(folder).items()
    kill()
    check_free(folder)
    claim = Claim(folder)
    assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
    claim.tidy()
    claim.release()
    assert not list(folder.rglob(".*"))
    assert [path.name for path in checkpoint.available(folder / "checkpoints")] == [
        "step_000000007.pt"
    ]


def test_one_of_many_gets_a_folder_that_a_dead_process_left(tmp_path):
    """This holds even if its process id now belongs to another process, which started later."""
    for _ in range(5):
        stale = json.loads(lock.record()) | {"started": 1}
        (tmp_path / LOCK).write_text(json.dumps(stale) + "\n")
        found = together(8, lambda: Claim(tmp_path))
        (claim,) = (one for one in found if isinstance(one, Claim))
        refused = [str(one) for one in found if one is not claim]
        assert all(f"in use by process {os.getpid()} on" in one for one in refused)
        assert len((tmp_path / LOCK).read_text().splitlines()) == 1
        claim._held[tmp_path / LOCK].close()  # the kernel does the same when a process dies


def test_runs_that_start_in_one_second_have_folders_of_their_own(tmp_path):
    (tmp_path / "12_00").mkdir()  # Hydra does the same
    claims = together(8, lambda: claim_new(tmp_path / "12_00"))
    expected = {"12_00", *(f"12_00_{number}" for number in range(1, 8))}
    assert {claim.folder.name for claim in claims} == expected
    for claim in claims:
        claim.release()
    assert not list(tmp_path.iterdir())  # nothing was written in any


@pytest.mark.slow
def test_a_folder_named_by_the_time_is_not_used_twice(tmp_path, monkeypatch, capsys, undrawn):
    """The second run of one name goes next to the first; a name that was chosen is refused."""
    year = datetime.now().year
    arguments = [*RUN, "hydra.run.dir=" + str(tmp_path) + "/${now:%Y}"]
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    run.main()
    before = files(tmp_path)
    run.main()
    after = files(tmp_path)
    assert before.items() <= after.items()
    result = json.loads((tmp_path / f"{year}_1" / "result.json").read_text())
    assert result["run_dir"] == str(tmp_path / f"{year}_1")
    assert not list(tmp_path.rglob(LOCK))
    claim = Claim(tmp_path / f"{year}_1")
    code, sentence = ends(capsys, tmp_path / str(year), *RUN)  # this makes it no newer
    assert code == 2 and "already holds a run" in sentence
    code, sentence = ends(capsys, tmp_path / "new", *RUN, "resume=auto")
    assert code == 2 and f"{year}_1 is in use by process {os.getpid()}" in sentence
    claim.release()
    assert not (tmp_path / "new").exists() and files(tmp_path) == after


def test_shards_share_a_folder_that_is_refused_to_others(tmp_path):
    one, two = (Claim(tmp_path / "run", shared=True) for _ in range(2))
    with pytest.raises(ValueError, match="is in use by process"):
        Claim(tmp_path / "run")
    (tmp_path / "run" / ".result.x.tmp").touch()
    one.tidy()  # it may belong to the other process
    assert (tmp_path / "run" / ".result.x.tmp").exists()
    assert two.alone("join") and not one.alone("join")
    two.release()
    assert one.alone("join")
    with pytest.raises(ValueError, match="is in use by process"):
        Claim(tmp_path / "run")
    one.release()
    with pytest.raises(ValueError, match="is in use by process"):
        alone = Claim(tmp_path / "run")
        Claim(tmp_path / "run", shared=True)
    alone.tidy()
    alone.release()
    assert not (tmp_path / "run").exists()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    claim = Claim(tmp_path / "run")
    assert "has no locks, so that nothing keeps a second run out" in capsys.readouterr().out
    assert claim.alone("join")
    stray = tmp_path / "run" / ".result.x.tmp"
    stray.touch()
    claim.tidy()
    assert stray.exists()  # no process can tell whose it is
    path = Training(1).save(tmp_path / "run" / "checkpoints", 1)
    assert checkpoint.load(path)["step"] == 1
