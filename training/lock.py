"""Files that a running process holds by a lock of the kernel, released when the process ends.

Process ids in a file would not exclude other processes: one could write between the check and the
claim, and an id may by now belong to a later process or to one in another container.
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

# Errors of file systems without locks.
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def take(path: Path, shared: bool = False) -> Held | None:
    """Hold a file, created if it does not exist, until `leave`, its closing, or the process's end.

    Args:
        path: The file; its folder must exist.
        shared: Allow other processes to hold it if they share it, too.

    Returns:
        The open file, to which its holder may append; None if another process holds it.

    Raises:
        OSError: The file cannot be created, or the file system has no locks (`UNSUPPORTED`).
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    looks = 3
    while True:
        # Unbuffered, so that a record is written at once and as a whole.
        file = open(path, "a+b", buffering=0)  # noqa: SIM115 (stays open while it is held)
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink:  # its holder has not removed it meanwhile
                return file
        except BlockingIOError:
            looks -= 1
            if not looks:
                file.close()
                return None
            time.sleep(0.01)  # `held` locks a file for a moment
        except OSError:
            file.close()
            raise
        file.close()


def create(path: Path) -> Held:
    """Create a file to write, and hold it if the file system has locks.

    Raises:
        OSError: The file exists, or cannot be created.
    """
    while True:
        file = open(path, "xb")  # noqa: SIM115 (stays open while it is held)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            return file
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # another process removed it before it was locked


def leave(file: Held, path: Path) -> None:
    """Release a file that `take` returned; its last holder removes it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        pass
    finally:
        file.close()


def held(path: Path) -> bool:
    """Whether a running process holds a file; on a file system without locks it may."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def record() -> bytes:
    """One line that identifies this process: its id, host and start, and the current time."""
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    line = {"pid": os.getpid(), "host": socket.gethostname()}
    return json.dumps(line | {"started": _started(os.getpid()), "since": now}).encode() + b"\n"


def holders(path: Path) -> list[str]:
    """The running processes that have recorded themselves in a file."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    named = []
    for line in lines:
        try:
            one: dict[str, Any] = json.loads(line)
            pid, host, since = one["pid"], one["host"], one["since"]
            # The id may by now belong to a later process, which has another start.
            if host != socket.gethostname() or _started(pid) == one["started"]:
                named.append(f"process {pid} on {host} since {since}")
        except (ValueError, KeyError, TypeError):  # incomplete, or written by another program
            continue
    return named


def _started(pid: int) -> int | None:
    """Start of a process in ticks since that of the machine; None if there is no such process."""
    try:
        # The program's name, in parentheses, may itself contain spaces and parentheses.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
