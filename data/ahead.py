"""Threads that read the batches of the next steps while the current one is used."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
from torch import Tensor

Read = Callable[[Tensor, Tensor], None]
"""read(positions, out): write the samples at positions int64 (B,) into out (B, *)."""

DEPTH = 2  # batches that are read ahead of the current one


class Ahead:
    """Reads the next DEPTH batches in advance; the threads divide each of them.

    A batch depends on its positions alone, not on the number of threads. The threads are daemons:
    they start with the first batch, and end with `close` or when this object is deleted. A forked
    process starts threads of its own.

    Args:
        read: writes samples into memory that it is given; called from several threads at once.
        workers: number of threads, ≥ 0; 0 reads in the caller's thread, and nothing in advance.

    Raises:
        ValueError: workers is not an integer ≥ 0.
    """

    def __init__(self, read: Read, workers: int) -> None:
        if type(workers) is not int or workers < 0:
            raise ValueError(
                f"workers must be an integer ≥ 0, got {workers!r}; 0 reads without threads"
            )
        self.workers = workers
        self._read = read
        self._jobs = deque[_Job]()
        self._next: tuple[Any, int] | None = None  # plan and step of the first job
        self._tasks: SimpleQueue[Callable[[], None] | None] | None = None
        self._process = 0
        self._stop: weakref.finalize[..., Ahead] | None = None

    def take(
        self, step: int, positions: Callable[[int], Tensor], shape: tuple[int, ...], plan: object
    ) -> Tensor:
        """Return the samples of a step, and start to read those of the next steps.

        Args:
            step: number of the batch. Only the next one has been read in advance.
            positions: function that gives the positions of a step's samples, int64 (B,).
            shape: shape of one sample.
            plan: everything except the step on which `positions` depends; batches that were read
                in advance for another plan are dropped.

        Returns:
            Samples, uint8 (B, *shape), in a tensor that nothing else refers to.

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
                for part in range(len(job.parts)):
                    tasks.put(partial(job.run, self._read, part))
            job = self._jobs[0]
            for done in job.parts:
                done.result()
        except BaseException:  # after an interruption, too, no job may be left half done
            self._forget()
            raise
        self._jobs.popleft()
        self._next = plan, step + 1
        return job.out

    def close(self) -> None:
        """End the threads; the next batch starts them again."""
        self._forget()
        if self._stop is not None and self._process == os.getpid():
            self._stop()
        self._stop = self._tasks = None

    def _start(self) -> SimpleQueue[Callable[[], None] | None]:
        """The queue of this process's threads, which are started if there are none."""
        if self._tasks is not None and self._process == os.getpid():
            return self._tasks
        if self._stop is not None:  # it would end the threads of the parent process
            self._stop.detach()
        self._jobs, self._next = deque(), None
        self._tasks, self._process = SimpleQueue(), os.getpid()
        for number in range(self.workers):
            name = f"reader {number}"
            Thread(target=_work, args=(self._tasks,), name=name, daemon=True).start()
        self._stop = weakref.finalize(self, _end, self._tasks, self.workers, self._jobs)
        return self._tasks

    def _forget(self) -> None:
        _cancel(self._jobs)
        self._jobs.clear()
        self._next = None


class _Job:
    """A batch that is being read: its positions, its memory, and whether its parts are done."""

    def __init__(self, positions: Tensor, shape: tuple[int, ...], parts: int) -> None:
        self.positions = positions
        self.out = torch.empty(len(positions), *shape, dtype=torch.uint8)
        self.parts = [Future[None]() for _ in range(min(parts, len(positions)))]

    def run(self, read: Read, part: int) -> None:
        """Read one of the parts, unless it has been cancelled."""
        done, size, count = self.parts[part], len(self.positions), len(self.parts)
        if not done.set_running_or_notify_cancel():
            return
        own = slice(part * size // count, (part + 1) * size // count)
        try:
            read(self.positions[own], self.out[own])
            done.set_result(None)
        except BaseException as error:  # it is raised in the thread that takes the batch
            done.set_exception(error)


def _work(tasks: SimpleQueue[Callable[[], None] | None]) -> None:
    """Run tasks until the queue gives None."""
    while (task := tasks.get()) is not None:
        task()
        del task  # the memory of its batch must be freed before the next task arrives


def _cancel(jobs: Iterable[_Job]) -> None:
    """Cancel all parts that no thread has begun."""
    for job in jobs:
        for part in job.parts:
            part.cancel()


def _end(tasks: SimpleQueue[Callable[[], None] | None], workers: int, jobs: Iterable[_Job]) -> None:
    """End the threads after their current tasks."""
    _cancel(jobs)
    for _ in range(workers):
        tasks.put(None)
