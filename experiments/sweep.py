"""Callbacks of Hydra around a sweep: a claim on its folder, and a list of its failed jobs."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from .claim import Claim, claim_new
from .command_line import fail
from .quoting import quoted

FAILURES = "failures.jsonl"


def claim_for(section: Any, folder: Path) -> Claim:
    """Claim a folder of `hydra.run` or `hydra.sweep`, or one next to it if the time names it.

    Raises:
        ValueError: Another process holds the folder, and its name was chosen by the user.
        OSError: No folder can be made.
    """
    named: Any = OmegaConf.to_container(section, resolve=False)
    return claim_new(folder) if "${now:" in str(named["dir"]) else Claim(folder)


def note(folder: Path, number: int, overrides: list[str], sentence: str, code: int) -> None:
    """Add a failed job to the sweep's list; jobs may do so at the same time."""
    entry = {"job": number, "overrides": overrides, "error": sentence, "code": code}
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    file = os.open(folder / FAILURES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(file, line.encode())  # at once, so that no two lines mix
    finally:
        os.close(file)


class Sweep(Callback):
    """Callbacks before the first job of a sweep, after the last, and before a single run.

    Hydra turns what these raise into warnings, so that they leave the process themselves.
    """

    _claim: Claim | None = None

    def __getstate__(self) -> dict[str, Any]:
        """No state: jobs in other processes do not share the claim on the sweep's folder."""
        return {}

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a folder that cannot be made, as Hydra is about to."""
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)  # the folder may be named by the choices
        try:
            folder = Path(config.hydra.run.dir)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail(f"hydra.run.dir cannot be made: {error}")
        finally:
            HydraConfig.instance().cfg = before

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the sweep's folder, or refuse one that another process holds."""
        folder = Path(config.hydra.sweep.dir)
        try:
            self._claim = claim_for(config.hydra.sweep, folder)
        except (ValueError, OSError) as error:
            fail(str(error).replace("hydra.run.dir", "hydra.sweep.dir"))
        if self._claim.folder != folder:
            with read_write(config), open_dict(config):
                config.hydra.sweep.dir = str(self._claim.folder)
                # Each job composes its own configuration.
                own = f"hydra.sweep.dir={quoted(str(self._claim.folder))}"
                config.hydra.overrides.hydra.append(own)
        (self._claim.folder / FAILURES).unlink(missing_ok=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """List the jobs that failed, each with its sentence, and leave with exit code 1."""
        assert self._claim is not None
        self._claim.release()
        try:
            lines = (self._claim.folder / FAILURES).read_text().splitlines()
        except FileNotFoundError:
            return
        failed = sorted((json.loads(line) for line in lines), key=lambda one: one["job"])
        print(f"\nerror: {len(failed)} of the sweep's jobs failed:", file=sys.stderr)
        for one in failed:
            asked = " ".join(one["overrides"])
            print(f"  job {one['job']} ({asked}): {one['error']}", file=sys.stderr)
        sys.stderr.flush()
        sys.exit(1)
