"""The writer: one connection, and one commit for all writes that were queued meanwhile."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from models.storage import (
    Operation,
    OutcomeUnknown,
    Overloaded,
    StorageError,
    WriteCallback,
    WriteResult,
    WriterStopped,
)
from models.storage.sqlite.batching import LINGER_SECONDS, BatchPolicy
from models.storage.sqlite.connection import WriteTransaction, close_database, database
from models.storage.sqlite.failures import is_storage_failure, storage_reason
from models.storage.sqlite.wal import Wal
from models.storage.sqlite.writer_thread import WriterThread

log = logging.getLogger("leads.writer")

BATCH_SIZE = 256
QUEUE_SIZE = 2_000
CLOSE_POLL_SECONDS = 0.005


@dataclass(slots=True, eq=False)
class _Request:
    operation: Operation
    item: Any
    callback: WriteCallback


class Writer:
    """Group commit. While one commit is on its way to the disk, further writes are queued; the next
    transaction takes all of them, one set for each operation.

    Statements run on the loop's thread: in another thread they would contend for the interpreter lock at each
    statement, and a batch of 64 leads takes 2 ms. Whatever waits, for another connection's lock or for a slow
    disk, runs in the writer's thread; meanwhile the loop reads the next batch.
    """

    def __init__(self, queue_size: int = QUEUE_SIZE, batch_size: int = BATCH_SIZE) -> None:
        self._queue_size = queue_size
        self._batch_size = batch_size
        self._queue: deque[_Request] = deque()
        self._batch: list[_Request] = []  # being written
        self._busy = False  # with a batch, or with a checkpoint
        self._policy = BatchPolicy()
        self._linger_timer: asyncio.TimerHandle | None = None
        self._gathering: asyncio.Handle | None = None  # looks whether more writes have arrived
        self._after_commit: dict[Operation, Callable[[], None]] = {}
        self._outcome_unknown = False
        # Set once a commit's outcome is unknown: the process has to be restarted.
        self.broken = asyncio.Event()
        self.waited_seconds = 0.0  # how long the loop has waited for commits, in all
        self._thread = WriterThread()

    def start(self) -> None:
        """Open the connection; it belongs to the running event loop's thread."""
        self._loop = asyncio.get_running_loop()
        database.connect(reuse_if_open=True)
        self._transaction = WriteTransaction(database.connection())
        self._wal = Wal(database.connection())
        self._thread.start(self._loop)

    def after_commit(self, operation: Operation, callback: Callable[[], None]) -> None:
        """Call back, on the loop, after each commit that contains this operation."""
        self._after_commit[operation] = callback

    @property
    def unanswered(self) -> int:
        """The number of writes that wait for the disk."""
        return len(self._queue) + len(self._batch)

    def submit(
        self,
        operation: Operation,
        item: Any,
        callback: WriteCallback,
        *,
        linger: bool = False,
        alone: bool = False,
    ) -> None:
        """Queue one item, and call back with its result once its commit is durable or has failed.

        linger: wait up to LINGER_SECONDS, from when the writer is free, to share another write's commit.
        alone: no other write is about to come, so on a fast disk this one is committed before the method
        returns. Raises Overloaded if the queue is full. After an OutcomeUnknown each result is WriterStopped:
        only the next start finds out what the disk holds.
        """
        if self.unanswered >= self._queue_size:
            raise Overloaded("too many writes are waiting for the disk")
        self._queue.append(_Request(operation, item, callback))
        policy = self._policy
        policy.urgent = policy.urgent or not linger
        if self._gathering is not None:
            begin = policy.has_gathered_enough(len(self._queue), self._loop.time())
        else:
            begin = alone and not self._busy and policy.disk_is_fast
        if begin:
            self._begin()
        else:
            self._schedule_batch()

    async def close(self) -> None:
        """Write what is queued, then close the connection, as the last one of this process."""
        while self.unanswered or self._busy:
            self._policy.urgent = bool(self._queue)
            self._schedule_batch()
            await asyncio.sleep(CLOSE_POLL_SECONDS)
        await self._thread.stop()
        close_database(checkpoint=not self._outcome_unknown)

    # When a batch begins.

    def _schedule_batch(self) -> None:
        if self._busy or self._gathering is not None or not self._queue:
            return
        if self._policy.urgent:
            self._policy.start_gathering(self._loop.time())
            self._gathering = self._loop.call_soon(self._begin_unless_more_arrive, len(self._queue))
        elif self._linger_timer is None:
            self._linger_timer = self._loop.call_later(LINGER_SECONDS, self._linger_over)

    def _linger_over(self) -> None:
        self._linger_timer = None
        self._policy.urgent = True
        self._schedule_batch()

    def _begin_unless_more_arrive(self, queued: int) -> None:
        # Requests that are being read in this turn of the loop join the batch; a lone one does not wait.
        more_arrived = queued < len(self._queue) < self._batch_size
        if more_arrived and not self._policy.has_gathered_enough(len(self._queue), self._loop.time()):
            self._gathering = self._loop.call_soon(self._begin_unless_more_arrive, len(self._queue))
        else:
            self._begin()

    # A batch, from its transaction to its callbacks.

    def _begin(self) -> None:
        for handle in (self._gathering, self._linger_timer):
            if handle is not None:
                handle.cancel()
        self._gathering = self._linger_timer = None
        self._busy = True
        self._batch = [self._queue.popleft() for _ in range(min(self._batch_size, len(self._queue)))]
        self._policy.urgent = bool(self._queue)
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
            results = self._apply_operations()
        except Exception as error:
            self._roll_back(error)
        else:
            self._commit(results)

    def _apply_operations(self) -> list[WriteResult[Any]]:
        if len(self._batch) == 1:  # no savepoint: no other write is in the transaction
            [only] = self._batch
            [value] = only.operation([only.item])
            return [WriteResult(value)]
        by_operation: dict[Operation, list[int]] = {}
        for position, request in enumerate(self._batch):
            by_operation.setdefault(request.operation, []).append(position)
        results: list[WriteResult[Any]] = [WriteResult()] * len(self._batch)
        for operation, positions in by_operation.items():
            written = _apply(operation, [self._batch[p].item for p in positions])
            for position, result in zip(positions, written, strict=True):
                results[position] = result
        return results

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
        if not isinstance(error, StorageError):  # unforeseen; the clients must be answered all the same
            log.error("a batch failed", exc_info=error)
        elif not isinstance(error, WriterStopped):
            event = "a commit failed" if self._outcome_unknown else "storage failed"
            log.error(event, extra={"reason": str(error), "writes": len(self._batch)})
        self._complete([WriteResult(error=error)] * len(self._batch))

    def _stop_writing(self) -> None:
        self._outcome_unknown = True
        self.broken.set()

    def _complete(self, results: list[WriteResult[Any]]) -> None:
        batch, self._batch = self._batch, []
        self._policy.note_answered(len(batch) + len(self._queue))
        if self._wal.is_long and not self._outcome_unknown:
            self._thread.run(self._wal.checkpoint, self._checkpointed)
        else:
            self._continue()
        committed: set[Operation] = set()
        for request, result in zip(batch, results, strict=True):
            if result.error is None:
                committed.add(request.operation)
            try:
                request.callback(result)
            except Exception:  # the others must be called back all the same
                log.exception("a write's callback failed")
        for operation in committed & self._after_commit.keys():
            self._after_commit[operation]()

    def _checkpointed(self, error: Exception | None) -> None:
        if error is not None:  # the pages are still in the WAL
            log.error("the journal can't be moved into the database", extra={"reason": str(error)})
        if isinstance(error, OutcomeUnknown):
            self._stop_writing()
        self._continue()

    def _continue(self) -> None:
        self._busy = False
        if self._policy.urgent and not self._policy.disk_is_fast:
            self._begin()  # so that the disk is at work while the last batch is answered
        else:
            self._schedule_batch()


def _apply(operation: Operation, items: list[Any]) -> list[WriteResult[Any]]:
    # The whole set first. If one of its rows fails, each item by itself, so that only that one is refused.
    try:
        with database.connection():  # a savepoint
            return [WriteResult(value) for value in operation(items)]
    except Exception as error:
        if is_storage_failure(error):
            raise
        if len(items) == 1:
            return [WriteResult(error=error)]
    return [_apply(operation, [item])[0] for item in items]
