"""Owns the schema's history: one step a file, append-only, each applied in one transaction."""

from pathlib import Path

import apsw

from models.database import (
    APPLICATION_ID,
    DatabaseRefused,
    database,
    pragma,
    transaction,
)
from models.migrations import v0001_initial, v0002_safe_retries, v0003_installation, v0004_suspicion

STEPS = tuple(
    step.STATEMENTS for step in (v0001_initial, v0002_safe_retries, v0003_installation, v0004_suspicion)
)
NEWEST = len(STEPS)


def schema_of(connection: apsw.Connection) -> int | None:
    """The version of this database's schema: 0 if it is empty, None if it is some other program's.

    Raises apsw.Error.
    """
    application_id = connection.pragma("application_id")
    if application_id == APPLICATION_ID:
        return int(connection.pragma("user_version"))
    empty = application_id == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").get == 0
    return 0 if empty else None


def refuse_newer(path: Path, schema: int) -> None:
    """Raises DatabaseRefused if this program is too old for the schema."""
    if schema > NEWEST:
        raise DatabaseRefused(
            f"{path} has schema {schema}, newer than this program's {NEWEST}; "
            "run the newer version of this program"
        )


def migrate() -> None:
    """Bring the open database to the newest schema. Each step and its version number are one transaction."""
    while pragma("user_version") < NEWEST:
        with transaction():
            version = pragma("user_version")  # again, now under the lock: another process may have been first
            if version >= NEWEST:
                return
            for statement in STEPS[version].split(";\n"):
                if statement.strip():
                    database.execute_sql(statement)
            database.execute_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute_sql(f"PRAGMA user_version = {version + 1}")
    if pragma("user_version") > NEWEST:
        raise DatabaseRefused("the database was upgraded by a newer version of this program meanwhile")
