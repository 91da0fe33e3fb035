"""Which of PostgreSQL's errors mean that storage failed, and which that a transaction met another one."""

import re

import psycopg
from psycopg import errors

from models.storage import causes

STORAGE_FAILURES = (
    psycopg.OperationalError,  # connections, locks, resources, shutdowns
    psycopg.InterfaceError,  # a connection that is closed
    psycopg.InternalError,  # among others: read-only after a failover, damaged pages
    errors.InsufficientPrivilege,
    errors.UndefinedTable,
)
# Another transaction was in the way, and the same work succeeds when it is repeated.
CONFLICTS = (errors.DeadlockDetected, errors.SerializationFailure, errors.UniqueViolation)

# What of psycopg's and libpq's words is the same in each failure, or repeats the statement.
_FRAME = re.compile(
    r"- host: '[^']*', port: '[^']*', hostaddr: '[^']*': |connection (?:failed|is bad): "
    r"|\s+Is the server running .*|LINE \d+: .*|\s*\^"
)


def is_storage_failure(error: BaseException) -> bool:
    """Return True if the server, its disk or a lock failed, rather than a row."""
    return any(isinstance(cause, STORAGE_FAILURES) for cause in causes(error))


def is_conflict(error: BaseException) -> bool:
    """Return True if another transaction was in the way."""
    return any(isinstance(cause, CONFLICTS) for cause in causes(error))


def storage_reason(error: BaseException) -> str:
    """Return what PostgreSQL said of a failure, in one line for the log."""
    cause = next((cause for cause in causes(error) if isinstance(cause, STORAGE_FAILURES)), error)
    if isinstance(cause, psycopg.Error) and cause.diag.message_primary:
        return " ".join(cause.diag.message_primary.split())
    # Of several hosts psycopg lists the failure of each below that of the last.
    _, _, of_each = str(cause).partition("All failures were:\n")
    lines = (_FRAME.sub("", line).strip() for line in (of_each or str(cause)).splitlines())
    return " ".join("; ".join(dict.fromkeys(filter(None, lines))).split())


def row_error(error: BaseException) -> psycopg.Error | None:
    """Return PostgreSQL's error about a row without the row, which holds a renter's data; None for others."""
    found = next((cause for cause in causes(error) if isinstance(cause, psycopg.Error)), None)
    if found is None or found.diag.message_primary is None:
        return None
    return type(found)(found.diag.message_primary)
