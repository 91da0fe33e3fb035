"""Connections to PostgreSQL, each checked when it is made."""

import os
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from peewee import PostgresqlDatabase
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PGconn
from psycopg.types.numeric import Int8Dumper

from models.storage import DatabaseUnusable, StorageError, rows
from models.storage.postgres.clock import DatabaseClock
from models.storage.postgres.failures import is_storage_failure, storage_reason
from models.storage.postgres.refusals import SETTING, advice, unusable

OLDEST_VERSION = 14

# What the connection takes unless the URL says otherwise. A cut cable is noticed within six seconds.
DEFAULTS: dict[str, str | int | None] = {
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 6_000,
}
# The same, unless libpq's variable or a service says otherwise.
DEFAULTS_WITH_VARIABLE: dict[str, tuple[str, str | int]] = {
    "connect_timeout": ("PGCONNECT_TIMEOUT", 4),  # for each host
    "target_session_attrs": ("PGTARGETSESSIONATTRS", "read-write"),
}
NOT_DURABLE = (
    "synchronous_commit is off, so PostgreSQL could lose leads that were acknowledged; "
    "turn it on for this role: ALTER ROLE … SET synchronous_commit = on"
)
PREPARED_STATEMENTS = 500  # that a connection keeps: one for each size of each list
RECONNECT_SECONDS = 0.5  # how long a failed connection is not tried again

