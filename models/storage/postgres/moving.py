"""PostgreSQL at either end of a move: one transaction, so that an interruption leaves it as it was."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import errors, sql

from models.storage import DatabaseUnusable, rows
from models.storage.moving import BATCH_ROWS, Row, RowsRefused, Table, Tables
from models.storage.postgres.connection import (
    Connection,
    close_database,
    database,
    storage_errors,
    usable_connection,
    use_database,
)
from models.storage.postgres.migrations.migrate import migrate, schema_version
from models.storage.postgres.migrations.steps import NEWEST
from models.storage.postgres.storage import SERVER_NAME
from models.storage.postgres.transaction import before_commit, commit

NAME = "leads move"
VERSION_TABLE = "schema_version"  # of the migrations: it is no data
# Tables that may have rows in an empty database: a schema step or a start of the server made them.
SEEDED = {"installation", "pipeline_stage", "destination", "daily_count", "storage_check"}
REFUSALS = (psycopg.DataError, psycopg.IntegrityError, errors.ProgramLimitExceeded)

_TABLES = """
SELECT c.relname,
    array_agg(a.attname::text ORDER BY a.attnum),
    array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum),
    ARRAY(SELECT k.attname::text FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS key (attnum, place)
        JOIN pg_attribute k ON k.attnum = key.attnum
        WHERE i.indrelid = c.oid AND i.indisprimary AND k.attrelid = c.oid ORDER BY place),
    ARRAY(SELECT f.relname::text FROM pg_constraint r JOIN pg_class f ON f.oid = r.confrelid
        WHERE r.conrelid = c.oid AND r.contype = 'f')
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = to_regnamespace(quote_ident(current_schema())) AND c.relkind IN ('r', 'p')
    AND a.attnum > 0 AND NOT a.attisdropped
GROUP BY c.oid, c.relname
"""
_COUNTERS = """
SELECT c.relname, a.attname, pg_get_serial_sequence(quote_ident(c.relname), a.attname)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = to_regnamespace(quote_ident(current_schema())) AND a.attidentity <> ''
"""
_SERVERS = """
SELECT DISTINCT coalesce(host(client_addr), 'this machine') FROM pg_stat_activity
WHERE datname = current_database() AND application_name = %s
"""
_NO_TIMEOUTS = """
SELECT set_config(name, '0', true) FROM pg_settings
WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""


