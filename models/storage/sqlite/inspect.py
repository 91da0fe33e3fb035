"""One inspection of a database file: is it there, ours, whole, and of a schema that this program knows?

Opening, backups and the doctor each render what it finds. It makes and changes nothing, not even a WAL beside
a database that no process has open.
"""

import enum
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import apsw

from models.storage import DatabaseUnusable, StorageError
from models.storage.sqlite.connection import APPLICATION_ID, BUSY_TIMEOUT_SECONDS, FILE_NAME, wal_file
from models.storage.sqlite.failures import is_corruption, storage_reason
from models.storage.sqlite.migrations.steps import NEWEST

Answer = TypeVar("Answer")

RESTORING = FILE_NAME + ".restoring"  # while it is there, a restore was begun and not finished

QUICK_CHECK, INTEGRITY_CHECK, FOREIGN_KEY_CHECK = "quick_check", "integrity_check", "foreign_key_check"


class Problem(enum.Enum):
    """Why a database file can't be used."""

    HALF_RESTORED = enum.auto()  # a restore into its folder was begun and not finished
    NOT_A_FOLDER = enum.auto()  # the data folder is a file
    ORPHAN_WAL = enum.auto()  # the WAL is there, and the file is not
    NO_ACCESS = enum.auto()  # the file can't be read and written
    FOREIGN = enum.auto()  # another program's database
    NEWER = enum.auto()  # of a schema that this program doesn't know
    CORRUPT = enum.auto()  # `detail` says what SQLite found
    BROKEN_REFERENCES = enum.auto()  # rows belong to rows that are not there
    UNREADABLE = enum.auto()  # `detail` says why


@dataclass(frozen=True, slots=True)
class Inspection:
    """What an inspection found. schema: 0 of an empty file; None if there is none, or it can't be told.

    creation_interrupted: the first command on it was cut off, and the next one undoes that.
    """

    path: Path
    problem: Problem | None = None
    detail: str = ""
    schema: int | None = None
    creation_interrupted: bool = False


class ReadOnlyDatabase:
    """A database file that is only looked at. Its schema may be older or newer than the program's."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    @property
    def schema(self) -> int | None:
        """The schema's version: 0 if the file is empty, None if it is another program's."""
        application_id = self._connection.pragma("application_id")
        if application_id == APPLICATION_ID:
            return int(self._connection.pragma("user_version"))
        empty = application_id == 0 and self.value("SELECT count(*) FROM sqlite_schema") == 0
        return 0 if empty else None

    @property
    def has_known_schema(self) -> bool:
        """True if the tables that this program knows are there."""
        return 0 < (self.schema or 0) <= NEWEST

    def has_schema(self, first: int) -> bool:
        """Return True if the schema is a known one, and at least this one."""
        return self.has_known_schema and (self.schema or 0) >= first

    def value(self, statement: str, *values: object) -> Any:
        """Return the first row of a query: its value, or all of its values if it has several."""
        return self._connection.execute(statement, values).get

    def rows(self, statement: str, *values: object) -> Iterator[dict[str, Any]]:
        """Yield the rows of a query by the names of their columns."""
        cursor = self._connection.execute(statement, values)
        for row in cursor:
            names = [column[0] for column in cursor.get_description()]
            yield dict(zip(names, row, strict=True))


Question = Callable[[ReadOnlyDatabase], Answer]
Ask = Callable[[Path, Question[Any]], Any]


def inspect(
    path: Path, checks: Sequence[str], ask: "Ask | None" = None, *, any_schema: bool = False
) -> Inspection:
    """Inspect the database file of a data folder with these of SQLite's checks.

    ask: how the file is opened; `ask_at_rest_or_in_use` if it is not given. any_schema: a newer one is no
    problem. Raises OSError.
    """
    folder = path.parent
    if path.with_name(RESTORING).exists():
        return Inspection(path, Problem.HALF_RESTORED)
    if folder.exists() and not folder.is_dir():
        return Inspection(path, Problem.NOT_A_FOLDER)
    if not path.exists():
        return Inspection(path, Problem.ORPHAN_WAL if wal_file(path).exists() else None)
    if not (path.is_file() and os.access(path, os.R_OK | os.W_OK) and os.access(folder, os.W_OK | os.X_OK)):
        return Inspection(path, Problem.NO_ACCESS)
    return inspect_file(path, checks, ask or ask_at_rest_or_in_use, any_schema=any_schema)


def inspect_file(path: Path, checks: Sequence[str], ask: Ask, *, any_schema: bool = False) -> Inspection:
    """Inspect a file by itself, wherever it lies, with these of SQLite's checks."""
    interrupted = creation_was_interrupted(path)
    try:
        schema, problem, detail = ask(path, lambda database: _look_inside(database, checks, any_schema))
    except StorageError as error:
        if is_corruption(error):
            return Inspection(path, Problem.CORRUPT, str(error), creation_interrupted=interrupted)
        return Inspection(path, Problem.UNREADABLE, str(error), creation_interrupted=interrupted)
    return Inspection(path, problem, detail, schema, interrupted)


