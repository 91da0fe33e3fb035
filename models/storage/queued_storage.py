"""The part of a server's storage that is the same on each database: one writer, and two readers beside it."""

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from models.storage import Operation, WriteCallback, operation_of, submit_and_wait
from models.storage.reader import Reader
from models.storage.write_queue import WriteQueue

Params = ParamSpec("Params")
Result = TypeVar("Result")


class QueuedStorage:
    """Hands writes to the writer's queue, and queries to a reader."""

    def __init__(self, writer: WriteQueue, quick_reader: Reader, slow_reader: Reader) -> None:
        """quick_reader, slow_reader: two, so that a slow listing does not delay the look-up of an origin."""
        self.writer = writer
        self._quick_reader, self._slow_reader = quick_reader, slow_reader

    def start(self) -> None:
        """Start the writer on the running loop."""
        self.writer.start()

    @property
    def waited_seconds(self) -> float:
        """As `Storage.waited_seconds`."""
        return self.writer.waited_seconds

    def submit(
        self,
        operation: Operation,
        item: object,
        callback: WriteCallback,
        *,
        linger: bool = False,
        alone: bool = False,
    ) -> None:
        """As `Submitter.submit`."""
        self.writer.submit(operation, item, callback, linger=linger, alone=alone)

    def after_commit(self, operation: Operation, callback: Callable[[], None]) -> None:
        """As `Submitter.after_commit`."""
        self.writer.after_commit(operation, callback)

    async def write(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """As `Storage.write`."""
        operation = operation_of(partial(function, *args, **kwargs))
        result: Result = await submit_and_wait(self.writer, operation, None)
        return result

    async def read(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """As `Storage.read`."""
        return await self._quick_reader.read(function, *args, **kwargs)

    async def read_slowly(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """As `Storage.read_slowly`."""
        return await self._slow_reader.read(function, *args, **kwargs)

    async def close(self) -> None:
        """Write what is queued, and close every connection."""
        await self._quick_reader.close()
        await self._slow_reader.close()
        await self.writer.close()
