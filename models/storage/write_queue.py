"""The queue in front of a writer: one commit for all writes that were queued meanwhile."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from models.storage import (
    Operation,
    OutcomeUnknown,
    Overloaded,
    StorageError,
    WriteCallback,
    WriteResult,
    WriterStopped,
    place_of,
)
from models.storage.batching import LINGER_SECONDS, BatchPolicy
from models.storage.failure_log import FailureLog
from models.storage.rows import database
from models.storage.writer_thread import WriterThread

log = logging.getLogger("leads.writer")

BATCH_SIZE = 256
QUEUE_SIZE = 2_000
CLOSE_POLL_SECONDS = 0.005


@dataclass(slots=True, eq=False)
class Request:
    """One item to write. callback: is called with its result, once that is known."""

    operation: Operation
    item: Any
    callback: WriteCallback


class WriteQueue(ABC):
    """Group commit. While one commit is on its way, further writes are queued; the next transaction takes all
    of them, one set for each operation. The writer of each database says how a batch is written.
    """

    def __init__(self, queue_size: int = QUEUE_SIZE, batch_size: int = BATCH_SIZE) -> None:
        self._queue_size = queue_size
        self._batch_size = batch_size
        self._queue: deque[Request] = deque()
        self._batch: list[Request] = []  # being written
        self._busy = False  # with a batch, or with what follows it
        self._policy = BatchPolicy()
        self._linger_timer: asyncio.TimerHandle | None = None
        self._gathering: asyncio.Handle | None = None  # looks whether more writes have arrived
        self._after_commit: dict[Operation, Callable[[], None]] = {}
        self.waited_seconds = 0.0  # how long the loop has waited for commits, in all
        self._thread = WriterThread()
        self._failures = FailureLog()

    def start(self) -> None:
        """Start the writer's thread, for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start(self._loop)

    def after_commit(self, operation: Operation, callback: Callable[[], None]) -> None:
        """Call back, on the loop, after each commit that contains this operation."""
        self._after_commit[operation] = callback

    @property
    def unanswered(self) -> int:
        """The number of writes that wait for the database."""
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
        returns. Raises Overloaded if the queue is full.
        """
        if self.unanswered >= self._queue_size:
            raise Overloaded("too many writes are waiting")
        self._queue.append(Request(operation, item, callback))
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

    @abstractmethod
    async def close(self) -> None:
        """Write what is queued, end the thread, and close the connection."""

    async def drain(self) -> None:
        """Return once everything is written that was queued."""
        while self.unanswered or self._busy:
            self._policy.urgent = bool(self._queue)
            self._schedule_batch()
            await asyncio.sleep(CLOSE_POLL_SECONDS)

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

    def _begin(self) -> None:
        for handle in (self._gathering, self._linger_timer):
            if handle is not None:
                handle.cancel()
        self._gathering = self._linger_timer = None
        self._busy = True
        self._batch = [self._queue.popleft() for _ in range(min(self._batch_size, len(self._queue)))]
        self._policy.urgent = bool(self._queue)
        self._write_batch()

    # A batch, from its transaction to its callbacks.

    @abstractmethod
    def _write_batch(self) -> None:
        """Write the batch, and then call `_complete` or `_fail` on the loop."""

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, StorageError):  # unforeseen; the clients must be answered all the same
            log.error("a batch failed", exc_info=error)
        elif isinstance(error, OutcomeUnknown):
            log.error("a commit failed", extra={"reason": str(error), "writes": len(self._batch)})
        elif not isinstance(error, WriterStopped):
            self._failures.failed(str(error), len(self._batch))
        self._complete([WriteResult(error=error)] * len(self._batch))

    def _complete(self, results: Sequence[WriteResult[Any]]) -> None:
        batch, self._batch = self._batch, []
        self._policy.note_answered(len(batch) + len(self._queue))
        self._follow_up()
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

    def _follow_up(self) -> None:
        """Do what has to follow a batch, and then `_continue`."""
        self._continue()

    def _continue(self) -> None:
        self._busy = False
        if self._policy.urgent and not self._policy.disk_is_fast:
            self._begin()  # so that the disk is at work while the last batch is answered
        else:
            self._schedule_batch()


Savepoint = Callable[[], AbstractContextManager[Any]]


def apply_operations(batch: Sequence[Request], savepoint: Savepoint | None) -> list[WriteResult[Any]]:
    """Run a batch's operations in the open transaction, one set for each, and return the results in order.

    savepoint: makes one, so that an operation that fails is repeated for each of its items, and only the item
    that fails is refused. None: an error ends the batch. Raises what an operation raises.
    """
    if len(batch) == 1:  # no savepoint: no other write is in the transaction
        [only] = batch
        [value] = only.operation([only.item])
        return [WriteResult(value)]
    by_operation: dict[Operation, list[int]] = {}
    for position, request in enumerate(batch):
        by_operation.setdefault(request.operation, []).append(position)
    results: list[WriteResult[Any]] = [WriteResult()] * len(batch)
    for operation, positions in sorted(by_operation.items(), key=lambda item: place_of(item[0])):
        items = [batch[p].item for p in positions]
        written = (
            _apply(operation, items, savepoint)
            if savepoint
            else [WriteResult(value) for value in operation(items)]
        )
        for position, result in zip(positions, written, strict=True):
            results[position] = result
    return results


def _apply(operation: Operation, items: list[Any], savepoint: Savepoint) -> list[WriteResult[Any]]:
    # The whole set first. If one of its rows fails, each item by itself, so that only that one is refused.
    try:
        with savepoint():
            return [WriteResult(value) for value in operation(items)]
    except Exception as error:
        if database.is_storage_failure(error):
            raise
        if len(items) == 1:
            return [WriteResult(error=error)]
    return [_apply(operation, [item], savepoint)[0] for item in items]