def _look_inside(
    database: ReadOnlyDatabase, checks: Sequence[str], any_schema: bool
) -> tuple[int | None, Problem | None, str]:
    schema = database.schema
    if schema is None:
        return None, Problem.FOREIGN, ""
    if schema > NEWEST and not any_schema:
        return schema, Problem.NEWER, ""
    for check in checks:
        if check == FOREIGN_KEY_CHECK:
            if database.value("PRAGMA foreign_key_check"):
                return schema, Problem.BROKEN_REFERENCES, ""
        elif (verdict := database.value(f"PRAGMA {check}(1)")) != "ok":
            return schema, Problem.CORRUPT, " ".join(str(verdict).split())
    return schema, None, ""


def creation_was_interrupted(path: Path) -> bool:
    """Return True if SQLite has to undo the first command on the file before it can be read."""
    return path.with_name(path.name + "-journal").exists()


def half_restored(data_dir: Path) -> DatabaseUnusable:
    """Return the error for a folder in which a restore was begun and not finished."""
    return DatabaseUnusable(
        f"a restore into {data_dir} was begun and not finished; run 'backup restore' again"
    )


def refuse_half_restored(data_dir: Path) -> None:
    """Raise DatabaseUnusable if a restore into this folder was begun and not finished."""
    if (data_dir / RESTORING).exists():
        raise half_restored(data_dir)


def newer(path: Path, schema: int) -> DatabaseUnusable:
    """Return the error for a schema that this program is too old for."""
    return DatabaseUnusable(
        f"{path} has schema {schema}, newer than this program's {NEWEST}; "
        "run the newer version of this program"
    )


# Five ways to query a file. Each raises StorageError. Only `ask_to_recover` may write to it.


def ask_at_rest_or_in_use(path: Path, question: Question[Answer]) -> Answer:
    """Return the answer to a question about a database that a server may have open."""
    # An ordinary connection leaves a WAL beside a database at rest. An immutable one leaves nothing, but no
    # other process may write meanwhile: if one did, the question is asked again, as of a database in use.
    at_rest = _at_rest(path)
    if at_rest is not None:
        try:
            answer = ask_immutable(path, question)
            if _at_rest(path) == at_rest:
                return answer
        except StorageError:
            if _at_rest(path) == at_rest:
                raise
    return ask_in_use(path, question)


def ask_in_use(path: Path, question: Question[Answer]) -> Answer:
    """Return the answer to a question about a database that a server has open."""
    return _ask(path, question, apsw.SQLITE_OPEN_READONLY)


def ask_immutable(path: Path, question: Question[Answer]) -> Answer:
    """Return the answer to a question about a file that no process writes to, such as a backup."""
    return _ask(path, question, apsw.SQLITE_OPEN_READONLY, immutable=True)


def ask_before_opening(path: Path, question: Question[Answer]) -> Answer:
    """Return the answer to a question about a database that is about to be opened for writing."""
    # Through a connection that can't write: what is refused stays as it was, to the byte. Unless its creation
    # was interrupted: then SQLite has to undo what was begun, or it can't read the file.
    return (ask_to_recover if creation_was_interrupted(path) else ask_in_use)(path, question)


def ask_to_recover(path: Path, question: Question[Answer]) -> Answer:
    """Return the answer to a question about a database that SQLite may first have to recover."""
    return _ask(path, question, apsw.SQLITE_OPEN_READWRITE)


def _ask(path: Path, question: Question[Answer], flags: int, *, immutable: bool = False) -> Answer:
    try:
        with closing(open_file(path, flags, immutable=immutable)) as connection:
            return question(ReadOnlyDatabase(connection))
    except apsw.Error as error:
        raise StorageError(storage_reason(error)) from error


def open_file(path: Path, flags: int, *, immutable: bool = False) -> apsw.Connection:
    """Return a connection of its own to this file, which sets no pragma. Raises apsw.Error.

    immutable: no process writes to the file, so SQLite makes and locks nothing beside it, and it may lie on a
    read-only disk.
    """
    uri = f"file:{quote(str(path.absolute()))}" + ("?immutable=1" if immutable else "")
    connection = apsw.Connection(uri, flags=flags | apsw.SQLITE_OPEN_URI)
    connection.set_busy_timeout(int(1000 * BUSY_TIMEOUT_SECONDS))
    return connection


def _at_rest(path: Path) -> tuple[int, ...] | None:
    """Return what a write to the file would change; None if a process has it open, or a crash left a WAL."""
    if wal_file(path).exists():
        return None
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
