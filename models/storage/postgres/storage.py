"""The storage of a running server on PostgreSQL, which other servers may share."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

from models.clock import Clock
from models.storage import StorageError
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
from models.storage.queued_storage import QueuedStorage
from models.storage.storage_check import write_and_delete_check

Params = ParamSpec("Params")
Item = TypeVar("Item")
Result = TypeVar("Result")

QUICK_SECONDS, SLOW_SECONDS = 10.0, 120.0  # that a query may take
DISK_FULL_SECONDS = 5.0  # how long a write that found no room counts
SERVER_NAME = "leads server"  # as PostgreSQL lists its connections; a word that is each server's own follows


class PostgresStorage(QueuedStorage):
    """`ServerStorage` on a PostgreSQL database."""

    is_shared = True
    writer: PostgresWriter
    _quick_reader: PostgresReader

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        """clock: in place of the database's."""
        super().__init__(
            PostgresWriter(),
            PostgresReader("reader", QUICK_SECONDS),
            PostgresReader("slow reader", SLOW_SECONDS),
        )
        self._url = url
        self.clock = clock or database.clock
        self.failed = asyncio.Event()  # never set: the writer finds out the outcome of a commit by itself

    def lock(self) -> None:
        """Do nothing: several servers may use the database."""

    def open(self) -> None:
        """Take the database of the URL for this process's; nothing is connected yet."""
        use_database(self._url, f"{SERVER_NAME} {secrets.token_hex(3)}")

    def upgrade(self) -> None:
        """As `ServerStorage.upgrade`."""
        try:
            migrate(usable_connection())
        finally:
            close_database()

    def abandon(self) -> None:
        """Undo `lock` and `open`, after a start that failed."""
        close_database()

    async def check(self) -> None:
        """As `Storage.check`."""
        await self.write(write_and_delete_check, secrets.randbelow(2**31), self.clock.now())
        await self.read(_check_rights)  # apart, as leads may share the batch of the write
        # So little may still fit where a lead doesn't.
        if time.monotonic() - self.writer.disk_full_at < DISK_FULL_SECONDS:
            raise StorageError("the disk of PostgreSQL was full a moment ago")


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