_PREPARE = """
SELECT set_config('lock_timeout', '5s', false), set_config('statement_timeout', '0', false),
    -- Less than the wait for a lock, so that a server that stalls costs the others no lead.
    set_config('idle_in_transaction_session_timeout', '3s', false),
    set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '2', false),
    -- A commit that did not wait for the standby is told by a warning alone.
    set_config('client_min_messages', 'warning', false), current_setting('synchronous_commit'),
    pg_is_in_recovery(), current_setting('default_transaction_read_only')::bool,
    current_setting('server_encoding'), extract(epoch from clock_timestamp())::float8,
    CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END
        || (SELECT stats_reset::text FROM pg_stat_wal),
    (SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid())
"""
_END_SESSION = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s::timestamptz
"""


class Connection(psycopg.Connection[Any]):
    """A connection that knows its server's history.

    history: the timeline, which is another one after a standby was promoted, and when the statistics began,
    which are lost in a crash. Only within one history does the id of a transaction name one transaction.
    native: a cursor that takes PostgreSQL's own parameters. In a large insert psycopg takes longer to find
    its own than PostgreSQL to run it.
    """

    history = ""
    session: tuple[int, str] | None = None  # the process of the server, and when it began
    native: psycopg.RawCursor[Any]


class PostgresDatabase(PostgresqlDatabase):
    """PostgreSQL through psycopg, with one connection a thread."""

    is_storage_failure = staticmethod(is_storage_failure)  # for rows, which know no database
    is_shared = True

    def __init__(self) -> None:
        super().__init__(None)
        self.clock = DatabaseClock()
        self._conninfo = ""
        self._failed: tuple[float, Exception] = 0.0, StorageError()
        self._latest: dict[int, Connection] = {}  # of each thread, by its id

    def use(self, url: str, name: str) -> None:
        """Have every connection that is opened from now on be of this database. Raises DatabaseUnusable.

        name: of the program, as the server lists it.
        """
        try:
            given = conninfo_to_dict(url)
            ours = {"application_name": name, "client_encoding": "UTF8"}
            self._conninfo = make_conninfo("", **{**_defaults(url, given), **given, **ours})
        except (psycopg.Error, UnicodeError):  # its message may quote the password
            raise DatabaseUnusable(f"{SETTING} is no URL that PostgreSQL takes; correct it") from None
        self._failed = 0.0, StorageError()
        self.init(str(given.get("dbname") or "leads"), prefer_psycopg3=True)

    def _connect(self) -> Connection:
        failed_at, error = self._failed
        if time.monotonic() - failed_at < RECONNECT_SECONDS:
            raise type(error)(*error.args)
        try:
            connection = Connection.connect(self._conninfo, autocommit=True)
        except (psycopg.Error, UnicodeError) as found:  # UnicodeError: of a host name
            reason = storage_reason(found)
            # A host that does not answer is not asked again for the reason.
            timed_out = isinstance(found, psycopg.errors.ConnectionTimeout)
            wrong = None if timed_out else unusable(found, self._conninfo)
            failure = wrong or StorageError(f"PostgreSQL can't be reached: {reason}; {advice(reason)}")
            self._failed = time.monotonic(), failure
            raise failure from found
        thread = threading.get_ident()
        before = self._latest.get(thread)
        self._latest[thread] = connection
        try:
            self._prepare(connection)
            if before is not None and before.session is not None:
                # If it broke, the server may not know yet. It would keep its locks, or wait for a standby.
                connection.execute(_END_SESSION, before.session)
        except BaseException as error:
            connection.close()
            if isinstance(error, psycopg.Error):
                raise StorageError(storage_reason(error)) from error
            raise
        return connection

    def give_up(self, thread: int) -> bool:
        """Break the connection of a thread, which waits for it. thread: its id. Return False without one."""
        connection = self._latest.get(thread)
        if connection is None or connection.closed:
            return False
        try:  # on a copy of the descriptor, as the thread still waits for the connection
            with socket.socket(fileno=os.dup(connection.pgconn.socket)) as opened:
                opened.shutdown(socket.SHUT_RDWR)
        except (OSError, psycopg.Error):
            return False  # it was closed meanwhile
        return True

    def own_connection(self) -> Connection:
        """Return this thread's connection, which is open."""
        connection: Connection = self.connection()  # type: ignore[no-untyped-call]
        return connection

    def _prepare(self, connection: Connection) -> None:
        connection.adapters.register_dumper(int, Int8Dumper)  # one type, so one prepared statement
        version = connection.info.server_version // 10_000
        if version < OLDEST_VERSION:
            raise DatabaseUnusable(
                f"PostgreSQL {version} is too old; use {OLDEST_VERSION} or later for LEADS_DATABASE_URL"
            )
        sent = time.monotonic()
        row = connection.execute(_PREPARE).fetchone()
        assert row is not None
        durability, is_standby, is_read_only, encoding, now, history, began = row[7:]
        if encoding != "UTF8":
            raise DatabaseUnusable(
                f"the database's encoding is {encoding}; make one with CREATE DATABASE … ENCODING 'UTF8'"
            )
        if durability == "off":
            raise DatabaseUnusable(NOT_DURABLE)
        if is_standby or is_read_only:
            reason = f"PostgreSQL is {'a standby' if is_standby else 'read-only'}, and can't be written to"
            raise StorageError(f"{reason}; {advice(reason)}")
        self.clock.measured(now, sent, time.monotonic())
        connection.history = history
        connection.session = connection.info.backend_pid, began
        connection.native = psycopg.RawCursor(connection)
        connection.prepared_max = PREPARED_STATEMENTS

    def native(self, statement: str) -> str:
        """Return a statement of Peewee's with PostgreSQL's own parameters: $1, $2."""
        first, *others = statement.split("%s")
        return first + "".join(f"${number}{text}" for number, text in enumerate(others, 1))

    def run(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a native statement on this thread's connection, and return all of its rows.

        Raises psycopg's errors.
        """
        cursor = self.own_connection().native.execute(statement, values, prepare=True)
        return cursor.fetchall() if cursor.description is not None else []

    def lock(self, keys: Sequence[int]) -> None:
        """Take these advisory locks in their order, until the transaction ends."""
        self.own_connection().execute("SELECT pg_advisory_xact_lock(key) FROM unnest(%s::int8[]) key", [keys])

    def try_lock(self, key: int) -> bool:
        """Take this advisory lock until the transaction ends. Return False if another transaction has it."""
        [(taken,)] = self.own_connection().execute("SELECT pg_try_advisory_xact_lock(%s)", [key]).fetchall()
        return bool(taken)


database = PostgresDatabase()


def _defaults(url: str, given: Mapping[str, object]) -> dict[str, str | int | None]:
    if "service" in given or "PGSERVICE" in os.environ:
        return {**DEFAULTS, "connect_timeout": _service_timeout(url)}
    unset = {
        name: value
        for name, (variable, value) in DEFAULTS_WITH_VARIABLE.items()
        if variable not in os.environ
    }
    return {**DEFAULTS, **unset}


def _service_timeout(url: str) -> str | int:
    """Return the `connect_timeout` of the service that is named, or else the default.

    It is psycopg that waits, and it does not look for it there. libpq does, before it finds no such host.
    """
    connection = PGconn.connect_start(make_conninfo(url, host="/nonexistent", hostaddr="").encode())
    try:
        options = {option.keyword: option.val for option in connection.info}
    finally:
        connection.finish()
    found = options.get(b"connect_timeout")
    return found.decode() if found else DEFAULTS_WITH_VARIABLE["connect_timeout"][1]


def use_database(url: str, name: str) -> None:
    """Have every connection that is opened from now on, and every row, be of this database.

    Raises DatabaseUnusable.
    """
    close_database()
    database.use(url, name)
    rows.database.initialize(database)


def usable_connection(*, read_only: bool = False) -> Connection:
    """Return this thread's connection; make a new one if it has none that works.

    read_only: a new one can't write. Raises StorageError, and DatabaseUnusable for what the operator has to
    correct.
    """
    if not database.is_closed() and _is_lost(database.own_connection()):
        close_database()
    if database.is_closed():
        database.connect()
        if read_only:
            database.own_connection().execute("SET default_transaction_read_only = on")
    return database.own_connection()


def _is_lost(connection: Connection) -> bool:
    """Return True if the connection is closed, or its server has ended it: it says nothing else unasked."""
    if connection.closed:
        return True
    waiting = select.poll()  # unlike select(), it takes any descriptor
    waiting.register(connection.pgconn.socket, select.POLLIN)
    return bool(waiting.poll(0))


def close_database() -> None:
    """Close this thread's connection, if it has one."""
    if database.database is not None and not database.is_closed():
        database.close()


@contextmanager
def reading() -> Iterator[None]:
    """Open this thread's connection for queries that can't write, unless it is open. Raises StorageError."""
    with storage_errors():
        usable_connection(read_only=True)
        yield


@contextmanager
def storage_errors() -> Iterator[None]:
    """Raise StorageError in place of a storage failure of the block; any other error stays as it is."""
    try:
        yield
    except DatabaseUnusable as error:
        raise StorageError(str(error)) from error
    except Exception as error:
        if isinstance(error, StorageError) or not is_storage_failure(error):
            raise
        close_database()  # a new one, as this one may be of a server that is a standby now
        raise StorageError(storage_reason(error)) from error
