"""The claim on the folder of a run, held from before the first write until the end."""

import itertools
import time
from contextlib import suppress
from pathlib import Path

from scoresde.training import lock

LOCK = ".lock"
# Temporary files that a killed process leaves behind.
STRAYS = (
    *(".result.*.tmp", ".config.*.tmp", ".metrics.*.tmp", ".samples.*.tmp"),
    *(".likelihood.*.tmp", ".*.part"),
    *("checkpoints/.step_*.tmp", "likelihood/.*.tmp", "ood_data/.*.tmp"),
)


class Claim:
    """A folder that this process holds, so that other processes are refused, with its name.

    Args:
        folder: The folder, made if need be.
        shared: Hold it together with others that share it, as the shards of a likelihood do.

    Raises:
        ValueError: Another process holds the folder.
        OSError: The folder cannot be made, or not written.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self.folder, self.shared = folder, shared
        self._held = dict[Path, lock.Held]()
        try:
            self._held[folder / LOCK] = _take(folder, shared)
        except OSError as error:
            if error.errno not in lock.UNSUPPORTED:
                raise
            print(
                f"warning: the file system of {folder} has no locks, so that nothing keeps a "
                "second run out of it; start only one there",
                flush=True,
            )

    def tidy(self) -> None:
        """Remove the unfinished files of processes that are gone; none where others share it."""
        if self.shared:
            return
        for stray in itertools.chain.from_iterable(map(self.folder.glob, STRAYS)):
            if not lock.held(stray):
                stray.unlink(missing_ok=True)

    def alone(self, name: str) -> bool:
        """Whether this process, among those that share the folder, is to do a piece of work.

        A file of the given name in the folder stands for it.
        """
        path = self.folder / name
        try:
            file = lock.take(path)
        except OSError as error:
            if error.errno not in lock.UNSUPPORTED:
                raise
            return True
        if file is not None:
            self._held[path] = file
        return file is not None

    def release(self) -> None:
        """Release the folder, and remove it if it is empty."""
        while self._held:
            path, file = self._held.popitem()
            lock.leave(file, path)
        with suppress(OSError):
            self.folder.rmdir()


def claim_new(folder: Path) -> Claim:
    """Claim the folder, or the first of FOLDER_1, FOLDER_2, … that is neither held nor used.

    Names by the time are equal for what starts in one second.

    Raises:
        OSError: No folder can be made.
    """
    for number in itertools.count():
        name = f"{folder.name}_{number}" if number else folder.name
        try:
            claim = Claim(folder.with_name(name))
        except ValueError:  # held
            continue
        if all(path.name == LOCK for path in claim.folder.iterdir()):
            return claim
        claim.release()
    raise AssertionError("there is a number without a folder")


def check_free(folder: Path) -> None:
    """Raise ValueError if a living process holds a folder, naming the process."""
    if lock.held(folder / LOCK):
        raise ValueError(_held_by(folder, "stop it, or start anew without resume"))


def _take(folder: Path, shared: bool) -> lock.Held:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = lock.take(folder / LOCK, shared)
        except FileNotFoundError:  # a run that was refused has just removed its empty folder
            continue
        if file is None:
            fix = "stop it, or use another folder (hydra.run.dir=…)"
            raise ValueError(_held_by(folder, fix))
        if not shared:  # the records of those that died are no longer needed
            file.truncate(0)
        file.write(lock.record())
        return file


def _held_by(folder: Path, fix: str) -> str:
    for _ in range(20):  # who has just taken the folder records itself in a moment
        if named := lock.holders(folder / LOCK):
            break
        time.sleep(0.01)
    holders = ", ".join(named) or "another process"
    return f"{folder} is in use by {holders}; wait until it has ended, {fix}"
