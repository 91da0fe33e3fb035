"""Bringing a PostgreSQL database to the newest schema, beside servers that use it."""

import logging
import re
from typing import Any

import psycopg
from psycopg import errors

from models.storage import DatabaseUnusable, StorageError
from models.storage.postgres.failures import storage_reason
from models.storage.postgres.migrations.steps import NEWEST, STEPS

log = logging.getLogger("leads.server")

LOCK = 0x4C454144  # the advisory lock of migrations: "LEAD"

_VERSION_TABLE = """
CREATE TABLE IF NOT EXISTS schema_version (
    version INTEGER NOT NULL,
    works_with INTEGER NOT NULL
)
"""


_FOREIGN = "the database has tables of some other program; name an empty one in LEADS_DATABASE_URL"

# Tables of the schema that new tables go to, without those of extensions.
_TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
    AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
ORDER BY relname LIMIT 1
"""
OUR_TABLES = re.findall(r"CREATE TABLE (\w+)", " ".join([_VERSION_TABLE, *(s.statements for s in STEPS)]))
_WITHOUT_RIGHTS = """
SELECT relname FROM pg_class
WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('schema_version'))
    AND relkind = 'r' AND relname = ANY (%s) AND NOT (
        has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
        AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
ORDER BY relname LIMIT 1
"""


def migrate(connection: "psycopg.Connection[Any]") -> None:
    """Bring the database to the newest schema. Each step and its version number are one transaction.

    An advisory lock lets one server do it. Raises DatabaseUnusable, and StorageError if the server fails, or
    another program keeps that lock for more than a few seconds.
    """
    try:
        while (version := _usable_version(connection)) < NEWEST:
            _take_step(connection, version)
        check_rights(connection)
    except (errors.InsufficientPrivilege, errors.InvalidSchemaName) as error:
        raise DatabaseUnusable(
            f"PostgreSQL says: {storage_reason(error)}; the role of LEADS_DATABASE_URL needs USAGE and "
            "CREATE on its schema, and must own the tables"
        ) from error
    except (errors.DuplicateTable, errors.UndefinedColumn) as error:
        raise DatabaseUnusable(f"{storage_reason(error)}: {_FOREIGN}") from error
    except psycopg.Error as error:
        raise StorageError(storage_reason(error)) from error


def schema_version(connection: "psycopg.Connection[Any]") -> tuple[int, int]:
    """Return the schema's version, and the oldest schema whose program can use it; zeros if it has none."""
    [(exists,)] = connection.execute("SELECT to_regclass('schema_version') IS NOT NULL").fetchall()
    rows = connection.execute("SELECT version, works_with FROM schema_version").fetchall() if exists else []
    return (rows[0][0], rows[0][1]) if rows else (0, 0)


def _usable_version(connection: "psycopg.Connection[Any]") -> int:
    version, works_with = schema_version(connection)
    if works_with > NEWEST:
        raise DatabaseUnusable(
            f"the database has schema {version}, and this program knows {NEWEST}; "
            "run the newer version of the program"
        )
    return version


def _take_step(connection: "psycopg.Connection[Any]", version: int) -> None:
    step = next(step for step in STEPS if step.version > version)
    with connection.transaction():
        try:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        except errors.LockNotAvailable as error:
            raise StorageError("another server makes or upgrades the tables, or a move fills them") from error
        if schema_version(connection)[0] != version:  # another server was first
            return
        if version == 0 and (others := connection.execute(_TABLES).fetchall()):
            raise DatabaseUnusable(f"there is a table {others[0][0]!r}: {_FOREIGN}")
        connection.execute(_VERSION_TABLE)
        connection.execute(step.statements)
        connection.execute("DELETE FROM schema_version")
        connection.execute("INSERT INTO schema_version VALUES (%s, %s)", [step.version, step.works_with])
    log.info("the database has a new schema", extra={"schema": step.version})


def check_rights(connection: "psycopg.Connection[Any]") -> None:
    """Raise DatabaseUnusable if the role may not write to a table. Raises psycopg's errors."""
    if without := connection.execute(_WITHOUT_RIGHTS, [OUR_TABLES]).fetchall():
        raise DatabaseUnusable(
            f"the role of LEADS_DATABASE_URL may not write to the table {without[0][0]!r}; take the role "
            "that owns the tables, or GRANT it ALL ON ALL TABLES IN SCHEMA …"
        )
