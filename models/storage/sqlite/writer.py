"""The writer on SQLite: one connection; whatever may block runs in a thread of its own."""

import asyncio
import logging
import time
from functools import partial
from typing import Any

from models.storage import OutcomeUnknown, StorageError, WriteResult, WriterStopped
from models.storage.sqlite.connection import WriteTransaction, close_database, database
from models.storage.sqlite.failures import is_storage_failure, storage_reason
from models.storage.sqlite.wal import Wal
from models.storage.write_queue import BATCH_SIZE, QUEUE_SIZE, WriteQueue, apply_operations

log = logging.getLogger("leads.writer")


class Writer(WriteQueue):
    """Group commit on one connection.

    Statements run on the loop's thread: in another thread they would contend for the interpreter lock at each
    statement, and a batch of 64 leads takes 2 ms. Whatever waits, for another connection's lock or for a slow
    disk, runs in the writer's thread; meanwhile the loop reads the next batch.

    After an OutcomeUnknown each result is WriterStopped: only the next start finds out what the disk holds.
    """

    def __init__(self, queue_size: int = QUEUE_SIZE, batch_size: int = BATCH_SIZE) -> None:
        super().__init__(queue_size, batch_size)
        self._outcome_unknown = False
        # Set once a commit's outcome is unknown: the process has to be restarted.
        self.broken = asyncio.Event()

    def start(self) -> None:
        """Open the connection; it belongs to the running event loop's thread."""
        database.connect(reuse_if_open=True)
        self._transaction = WriteTransaction(database.connection())
        self._wal = Wal(database.connection())
        super().start()

    async def close(self) -> None:
        """Write what is queued, then close the connection, as the last one of this process."""
        await self.drain()
        await self._thread.stop()
        close_database(checkpoint=not self._outcome_unknown)

    def _write_batch(self) -> None:
        if self._outcome_unknown:
            self._fail(WriterStopped("a commit failed; the server restarts"))
            return
        try:
            begun = self._transaction.begin(wait=False)
        except StorageError as error:
            self._fail(error)
            return
        if begun:
            self._run_operations()
        else:
            self._thread.run(lambda: self._transaction.begin(wait=True), self._begun)

    def _begun(self, error: Exception | None) -> None:
        if error is None:
            self._run_operations()
        else:
            self._fail(error)

    def _run_operations(self) -> None:
        try:
            results = apply_operations(self._batch, database.connection)
        except Exception as error:
            self._roll_back(error)
        else:
            self._commit(results)

    def _roll_back(self, error: Exception) -> None:
        try:
            self._transaction.roll_back()
        except OutcomeUnknown as unknown:
            self._fail(unknown)
            return
        if is_storage_failure(error):
            self._fail(StorageError(storage_reason(error)))
        elif len(self._batch) == 1:
            self._complete([WriteResult(error=error)])
        else:
            self._fail(error)

    def _commit(self, results: list[WriteResult[Any]]) -> None:
        if not self._policy.disk_is_fast:
            self._thread.run(self._timed_commit, partial(self._committed, results))
            return
        error: Exception | None = None
        began = time.monotonic()
        try:
            self._timed_commit()
        except Exception as raised:
            error = raised
        self.waited_seconds += time.monotonic() - began
        self._committed(results, error)

    def _timed_commit(self) -> None:
        # Also in the writer's thread; the loop reads the average only between two commits.
        began = time.monotonic()
        try:
            self._transaction.commit()
        finally:
            self._policy.note_commit(time.monotonic() - began)

    def _committed(self, results: list[WriteResult[Any]], error: Exception | None) -> None:
        if error is None:
            self._complete(results)
        elif isinstance(error, StorageError):
            self._fail(error)
        else:  # an unforeseen error in the middle of a commit
            self._fail(OutcomeUnknown(type(error).__name__))

    def _fail(self, error: Exception) -> None:
        if isinstance(error, OutcomeUnknown):
            self._stop_writing()
        super()._fail(error)

    def _stop_writing(self) -> None:
        self._outcome_unknown = True
        self.broken.set()

    def _follow_up(self) -> None:
        if self._wal.is_long and not self._outcome_unknown:
            self._thread.run(self._wal.checkpoint, self._checkpointed)
        else:
            self._continue()

    def _checkpointed(self, error: Exception | None) -> None:
        if error is not None:  # the pages are still in the WAL
            log.error("the journal can't be moved into the database", extra={"reason": str(error)})
        if isinstance(error, OutcomeUnknown):
            self._stop_writing()
        self._continue()
