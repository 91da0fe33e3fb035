"""Bringing a database to the newest schema."""

from models.storage import DatabaseUnusable
from models.storage.sqlite.connection import APPLICATION_ID, database, pragma, transaction
from models.storage.sqlite.migrations.steps import NEWEST, STEPS


def migrate() -> None:
    """Bring the open database to the newest schema. Each step and its version number are one transaction."""
    while pragma("user_version") < NEWEST:
        with transaction():
            version = pragma("user_version")  # again, now under the lock: another process may have been first
            if version >= NEWEST:
                return
            step = STEPS[version]
            for statement in step.statements.split(";\n"):
                if statement.strip():
                    database.execute_sql(statement)
            if step.convert is not None:
                step.convert(database.connection())
            database.execute_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute_sql(f"PRAGMA user_version = {version + 1}")
    if pragma("user_version") > NEWEST:
        raise DatabaseUnusable("the database was upgraded by a newer version of this program meanwhile")
