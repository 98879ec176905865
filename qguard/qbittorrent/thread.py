"""A thread for blocking requests, which does not keep the process from ending while one of them hangs."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_Job = tuple[Future[Any], Callable[[], Any]]


class EndedError(Exception):
    """The thread does nothing any more."""


class WorkThread:
    """Does one thing after the other. Unlike a ThreadPoolExecutor's, its thread is not waited for at exit.

    Attributes:
        busy: whether something is being done.
    """

    def __init__(self, name: str) -> None:
        self.busy = False
        self._ended = False
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def do(self, work: Callable[[], T]) -> T:
        """Do `work` in the thread. When the caller is cancelled, work that has begun goes on unseen.

        Raises:
            EndedError: `end` was called before.
        """
        if self._ended:
            raise EndedError
        future: Future[T] = Future()
        self._jobs.put((future, work))
        return await asyncio.wrap_future(future)

    def end(self) -> None:
        """End the thread after what was asked for so far."""
        self._ended = True
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work = job
            if not future.set_running_or_notify_cancel():
                continue
            self.busy = True
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
                self.busy = False
                future.set_exception(error)
            else:
                self.busy = False
                future.set_result(result)
            del job, future, work  # an idle thread must not keep the last listing alive
