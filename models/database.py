"""Which database the settings name: a PostgreSQL, or the SQLite file of the data folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from models.clock import Clock
from models.settings import Settings
from models.storage import BlockingStorage, DatabaseUnusable, ServerStorage
from models.storage.sqlite.connection import FILE_NAME
from models.storage.sqlite.folder import has_database
from models.storage.sqlite.storage import SqliteStorage
from models.storage.sqlite.storage import command_storage as sqlite_command_storage

if TYPE_CHECKING:
    from models.storage.postgres.inspect import PostgresInspection

NO_DRIVER = (
    "LEADS_DATABASE_URL needs the driver of PostgreSQL, which is not installed; "
    "run 'make postgresql', or install requirements-postgresql.txt"
)


def server_storage(settings: Settings, clock: Clock | None = None) -> ServerStorage:
    """Return the storage of a server. clock: in place of the database's. Raises DatabaseUnusable."""
    if not settings.database_url:
        return SqliteStorage(settings.data_dir, clock)
    try:
        from models.storage.postgres.storage import PostgresStorage
    except ImportError:
        raise DatabaseUnusable(NO_DRIVER) from None
    return PostgresStorage(settings.database_url, clock)


@contextmanager
def command_storage(settings: Settings) -> Iterator[BlockingStorage]:
    """Open the database for a command, beside servers or alone. A missing one is created.

    Raises DatabaseUnusable and StorageError.
    """
    if not settings.database_url:
        with sqlite_command_storage(settings.data_dir) as storage:
            yield storage
        return
    try:
        from models.storage.postgres.storage import command_storage as postgres_command_storage
    except ImportError:
        raise DatabaseUnusable(NO_DRIVER) from None
    with postgres_command_storage(settings.database_url) as storage:
        yield storage


@contextmanager
def inspected_postgresql(settings: Settings) -> Iterator["PostgresInspection"]:
    """Connect to the PostgreSQL of the settings to look at it alone.

    Raises DatabaseUnusable and StorageError.
    """
    try:
        from models.storage.postgres.inspect import inspected
    except ImportError:
        raise DatabaseUnusable(NO_DRIVER) from None
    with inspected(settings.database_url) as inspection:
        yield inspection


def missing_database(settings: Settings) -> str | None:
    """Return what is missing where a command expects a database; None if one may be there."""
    if settings.database_url or has_database(settings.data_dir):
        return None
    return f"there is no {FILE_NAME} in {settings.data_dir}"


def move_ids_on() -> None:
    """In the PostgreSQL that is open, give no id that the restored database may have given out later on."""
    from models.storage.postgres.restored import move_ids_on

    move_ids_on()
