"""The writer's thread: whatever may block, one task after the other."""

import asyncio
import queue
import threading
from collections.abc import Callable

ThreadCallback = Callable[[Exception | None], None]


class WriterThread:
    """A thread that runs tasks in the order in which they were given to it."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[Callable[[], object], ThreadCallback] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run_tasks, name="writer", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    @property
    def id(self) -> int:
        """The id of the thread, which runs."""
        assert self._thread.ident is not None
        return self._thread.ident

    def run(self, task: Callable[[], object], callback: ThreadCallback) -> None:
        """Run this task, then call back on the loop with the error that it raised, or None."""
        self._tasks.put((task, callback))

    async def stop(self) -> None:
        """End the thread, once its tasks are done."""
        self._tasks.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run_tasks(self) -> None:
        while (entry := self._tasks.get()) is not None:
            task, callback = entry
            error: Exception | None = None
            try:
                task()
            except Exception as raised:
                error = raised
            self._loop.call_soon_threadsafe(callback, error)
