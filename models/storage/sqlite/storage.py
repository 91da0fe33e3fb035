"""The storage of a running server on SQLite: one writer, readers beside it, one folder that it alone has."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from models.clock import Clock
from models.storage.queued_storage import QueuedStorage
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


class SqliteStorage(QueuedStorage):
    """`ServerStorage` on the SQLite file of one data folder."""

    is_shared = False

    def __init__(self, data_dir: Path, clock: Clock | None = None) -> None:
        """clock: in place of the machine's."""
        writer = Writer()
        super().__init__(
            writer,
            Reader("reader", reading, close_database),
            Reader("slow reader", reading, close_database),
        )
        self._data_dir = data_dir
        self.clock = clock or Clock()
        self.failed = writer.broken
        self._lock = server_lock(data_dir)

    def lock(self) -> None:
        """Take the folder for this server alone. Raises DatabaseUnusable if another server has it."""
        self._lock.acquire()

    def open(self) -> None:
        """Open the locked folder's database; make or upgrade it if need be. Raises DatabaseUnusable."""
        open_database(self._data_dir, locked=True)
        recover_wal()

    def upgrade(self) -> None:
        """Do nothing: `open` did."""

    def abandon(self) -> None:
        """Undo `lock` and `open`, after a start that failed."""
        close_database()
        self._lock.release()

    async def check(self) -> None:
        """As `Storage.check`."""
        await self.write(check_storage, self.clock.now())

    async def close(self) -> None:
        """Write what is queued, close every connection, and release the folder."""
        await super().close()
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