class _PostgresPlace:
    """The open database, in a transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tables(self) -> Tables:
        """As `Place.tables`."""
        with storage_errors():
            found = self._connection.execute(_TABLES).fetchall()
        return {
            name: Table(dict(zip(columns, types, strict=True)), key, frozenset(refers_to))
            for name, columns, types, key, refers_to in found
            if name != VERSION_TABLE
        }

    def read(self, name: str, columns: Sequence[str], key: Sequence[str]) -> Iterator[list[Row]]:
        """As `Place.read`."""
        types = self.tables()[name].types
        shown = [
            sql.SQL("{}::int" if types[column] == "boolean" else "{}").format(sql.Identifier(column))
            for column in columns
        ]
        order = [
            sql.SQL('{} COLLATE "C"' if types[column] == "text" else "{}").format(sql.Identifier(column))
            for column in key
        ]
        query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
            sql.SQL(", ").join(shown), sql.Identifier(name), sql.SQL(", ").join(order)
        )
        with storage_errors(), self._connection.cursor("moving") as cursor:
            cursor.execute(query, binary=True)
            while batch := cursor.fetchmany(BATCH_ROWS):
                yield batch

    def last_ids(self) -> dict[str, int]:
        """As `Place.last_ids`."""
        last = {}
        with storage_errors():
            for table, column, sequence in self._connection.execute(_COUNTERS).fetchall():
                query = sql.SQL(
                    "SELECT greatest(last_value - (NOT is_called)::int, (SELECT max({}) FROM {})) FROM {}"
                ).format(sql.Identifier(column), sql.Identifier(table), sql.SQL(sequence))
                [(last[table],)] = self._connection.execute(query).fetchall()
        return last

    def _change(self, function: Callable[[], None]) -> None:
        rows.database.initialize(database)
        with storage_errors():
            function()

    def _commit(self) -> None:
        with storage_errors():
            transaction_id = before_commit(self._connection)
        commit(self._connection, transaction_id)


class PostgresSource(_PostgresPlace):
    """`Source` on a PostgreSQL database."""

    def refused_rows(self, tables: Tables) -> Iterator[str]:
        """Yield nothing: SQLite can hold whatever PostgreSQL does."""
        yield from ()

    def change(self, function: Callable[[], None]) -> None:
        """As `Place.change`."""
        _refuse_servers(self._connection)  # again: one has started, or has a connection again
        self._change(function)
        self._commit()


class PostgresTarget(_PostgresPlace):
    """`Target` on an empty PostgreSQL database."""

    def write(self, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """As `Target.write`."""
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(name), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        try:
            with storage_errors(), self._connection.cursor() as cursor, cursor.copy(statement) as copy:
                for row in rows:
                    copy.write_row(row)
        except REFUSALS as error:
            said = [error.diag.message_primary or str(error), error.diag.message_detail or ""]
            raise RowsRefused(f"PostgreSQL refuses rows of {name}: {' '.join(filter(None, said))}") from error

    def continue_ids(self, last: Mapping[str, int]) -> None:
        """As `Target.continue_ids`."""
        with storage_errors():
            for table, column, _ in self._connection.execute(_COUNTERS).fetchall():
                self._connection.execute(
                    sql.SQL("ALTER TABLE {} ALTER COLUMN {} RESTART WITH {}").format(
                        sql.Identifier(table), sql.Identifier(column), sql.Literal(last[table] + 1)
                    )
                )

    def change(self, function: Callable[[], None]) -> None:
        """As `Place.change`, in the transaction that `commit` ends."""
        self._change(function)

    def seal(self) -> None:
        """As `Target.seal`."""
        with storage_errors():
            for name in self.tables():
                self._connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(name)))

    def commit(self) -> None:
        """As `Target.commit`."""
        self._commit()


@contextmanager
def postgres_source(url: str) -> Iterator[PostgresSource]:
    """Open a database that is to be moved, and lock it. An older schema is upgraded first.

    Raises DatabaseUnusable if servers use it or it is none of this program's; StorageError.
    """
    with _connected(url) as connection:
        if not schema_version(connection)[0]:
            raise DatabaseUnusable(
                "the database in LEADS_DATABASE_URL has no leads to move; is it the right one?"
            )
        _refuse_servers(connection)
        migrate(connection)
        _refuse_newer(connection)
        source = PostgresSource(connection)
        with storage_errors():
            connection.execute("BEGIN")
            connection.execute(_NO_TIMEOUTS)
            # A command or a start of a server takes this one first, so none of them is in a deadlock with it.
            _lock(connection, ["installation"], "EXCLUSIVE")
            _lock(connection, source.tables(), "EXCLUSIVE")
        yield source


@contextmanager
def postgres_target(url: str) -> Iterator[PostgresTarget]:
    """Open an empty database, and make its tables, in a transaction that is undone unless it is committed.

    Raises DatabaseUnusable if it is not empty, or servers use it; StorageError.
    """
    with _connected(url) as connection:
        _refuse_servers(connection)
        target = PostgresTarget(connection)
        with storage_errors():
            connection.execute("BEGIN")
            connection.execute(_NO_TIMEOUTS)
        migrate(connection)
        _refuse_newer(connection)
        tables = target.tables()
        with storage_errors():
            _lock(connection, tables, "ACCESS EXCLUSIVE")
        _refuse_servers(connection)
        _refuse_rows(connection, tables)
        with storage_errors():
            connection.execute(sql.SQL("TRUNCATE {}").format(_identifiers(tables)))
        yield target


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    use_database(url, NAME)
    try:
        yield usable_connection()
    finally:
        close_database()


def _lock(connection: Connection, tables: Iterable[str], mode: str) -> None:
    connection.execute(sql.SQL("LOCK TABLE {} IN {} MODE").format(_identifiers(tables), sql.SQL(mode)))


def _identifiers(tables: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, sorted(tables)))


def _refuse_servers(connection: Connection) -> None:
    with storage_errors():
        connection.execute("SELECT pg_stat_clear_snapshot()")  # a transaction sees what it saw first
        found = connection.execute(_SERVERS, [SERVER_NAME]).fetchall()
    if found:
        hosts = ", ".join(sorted(host for (host,) in found))
        raise DatabaseUnusable(f"servers use the PostgreSQL database (from {hosts}); stop them first")


def _refuse_newer(connection: Connection) -> None:
    version, _ = schema_version(connection)
    if version != NEWEST:
        raise DatabaseUnusable(
            f"the PostgreSQL database has schema {version}, and this program moves {NEWEST}; "
            "run the newer version of the program"
        )


def _refuse_rows(connection: Connection, tables: Tables) -> None:
    for name in sorted(tables.keys() - SEEDED):
        with storage_errors():
            query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(name))
            [(has_rows,)] = connection.execute(query).fetchall()
        if has_rows:
            raise DatabaseUnusable(
                f"the PostgreSQL database is not empty: its table {name} has rows; name an empty one, "
                "which CREATE DATABASE makes"
            )
