"""The WAL: a failed checkpoint tells whether a retry is safe."""

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from models.storage import OutcomeUnknown, StorageError
from models.storage.sqlite.wal import Wal

pytestmark = pytest.mark.sqlite("PostgreSQL keeps its own log")


class FailingSync:
    """Connection whose checkpoints all fail with an I/O error, as if the fsync failed."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def wal_checkpoint(self, *args: Any, **options: Any) -> tuple[int, int]:
        if options.get("mode") != apsw.SQLITE_CHECKPOINT_NOOP:
            raise apsw.IOError("disk I/O error")
        return self._connection.wal_checkpoint(*args, **options)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "leads.db")


@pytest.fixture
def connection(file: str) -> Iterator[apsw.Connection]:
    with closing(apsw.Connection(file)) as connection:
        for statement in ("PRAGMA journal_mode = wal", "CREATE TABLE word (text)"):
            connection.execute(statement).fetchall()
        yield connection


def write(connection: apsw.Connection) -> None:
    connection.execute("INSERT INTO word VALUES (randomblob(10000))")


def test_failed_first_checkpoint_can_be_retried(connection: apsw.Connection) -> None:
    wal = Wal(connection)
    write(connection)
    wal._connection = FailingSync(connection)  # type: ignore[assignment]
    with pytest.raises(StorageError) as failure:
        wal.checkpoint()
    assert not isinstance(failure.value, OutcomeUnknown)


@pytest.mark.parametrize("by_command", [False, True])
def test_failure_after_a_partial_checkpoint_needs_a_restart(
    connection: apsw.Connection, file: str, by_command: bool
) -> None:
    wal = Wal(connection)
    with closing(apsw.Connection(file)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM word").get
        write(connection)
        if by_command:  # such as `customer erase`
            with closing(apsw.Connection(file)) as command, suppress(apsw.BusyError):
                command.execute("SELECT count(*) FROM word").get
                command.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        else:
            wal.checkpoint()
    wal._connection = FailingSync(connection)  # type: ignore[assignment]
    with pytest.raises(OutcomeUnknown):
        wal.checkpoint()
