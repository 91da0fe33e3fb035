"""The storage of a running server on SQLite: one writer, readers beside it, one folder that it alone has."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from models.clock import Clock
from models.storage import (
    Operation,
    WriteCallback,
    operation_of,
    submit_and_wait,
)
from models.storage.reader import Reader
from models.storage.sqlite.connection import close_database, reading, transaction
from models.storage.sqlite.failures import storage_errors
from models.storage.sqlite.folder import open_database
from models.storage.sqlite.locks import command_lock, lock_holder, server_lock
from models.storage.sqlite.scrub import scrub
from models.storage.sqlite.storage_check import check_storage
from models.storage.sqlite.wal import recover_wal
from models.storage.sqlite.writer import Writer

Params = ParamSpec("Params")
Item = TypeVar("Item")
Result = TypeVar("Result")


class SqliteStorage:
    """`ServerStorage` on the SQLite file of one data folder."""

    is_shared = False

    def __init__(self, data_dir: Path, clock: Clock | None = None) -> None:
        """clock: in place of the machine's."""
        self._data_dir = data_dir
        self.clock = clock or Clock()
        self._lock = server_lock(data_dir)
        self.writer = Writer()
        # Two, so that a slow listing does not delay the look-up of an origin.
        self._quick_reader = Reader("reader", reading, close_database)
        self._slow_reader = Reader("slow reader", reading, close_database)

    def lock(self) -> None:
        """Take the folder for this server alone. Raises DatabaseUnusable if another server has it."""
        self._lock.acquire()

    def open(self) -> None:
        """Open the locked folder's database; make or upgrade it if need be. Raises DatabaseUnusable."""
        open_database(self._data_dir, locked=True)
        recover_wal()

    def reopen(self) -> None:
        """Do nothing: a folder is opened at the first attempt, or not at all."""

    def abandon(self) -> None:
        """Undo `lock` and `open`, after a start that failed."""
        close_database()
        self._lock.release()

    def start(self) -> None:
        """Start the writer on the running loop."""
        self.writer.start()

    @property
    def failed(self) -> asyncio.Event:
        """Set once only a new start can tell what is stored."""
        return self.writer.broken

    @property
    def waited_seconds(self) -> float:
        """How long the loop has waited for commits, in all."""
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
        """As `Storage.read`, for a query that may take long: a listing, a search, a report."""
        return await self._slow_reader.read(function, *args, **kwargs)

    async def check(self) -> None:
        """As `Storage.check`."""
        await self.write(check_storage, self.clock.now())

    async def close(self) -> None:
        """Write what is queued, close every connection, and release the folder."""
        await self._quick_reader.close()
        await self._slow_reader.close()
        await self.writer.close()
        self._lock.release()


class SqliteCommandStorage:
    """`BlockingStorage` on the database that this thread has open."""

    def __init__(self) -> None:
        self.has_written = False
        self.clock = Clock()

    def write(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """As `BlockingStorage.write`."""
        with transaction():
            result = function(*args, **kwargs)
        self.has_written = True
        return result

    def read(self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
        """As `BlockingStorage.read`."""
        with storage_errors():
            return function(*args, **kwargs)

    def read_each(
        self, function: Callable[Params, Iterator[Item]], *args: Params.args, **kwargs: Params.kwargs
    ) -> Iterator[Item]:
        """As `BlockingStorage.read_each`."""
        with storage_errors():
            yield from function(*args, **kwargs)

    def scrub(self) -> None:
        """As `BlockingStorage.scrub`."""
        scrub()


@contextmanager
def command_storage(data_dir: Path) -> Iterator[SqliteCommandStorage]:
    """Open the folder's database for a command, beside a server or alone. A missing one is created.

    Raises DatabaseUnusable.
    """
    with command_lock(data_dir):
        alone = lock_holder(data_dir) is None
        open_database(data_dir)
        try:
            yield SqliteCommandStorage()
        finally:
            # Beside a server only the server checkpoints.
            close_database(checkpoint=alone and lock_holder(data_dir) is None)
