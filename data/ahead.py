"""Threads that read the batches of the next steps while the present one is used."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any

import torch
from torch import Tensor

Read = Callable[[Tensor, Tensor], None]
"""read(positions, out): write the samples at positions int64 (B,) into out (B, *)."""

DEPTH = 2  # batches that are read ahead of the present one


class Ahead:
    """Reads batches ahead, as many as DEPTH, each shared out among the threads.

    What a batch holds depends on its positions alone, and so not on the number of threads. Threads
    are started by the first batch and are daemons; they end with `close`, or with this object. In
    a process that was forked they are started anew.

    Args:
        read: writes samples into memory that it is given; called from several threads at once.
        workers: number of threads, ≥ 0; 0 reads in the caller's thread, nothing ahead.

    Raises:
        ValueError: bad setting.
    """

    def __init__(self, read: Read, workers: int) -> None:
        if type(workers) is not int or workers < 0:
            raise ValueError(
                f"workers must be an integer ≥ 0, got {workers!r}; 0 reads without threads"
            )
        self.workers = workers
        self._read = read
        self._jobs = deque[_Job]()
        self._next: tuple[Any, int] | None = None  # what the first of the jobs is for
        self._tasks: SimpleQueue[Callable[[], None] | None] | None = None
        self._process = 0
        self._stop: weakref.finalize[..., Ahead] | None = None

    def take(
        self, step: int, positions: Callable[[int], Tensor], shape: tuple[int, ...], plan: object
    ) -> Tensor:
        """The samples of a step, and the start of reading those of the next ones.

        Args:
            step: number of the batch. Any but the one after the last begins anew.
            positions: of the samples of each step, int64 (B,).
            shape: of one sample.
            plan: what `positions` depends on besides the step; another one begins anew.

        Returns:
            Samples, uint8 (B, *shape), in memory of their own.

        Raises:
            ValueError: One of these samples cannot be read.
        """
        if self.workers == 0:
            job = _Job(positions(step), shape, 1)
            self._read(job.positions, job.out)
            return job.out
        tasks = self._start()
        if self._next != (plan, step):
            self._forget()
        try:
            for later in range(step + len(self._jobs), step + DEPTH + 1):
                job = _Job(positions(later), shape, self.workers)
                self._jobs.append(job)
                for part in range(job.parts):
                    tasks.put(_task(self._read, job, part))
            job = self._jobs[0]
            job.wait()
        except BaseException:  # an interruption, too, leaves nothing half done
            self._forget()
            raise
        self._jobs.popleft()
        self._next = plan, step + 1
        return job.out

    def close(self) -> None:
        """End the threads; a later batch starts them again."""
        self._forget()
        if self._stop is not None and self._process == os.getpid():
            self._stop()
        self._stop = self._tasks = None

    def _start(self) -> SimpleQueue[Callable[[], None] | None]:
        """The queue of running threads, of this process."""
        if self._tasks is not None and self._process == os.getpid():
            return self._tasks
        if self._stop is not None:  # of the process that this one was forked from
            self._stop.detach()
        self._jobs, self._next = deque(), None
        self._tasks, self._process = SimpleQueue(), os.getpid()
        for number in range(self.workers):
            name = f"reader {number}"
            Thread(target=_work, args=(self._tasks,), name=name, daemon=True).start()
        self._stop = weakref.finalize(self, _end, self._tasks, self.workers, self._jobs)
        return self._tasks

    def _forget(self) -> None:
        for job in self._jobs:
            job.wanted = False
        self._jobs.clear()
        self._next = None


class _Job:
    """A batch that is read: its positions, its memory, and what went wrong."""

    def __init__(self, positions: Tensor, shape: tuple[int, ...], parts: int) -> None:
        self.positions, self.parts = positions, min(parts, len(positions))
        self.out = torch.empty(len(positions), *shape, dtype=torch.uint8)
        self.wanted = True
        self.error: BaseException | None = None
        self._done = Semaphore(0)

    def run(self, read: Read, part: int) -> None:
        """Read one of the parts, unless it is no longer wanted."""
        try:
            if self.wanted and self.error is None:
                size = len(self.positions)
                own = slice(part * size // self.parts, (part + 1) * size // self.parts)
                read(self.positions[own], self.out[own])
        except BaseException as error:  # raised where the batch is taken
            self.error = error
        finally:
            self._done.release()

    def wait(self) -> None:
        """Wait until all parts are there.

        Raises:
            Exception: One of them could not be read.
        """
        for _ in range(self.parts):
            self._done.acquire()
        if self.error is not None:
            raise self.error


def _task(read: Read, job: _Job, part: int) -> Callable[[], None]:
    return lambda: job.run(read, part)


def _work(tasks: SimpleQueue[Callable[[], None] | None]) -> None:
    """What a thread does until it finds None."""
    while (task := tasks.get()) is not None:
        task()
        del task  # the memory of a batch must not live until the next task


def _end(tasks: SimpleQueue[Callable[[], None] | None], workers: int, jobs: Iterable[_Job]) -> None:
    """Let the threads end after what they are at."""
    for job in jobs:
        job.wanted = False
    for _ in range(workers):
        tasks.put(None)
