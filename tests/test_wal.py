"""What the journal promises: of a move that fails it is known whether it can be made again."""

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from models.storage import OutcomeUnknown, StorageError
from models.storage.sqlite.wal import Wal


class FailingSync:
    """A connection to a disk that fails the fsync of each move."""

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


def test_a_move_of_which_nothing_was_made_before_can_be_made_again(connection: apsw.Connection) -> None:
    journal = Wal(connection)
    write(connection)
    journal._connection = FailingSync(connection)  # type: ignore[assignment]
    with pytest.raises(StorageError) as failure:
        journal.checkpoint()
    assert not isinstance(failure.value, OutcomeUnknown)


@pytest.mark.parametrize("by_another", [False, True])
def test_after_a_part_of_it_was_moved_a_failure_is_for_the_next_start(
    connection: apsw.Connection, file: str, by_another: bool
) -> None:
    journal = Wal(connection)
    with closing(apsw.Connection(file)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM word").get
        write(connection)
        if by_another:  # such as `customer erase`
            with closing(apsw.Connection(file)) as command, suppress(apsw.BusyError):
                command.execute("SELECT count(*) FROM word").get
                command.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        else:
            journal.checkpoint()
    journal._connection = FailingSync(connection)  # type: ignore[assignment]
    with pytest.raises(OutcomeUnknown):
        journal.checkpoint()
