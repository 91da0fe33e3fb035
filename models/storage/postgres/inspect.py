"""A PostgreSQL database that is only looked at. No table is made or upgraded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from models.storage.postgres.connection import (
    Connection,
    close_database,
    database,
    storage_errors,
    usable_connection,
    use_database,
)
from models.storage.postgres.migrations.migrate import OUR_TABLES, schema_version
from models.storage.postgres.migrations.steps import NEWEST


class PostgresInspection:
    """An `InspectedDatabase` on a PostgreSQL, in a session that can't write."""

    newest_known = NEWEST
    tables: Sequence[str] = OUR_TABLES  # of this program, at its newest schema

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        with storage_errors():
            self._schema, self.works_with = schema_version(connection)

    @property
    def host(self) -> str:
        """The host of the connection, or the folder of its socket."""
        return self._connection.info.host

    @property
    def port(self) -> int:
        """The port of the connection."""
        return self._connection.info.port

    @property
    def is_host_verified(self) -> bool:
        """True if the connection is encrypted, and its certificate was checked."""
        used = {option.keyword: option.val for option in self._connection.pgconn.info}
        return used.get(b"sslmode") in (b"verify-ca", b"verify-full")

    @property
    def schema(self) -> int:
        """The schema's version: 0 if the database is empty."""
        return self._schema

    @property
    def has_known_schema(self) -> bool:
        """True if the tables that this program knows are there."""
        return self._schema > 0 and self.works_with <= NEWEST

    def has_schema(self, first: int) -> bool:
        """Return True if the schema is a known one, and at least this one."""
        return self.has_known_schema and self._schema >= first

    def value(self, statement: str, *values: object) -> Any:
        """As `InspectedDatabase.value`."""
        row = next(self.rows(statement, *values), None)
        if row is None or len(row) == 1:
            return row and next(iter(row.values()))
        return tuple(row.values())

    def rows(self, statement: str, *values: object) -> Iterator[dict[str, Any]]:
        """As `InspectedDatabase.rows`."""
        with storage_errors(), self._connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(statement.replace("?", "%s").encode(), values or None)
            yield from cursor.fetchall()

    def now(self) -> datetime:
        """Return the time by the database's clock."""
        return database.clock.now()


@contextmanager
def inspected(url: str) -> Iterator[PostgresInspection]:
    """Connect to look at the database. Raises DatabaseUnusable and StorageError."""
    use_database(url, "leads doctor")
    try:
        yield PostgresInspection(usable_connection(read_only=True))
    finally:
        close_database()
