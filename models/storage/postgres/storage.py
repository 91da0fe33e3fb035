"""The storage of a running server on PostgreSQL, which other servers may share."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

from models.clock import Clock
from models.storage import Operation, StorageError, WriteCallback, operation_of, submit_and_wait
from models.storage.postgres.connection import (
    close_database,
    database,
    storage_errors,
    usable_connection,
    use_database,
)
from models.storage.postgres.migrations.migrate import check_rights, migrate
from models.storage.postgres.reader import PostgresReader
from models.storage.postgres.transaction import transact
from models.storage.postgres.writer import PostgresWriter
from models.storage.storage_check import write_check

Params = ParamSpec("Params")
Item = TypeVar("Item")
Result = TypeVar("Result")

QUICK_SECONDS, SLOW_SECONDS = 10.0, 120.0  # that a query may take
DISK_FULL_SECONDS = 5.0  # how long a write that found no room counts
SERVER_NAME = "leads server"  # of a server's connections, as PostgreSQL lists them


class PostgresStorage:
    """`ServerStorage` on a PostgreSQL database."""

    is_shared = True

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        """clock: in place of the database's."""
        self._url = url
        self.clock = clock or database.clock
        self.failed = asyncio.Event()  # never set: the writer finds out the outcome of a commit by itself
        self.writer = PostgresWriter()
        # Two, so that a slow listing does not delay the look-up of an origin.
        self._quick_reader = PostgresReader("reader", QUICK_SECONDS)
        self._slow_reader = PostgresReader("slow reader", SLOW_SECONDS)

    def lock(self) -> None:
        """Do nothing: several servers may use the database."""

    def open(self) -> None:
        """Connect, and make or upgrade the tables if need be.

        Raises DatabaseUnusable, and StorageError if the server can't be reached now.
        """
        use_database(self._url, SERVER_NAME)
        self.reopen()

    def reopen(self) -> None:
        """As `open`, for another attempt, in any thread."""
        try:
            migrate(usable_connection())
        finally:
            close_database()

    def abandon(self) -> None:
        """Undo `lock` and `open`, after a start that failed."""
        close_database()

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

    async def check(self) -> None:
        """As `Storage.check`."""
        await self.write(write_check, self.clock.now())
        await self.read(_check_rights)  # apart, as leads may share the batch of the write
        # So little may still fit where a lead doesn't.
        if time.monotonic() - self.writer.disk_full_at < DISK_FULL_SECONDS:
            raise StorageError("the disk of PostgreSQL was full a moment ago")

    async def close(self) -> None:
        """Write what is queued, and close every connection."""
        await self._quick_reader.close()
        await self._slow_reader.close()
        await self.writer.close()


def _check_rights() -> None:
    check_rights(database.own_connection())


class PostgresCommandStorage:
    """`BlockingStorage` on this thread's connection."""

    def __init__(self) -> None:
        self.has_written = False
        self.clock: Clock = database.clock

    def write(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """As `BlockingStorage.write`."""
        result = transact(partial(function, *args, **kwargs))
        self.has_written = True
        return result

    def read(self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
        """As `BlockingStorage.read`."""
        with storage_errors():
            usable_connection()
            return function(*args, **kwargs)

    def read_each(
        self, function: Callable[Params, Iterator[Item]], *args: Params.args, **kwargs: Params.kwargs
    ) -> Iterator[Item]:
        """As `BlockingStorage.read_each`."""
        with storage_errors():
            usable_connection()
            yield from function(*args, **kwargs)

    def scrub(self) -> None:
        """As `BlockingStorage.scrub`. Space that a row had is free, and is overwritten as rows come.

        Leads are taken meanwhile. VACUUM FULL would overwrite all of it, but locks each table for minutes.
        """
        with storage_errors():
            usable_connection().execute("VACUUM")


@contextmanager
def command_storage(url: str) -> Iterator[PostgresCommandStorage]:
    """Open the database for a command, beside servers or alone. Missing tables are created.

    Raises DatabaseUnusable and StorageError.
    """
    use_database(url, "leads command")
    try:
        migrate(usable_connection())
        yield PostgresCommandStorage()
    finally:
        close_database()
