"""The writer on PostgreSQL: each batch is one transaction, in the writer's thread."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import psycopg

from models.storage import StorageError, WriteResult, causes
from models.storage.postgres.connection import RECONNECT_SECONDS, close_database, database, usable_connection
from models.storage.postgres.failures import row_error
from models.storage.postgres.stall_timer import StallTimer
from models.storage.postgres.transaction import transact
from models.storage.write_queue import Request, WriteQueue, apply_operations
from models.storage.writer_thread import ThreadCallback

log = logging.getLogger("leads.writer")

# After so long a batch's connection is given up: a server that hangs keeps it open and answers nothing. It is
# longer than the wait for a lock, or for a cut cable to be noticed.
STALLED_SECONDS = 10.0


class PostgresWriter(WriteQueue):
    """Group commit in the writer's thread: on the loop's, a slow network would delay every request.

    While PostgreSQL can't be reached, each write fails at once, and the thread tries to connect again.
    """

    disk_full_at = float("-inf")  # by the monotonic clock: when PostgreSQL last had no room for a batch
    _reconnecting: asyncio.TimerHandle | None = None
    _lost: str | None = None  # why there is no connection; None if there is one, or none was needed yet

    async def close(self) -> None:
        """Write what is queued, then close the connection."""
        await self.drain()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        self._thread.run(close_database, lambda _: None)
        await self._thread.stop()

    def _write_batch(self) -> None:
        if self._lost is not None:
            self._complete([WriteResult(error=StorageError(self._lost))] * len(self._batch))
            return
        results: list[WriteResult[Any]] = []

        def written(error: Exception | None) -> None:
            if error is None:
                self._complete(results)
                return
            if isinstance(error, _Disconnected):
                self._lose_connection(error.cause)
                error = error.cause
            self._fail(error)

        self._run(partial(self._transact, self._batch, results), written)

    def _run(self, task: Callable[[], object], callback: ThreadCallback) -> None:
        timer = StallTimer(STALLED_SECONDS, lambda: self._thread.id)

        def done(error: Exception | None) -> None:
            timer.cancel()
            callback(error)

        self._thread.run(task, done)

    def _transact(self, batch: Sequence[Request], results: list[WriteResult[Any]]) -> None:
        began = time.monotonic()
        try:
            results += self._results(batch)
        except StorageError as error:
            if database.is_closed():
                raise _Disconnected(error) from error
            raise
        finally:
            self._policy.note_commit(time.monotonic() - began)

    def _results(self, batch: Sequence[Request]) -> list[WriteResult[Any]]:
        try:
            # Without savepoints, which cost a round trip each; with them if an operation fails.
            return transact(partial(apply_operations, batch, None))
        except StorageError as error:
            if any(isinstance(cause, psycopg.errors.DiskFull) for cause in causes(error)):
                self.disk_full_at = time.monotonic()
            raise
        except Exception as error:
            if len(batch) == 1:
                return [WriteResult(error=error)]
            return list(map(_without_row, transact(partial(apply_operations, batch, database.savepoint))))

    # Without a connection.

    def _lose_connection(self, error: StorageError) -> None:
        log.error("the connection to PostgreSQL is lost", extra={"reason": str(error)})
        self._lost = str(error)
        self._reconnect()

    def _reconnect(self) -> None:
        self._run(usable_connection, self._reconnected)

    def _reconnected(self, error: Exception | None) -> None:
        if error is None:
            self._lost = None
            log.warning("PostgreSQL can be used again")
            return
        if str(error) != self._lost:
            self._lost = str(error)
            log.error("PostgreSQL can't be used", extra={"reason": self._lost})
        self._reconnecting = self._loop.call_later(RECONNECT_SECONDS, self._reconnect)


def _without_row(result: WriteResult[Any]) -> WriteResult[Any]:
    of_row = result.error and row_error(result.error)
    return WriteResult(error=of_row) if of_row else result


class _Disconnected(Exception):
    """A batch failed, and the thread has no connection."""

    def __init__(self, cause: StorageError) -> None:
        super().__init__(str(cause))
        self.cause = cause
