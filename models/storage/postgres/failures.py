"""Which of PostgreSQL's errors mean that storage failed, and which that a transaction met another one."""

import re
from collections.abc import Iterator

import psycopg
from psycopg import errors

from models.storage import DatabaseUnusable

STORAGE_FAILURES = (
    psycopg.OperationalError,  # connections, locks, resources, shutdowns
    psycopg.InterfaceError,  # a connection that is closed
    psycopg.InternalError,  # among others: read-only after a failover, damaged pages
    errors.InsufficientPrivilege,
    errors.UndefinedTable,
)
# Another transaction was in the way, and the same work succeeds when it is repeated.
CONFLICTS = (errors.DeadlockDetected, errors.SerializationFailure, errors.UniqueViolation)

# What the server or libpq says, and what the operator does about it. A message is in English unless the
# server's `lc_messages` says otherwise; it is shown as it is then.
_FIXES = (
    ("password authentication failed|no password supplied", "set the right user and password in {setting}"),
    (
        r'role ".*" does not exist',
        "make the role with CREATE ROLE … LOGIN PASSWORD '…', or correct {setting}",
    ),
    (r'database ".*" does not exist', "make it with CREATE DATABASE …, or correct {setting}"),
    (
        "no pg_hba.conf entry|pg_hba.conf rejects",
        "allow the connection in pg_hba.conf on the database's host",
    ),
    (
        "SSL|certificate|TLS",
        "correct sslmode or sslrootcert in {setting}, or set up TLS on the database's host",
    ),
    ("permission denied", "GRANT the role CONNECT on the database, and USAGE and CREATE on its schema"),
    ("invalid|missing|unexpected", "correct {setting}"),
)
# These pass: the server starts, stops, is a standby, or has too many clients.
_PASSING = re.compile(
    r"starting up|shutting down|not yet accepting|recovery mode|too many clients|connection slots"
    r"|session is (not )?read-only|server is (not )?in hot standby|standby"
)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes: Peewee raises errors of its own."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def is_storage_failure(error: BaseException) -> bool:
    """Return True if the server, its disk or a lock failed, rather than a row."""
    return any(isinstance(cause, STORAGE_FAILURES) for cause in causes(error))


def is_conflict(error: BaseException) -> bool:
    """Return True if another transaction was in the way."""
    return any(isinstance(cause, CONFLICTS) for cause in causes(error))


def storage_reason(error: BaseException) -> str:
    """Return what PostgreSQL said of a failure, in one line for the log."""
    said = next((str(c) for c in causes(error) if isinstance(c, STORAGE_FAILURES)), str(error))
    return " ".join(said.partition("\nMultiple connection attempts")[0].split())


def unusable(error: psycopg.Error, conninfo: str) -> DatabaseUnusable | None:
    """Return what the operator has to correct if a connection failed; None if the server may answer later."""
    reason = storage_reason(error)
    if _PASSING.search(reason):
        return None
    needs_fix = re.search("SSL|certificate", reason) or not isinstance(error, psycopg.OperationalError)
    if not needs_fix and psycopg.pq.PGconn.ping(conninfo.encode()) != psycopg.pq.Ping.OK:
        return None
    fix = next((fix for said, fix in _FIXES if re.search(said, reason)), "correct {setting}")
    return DatabaseUnusable(f"PostgreSQL: {reason}; {fix.format(setting='LEADS_DATABASE_URL')}")
