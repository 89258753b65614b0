"""Files that a living process holds: the kernel lets go of them when the process ends, however.

To look for a process by its id and then to write is no claim: another may come in between, the id
may belong to a later process by now, or to one of another container. A lock of the kernel is taken
or it is not, and a file that a dead process left behind is free.
"""

import errno
import fcntl
import json
import os
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import IO, Any

Held = IO[bytes]
"""An open file that this process holds."""

# What file systems without locks answer.
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def take(path: Path, shared: bool = False) -> Held | None:
    """Hold a file, made if need be, until it is left, closed, or this process ends.

    Args:
        path: The file; its folder must exist.
        shared: Hold it together with others that share it, but with none that wants it alone.

    Returns:
        The open file, to which its holder may add; None if another process holds it.

    Raises:
        OSError: The file cannot be made, or the file system has no locks (`UNSUPPORTED`).
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    looks = 3
    while True:
        # Unbuffered: a record is written at once, and whole.
        file = open(path, "a+b", buffering=0)  # noqa: SIM115 (open for as long as it is held)
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink:  # else removed by its holder since it was opened
                return file
        except BlockingIOError:
            looks -= 1
            if not looks:
                file.close()
                return None
            time.sleep(0.01)  # it may have been `held`, which takes a file for a moment
        except OSError:
            file.close()
            raise
        file.close()


def create(path: Path) -> Held:
    """A new file to write, which this process holds where the file system has locks.

    Raises:
        OSError: The file exists, or cannot be made.
    """
    while True:
        file = open(path, "xb")  # noqa: SIM115 (open for as long as it is held)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            return file
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # removed by another process before it was held


def leave(file: Held, path: Path) -> None:
    """Let go of a file that `take` gave; the last that holds it removes it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        pass
    finally:
        file.close()


def held(path: Path) -> bool:
    """Whether a living process holds a file; on a file system without locks, whether one may."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def record() -> bytes:
    """One line that names this process: its id, its host, when it started, and the time now."""
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    line = {"pid": os.getpid(), "host": socket.gethostname()}
    return json.dumps(line | {"started": _started(os.getpid()), "since": now}).encode() + b"\n"


def holders(path: Path) -> list[str]:
    """The processes that have recorded themselves in a held file, without those that are gone."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    named = []
    for line in lines:
        try:
            one: dict[str, Any] = json.loads(line)
            pid, host, since = one["pid"], one["host"], one["since"]
            # An id may belong to a later process by now: it started at another time.
            if host != socket.gethostname() or _started(pid) == one["started"]:
                named.append(f"process {pid} on {host} since {since}")
        except (ValueError, KeyError, TypeError):  # cut off, or written by something else
            continue
    return named


def _started(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None if there is no such process."""
    try:
        # The name of the program, in parentheses, may hold spaces and parentheses of its own.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
