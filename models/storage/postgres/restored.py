"""What a database needs after PostgreSQL's own programs have restored it to an earlier moment."""

from models.storage.postgres.connection import database
from models.storage.postgres.migrations.migrate import OUR_TABLES

UNKNOWN_IDS = 1_000_000  # how many may have been given out after that moment

_MOVE_ON = """
SELECT setval(sequence, nextval(sequence) + %s) FROM (
    SELECT pg_get_serial_sequence(format('%%I.%%I', table_schema, table_name), column_name) AS sequence
    FROM information_schema.columns
    WHERE table_schema = current_schema() AND table_name = ANY (%s) AND is_identity = 'YES'
) identity
"""


def move_ids_on() -> None:
    """Let the ids of each table go on from a number that it has not given out: an id is one lead's (C4)."""
    database.own_connection().execute(_MOVE_ON, [UNKNOWN_IDS, OUR_TABLES])
