"""The writer on PostgreSQL: each batch is one transaction, in the writer's thread."""

import logging
import os
import socket
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import psycopg

from models.storage import StorageError, WriteResult
from models.storage.postgres.connection import Connection, close_database, database
from models.storage.postgres.failures import causes
from models.storage.postgres.transaction import transact
from models.storage.write_queue import Request, Savepoint, WriteQueue, apply_operations

log = logging.getLogger("leads.writer")

# After so long a batch's connection is given up: a server that hangs keeps it open and answers nothing. It is
# longer than the wait for a lock, or for a cut cable to be noticed.
STALLED_SECONDS = 15.0


class PostgresWriter(WriteQueue):
    """Group commit in the writer's thread: on the loop's, a slow network would delay every request."""

    disk_full_at = float("-inf")  # by the monotonic clock: when PostgreSQL last had no room for a batch
    _connection: Connection | None = None  # of the last batch

    async def close(self) -> None:
        """Write what is queued, then close the connection."""
        await self.drain()
        self._thread.run(close_database, lambda _: None)
        await self._thread.stop()

    def _write_batch(self) -> None:
        results: list[WriteResult[Any]] = []
        self._stalled = self._loop.call_later(STALLED_SECONDS, self._give_up_connection)

        def written(error: Exception | None) -> None:
            self._stalled.cancel()
            if error is None:
                self._complete(results)
            else:
                self._fail(error)

        self._thread.run(partial(self._transact, self._batch, results), written)

    def _transact(self, batch: Sequence[Request], results: list[WriteResult[Any]]) -> None:
        began = time.monotonic()
        try:
            # Without savepoints, which cost a round trip each; with them if an operation fails.
            results += transact(partial(self._apply, batch, None))
        except StorageError as error:
            if any(isinstance(cause, psycopg.errors.DiskFull) for cause in causes(error)):
                self.disk_full_at = time.monotonic()
            raise
        except Exception as error:
            if len(batch) == 1:
                results.append(WriteResult(error=error))
            else:
                results += transact(partial(self._apply, batch, database.savepoint))
        finally:
            self._policy.note_commit(time.monotonic() - began)

    def _apply(self, batch: Sequence[Request], savepoint: Savepoint | None) -> list[WriteResult[Any]]:
        self._connection = database.own_connection()
        return apply_operations(batch, savepoint)

    def _give_up_connection(self) -> None:
        log.error("PostgreSQL does not answer; the connection is given up")
        self._stalled = self._loop.call_later(STALLED_SECONDS, self._give_up_connection)
        connection = self._connection
        if connection is None or connection.closed:
            return
        try:  # on a copy of the descriptor, as the thread still waits for the connection
            with socket.socket(fileno=os.dup(connection.pgconn.socket)) as opened:
                opened.shutdown(socket.SHUT_RDWR)
        except (OSError, psycopg.Error):
            pass  # it was closed meanwhile
