"""Write transactions on PostgreSQL: repeated after a conflict, and with an outcome that is found out."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg

from models.storage import DatabaseUnusable, OutcomeUnknown, StorageError
from models.storage.postgres.connection import (
    NOT_DURABLE,
    Connection,
    close_database,
    database,
    usable_connection,
)
from models.storage.postgres.failures import is_conflict, is_storage_failure, row_error, storage_reason

log = logging.getLogger("leads.writer")

Result = TypeVar("Result")

MOST_ATTEMPTS = 5
PAUSE_SECONDS = 0.02  # the longest before a repetition
MEASURE_CLOCK_SECONDS = 60.0
# A connection that breaks so early was of a server that ended meanwhile: the work is repeated on a new one.
# Later, the clients have waited long enough.
REPEAT_SECONDS = 2.0
# How long the outcome of a broken commit is asked for. The clients of its leads wait meanwhile.
ASK_SECONDS = 8.0
ASK_AGAIN_SECONDS = 0.25

_BEFORE_COMMIT = "SELECT pg_current_xact_id_if_assigned(), current_setting('synchronous_commit')"


class NotCommitted(StorageError):
    """Nothing is stored, and the work can be repeated."""


def transact(work: Callable[[], Result]) -> Result:
    """Run work in a transaction of this thread's connection; return its result once that is durable.

    After a conflict with another transaction, or on a connection that broke, the work is run again. Raises
    what the work raises, StorageError if nothing is stored, and OutcomeUnknown.
    """
    repeat_until = time.monotonic() + REPEAT_SECONDS
    for attempt in range(1, MOST_ATTEMPTS + 1):
        try:
            connection = usable_connection()
        except DatabaseUnusable as error:
            raise StorageError(str(error)) from error
        try:
            connection.execute("BEGIN")
            _measure_clock(connection)
            result = work()
            transaction_id = before_commit(connection)
        except BaseException as error:
            _roll_back(connection)
            has_broken = connection.closed and is_storage_failure(error) and time.monotonic() < repeat_until
            if (has_broken or is_conflict(error)) and attempt < MOST_ATTEMPTS:
                time.sleep(random.random() * PAUSE_SECONDS)
                continue
            if isinstance(error, StorageError):
                raise
            if is_storage_failure(error):
                raise StorageError(storage_reason(error)) from error
            if (of_row := row_error(error)) is not None:
                raise of_row from None
            raise
        try:
            commit(connection, transaction_id)
        except NotCommitted:
            if attempt == MOST_ATTEMPTS:
                raise
            continue
        return result
    raise AssertionError("the last attempt returns or raises")


def _roll_back(connection: Connection) -> None:
    try:
        connection.execute("ROLLBACK")
    except psycopg.Error:  # the server rolls back what has lost its connection
        close_database()


def _measure_clock(connection: Connection) -> None:
    sent = time.monotonic()
    if sent - database.clock.measured_at < MEASURE_CLOCK_SECONDS:
        return
    row = connection.execute("SELECT extract(epoch from clock_timestamp())::float8").fetchone()
    assert row is not None
    database.clock.measured(row[0], sent, time.monotonic())


def before_commit(connection: Connection) -> str | None:
    """Return the transaction's id as `commit` takes it: None if it has written nothing.

    Raises StorageError if its commit would not be durable, and psycopg's errors.
    """
    rows: list[tuple[str | None, str]] = connection.execute(_BEFORE_COMMIT).fetchall()
    [(transaction_id, durability)] = rows
    if durability == "off" and transaction_id is not None:  # a reload changes it for this session, too
        raise StorageError(NOT_DURABLE)
    return transaction_id


def commit(connection: Connection, transaction_id: str | None) -> None:
    """Commit. transaction_id: None if the transaction has written nothing.

    Raises NotCommitted, StorageError and OutcomeUnknown.
    """
    history = connection.history
    notices: list[object] = []
    connection.add_notice_handler(notices.append)
    try:
        if connection.execute("COMMIT").statusmessage != "COMMIT":
            raise StorageError("PostgreSQL rolled the transaction back")
        if notices:  # the wait for the standby was cancelled: the commit is not safe yet
            _wait_for_standby(connection)
    except psycopg.Error as error:
        # FATAL: the server ends the connection, and may have committed before.
        if error.diag.severity_nonlocalized == "ERROR" and not notices:
            _roll_back(connection)
            if is_conflict(error):
                raise NotCommitted("other transactions were in the way") from error
            raise StorageError(storage_reason(error)) from error
        close_database()
        if transaction_id is None:
            return
        log.warning("the connection broke in a commit", extra={"reason": storage_reason(error)})
        if not _ask_outcome(transaction_id, history, error):
            raise NotCommitted("the connection broke before the commit was made") from error
    finally:
        connection.remove_notice_handler(notices.append)


def _ask_outcome(transaction_id: str, history: str, error: Exception) -> bool:
    """Return whether the transaction was committed. Raises OutcomeUnknown if that can't be told.

    In another history, after a crash or a promotion, the id may be another transaction's.
    """
    asked_until = time.monotonic() + ASK_SECONDS
    while time.monotonic() < asked_until:
        try:
            connection = usable_connection()
            if connection.history != history:
                break
            row = connection.execute("SELECT pg_xact_status(%s::text::xid8)", [transaction_id]).fetchone()
            status = row[0] if row else None
            if status == "committed":
                _wait_for_standby(connection)
                log.info("the commit had been made")
                return True
            if status == "aborted":
                log.info("the commit had not been made; its writes are repeated")
                return False
            if status is None:
                break
        except (StorageError, DatabaseUnusable, psycopg.Error):
            pass
        time.sleep(ASK_AGAIN_SECONDS)
    raise OutcomeUnknown(storage_reason(error)) from error


def _wait_for_standby(connection: Connection) -> None:
    """Return once all earlier commits are as safe as `synchronous_commit` asks for. Raises OutcomeUnknown.

    A commit waits for the standby, and the standby has whatever comes before it.
    """
    notices: list[object] = []
    connection.add_notice_handler(notices.append)
    try:
        connection.execute("SELECT pg_logical_emit_message(true, 'leads', '')")
    except psycopg.Error as error:
        raise OutcomeUnknown(storage_reason(error)) from error
    finally:
        connection.remove_notice_handler(notices.append)
    if notices:
        raise OutcomeUnknown("the wait for the standby was cancelled")
