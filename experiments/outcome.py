"""How a run ends: in a folder of its own, and for each error with one sentence and an exit code.

Exit codes: 0 when all was done; 2 for refused input; 1 for a failure after everything was built,
and for a sweep with failed jobs; 130 after Ctrl-C, 143 after SIGTERM. SCORE_SDE_TRACEBACK=1 shows
where an error came from.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, read_write
from omegaconf.errors import OmegaConfBaseException

from scoresde.training import checkpoint

from . import sweep
from .claim import Claim
from .interruption import Interrupted, at_once, handled
from .wording import as_typed

# Errors of wrong input, raised while a run is built.
REFUSED = (
    *(ValueError, TypeError, OSError, ImportError),
    *(InstantiationException, OmegaConfBaseException),
)
# Errors whose text is a sentence that needs no class name in front of it.
SENTENCES = (*REFUSED, ArithmeticError, RuntimeError)
LONGEST = 600  # characters of a message; some of torch's have whole listings
OUT_OF_MEMORY = "use a smaller train.batch_size or evaluate.batch_size, or a smaller model"


class Job:
    """One run and its folder.

    Attributes:
        ready: Whether everything is built, so that errors are failures rather than refusals.
        ending: What is called at the end in every case; the claim is released last.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim, self.folder, self.ready = claim, claim.folder, False
        self.ending = ExitStack()
        self.ending.callback(claim.release)

    def built(self) -> None:
        """Say that everything is built and nothing refused."""
        self.ready = True
        self.claim.tidy()


def conclude(cfg: DictConfig, body: Callable[[DictConfig, Job], None]) -> None:
    """Do a run in a folder of its own, and end the process after an error as the module says.

    A job of a sweep never ends the process: its failure is noted, and the others go on.

    Raises:
        Interrupted: A signal ended it, which has been said.
    """
    job = None
    try:
        with handled(at_once):
            job = Job(_claim(cfg))
            body(cfg, job)
    except Exception as error:
        ready = job is not None and job.ready
        _end(job, sentence(error, cfg), 2 if isinstance(error, REFUSED) and not ready else 1)
    except KeyboardInterrupt as error:
        if job is not None:
            job.ending.close()
        _say(f"interrupted; {_kept(job)}")
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        raise Interrupted(number) from error
    finally:
        if job is not None:
            job.ending.close()


def sentence(error: BaseException, cfg: DictConfig | None = None) -> str:
    """What an error says, in one line, in the words of the command line and the keys of a run."""
    if os.environ.get("SCORE_SDE_TRACEBACK"):
        traceback.print_exception(error)
    text = _line(as_typed(error, cfg))
    cause = error.__cause__ if isinstance(error, InstantiationException) else None
    error = cause or error  # Hydra wraps what a constructor raised
    name = type(error).__name__
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or "t allocate memory" in text:
        return f"out of memory: {text or 'nothing more can be allocated'}; {OUT_OF_MEMORY}"
    if not isinstance(error, SENTENCES) or isinstance(error, UnicodeError) or not text:
        return f"{name}: {text} (SCORE_SDE_TRACEBACK=1 shows where)"
    return text


def _claim(cfg: DictConfig) -> Claim:
    """The folder that Hydra made, or one next to it if it is named by the time and used."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if cfg.task.get("shards", 1) != 1:
        return Claim(folder, shared=True)
    if hydra.mode != RunMode.RUN:
        return Claim(folder)
    claim = sweep.claim_for(hydra.run, folder)
    runtime: Any = hydra.runtime
    with read_write(runtime):
        runtime.output_dir = str(claim.folder)
    return claim


def _end(job: Job | None, said: str, code: int) -> None:
    """Leave a single run with its exit code; note the failure of a job of a sweep."""
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.RUN:
        _say(said if code == 2 else f"{said} ({_kept(job)})")
        sys.exit(code)
    number = int(hydra.job.num)
    _say(f"job {number} failed: {said}")
    sweep.note(Path(hydra.sweep.dir), number, list(hydra.overrides.task), said, code)


def _kept(job: Job | None) -> str:
    """The files that an interrupted run leaves."""
    if job is None or not job.folder.exists():
        return "nothing was written"
    kept = f"what was done is in {job.folder}"
    if checkpoint.available(job.folder / "checkpoints"):
        kept += ", and resume=auto goes on from its checkpoint"
    return kept


def _say(text: str) -> None:
    print(f"error: {text}", file=sys.stderr, flush=True)


def _line(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
