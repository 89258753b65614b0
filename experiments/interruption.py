"""Ctrl-C and SIGTERM, by which a scheduler ends a job: neither loses finished work."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The process was asked to end by a signal; its exit code is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Deferred:
    """A handler under which a step is finished first; a second signal ends it at once."""

    def __init__(self) -> None:
        self.asked = 0  # number of the signal that came

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Remember a first signal, and raise Interrupted at a second."""
        if self.asked:
            at_once(number)
        self.asked = number


def at_once(number: int, frame: FrameType | None = None) -> None:
    """A handler that raises Interrupted wherever the process is."""
    raise Interrupted(number)


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let a handler take SIGINT and SIGTERM, where this is the thread that can ask for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


@contextmanager
def exit_code() -> Iterator[None]:
    """Turn what ends a process by a signal into its exit code: 130 after Ctrl-C."""
    try:
        yield
    except Interrupted as error:  # the message has been printed where it was raised
        sys.exit(128 + error.number)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGINT)
