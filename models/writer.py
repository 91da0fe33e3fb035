"""Owns the writing: one thread, one connection, one commit for whatever has queued up meanwhile."""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from models.database import (
    OutcomeUnknown,
    StorageError,
    close_database,
    database,
    is_storage_failure,
    transaction,
)

log = logging.getLogger("leads.writer")

Item = TypeVar("Item")
Result = TypeVar("Result")

# Takes a set of items and writes them all; answers with one result an item, in their order.
Operation = Callable[[Sequence[Any]], Sequence[Any]]

BATCH_SIZE = 256
QUEUE_SIZE = 2_000


class Overloaded(StorageError):
    """The queue of the writer is full: the disk does not keep up."""


class Stopping(StorageError):
    """Nothing is written any more: of an earlier commit nobody knows whether it is on the disk."""


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    operation: Operation
    item: Any
    answer: "asyncio.Future[Any]"


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception


class Writer:
    """Group commit. While one commit is on its way to the disk, the writes that arrive queue up; the next
    transaction takes all of them, a set for each operation. A lone write never waits for company.
    """

    def __init__(self, queue_size: int = QUEUE_SIZE, batch_size: int = BATCH_SIZE) -> None:
        self._queue_size = queue_size
        self._batch_size = batch_size
        self._unanswered = 0  # touched by the loop's thread only
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._after: dict[Operation, Callable[[], None]] = {}
        self._outcome_unknown = False
        self.broken = (
            asyncio.Event()
        )  # set once a commit's outcome is unknown: the process is to be restarted
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Start the thread; answers will be given on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def after_commit_of(self, operation: Operation, callback: Callable[[], None]) -> None:
        """Call back, on the loop, after each commit that this operation took part in."""
        self._after[operation] = callback

    def write(
        self, operation: Callable[[Sequence[Item]], Sequence[Result]], item: Item
    ) -> "asyncio.Future[Result]":
        """Have the operation write this item. Done when it is on disk; call it on the loop's thread.

        Raises Overloaded at once if the queue is full. The future raises StorageError if the disk failed
        (then nothing was written, unless it is OutcomeUnknown), or what the operation itself raised for this
        item. After an OutcomeUnknown nothing more is written: what the disk has, and what the system only
        remembers, is told apart by the next start.
        """
        if self._unanswered >= self._queue_size:
            raise Overloaded("too many writes are waiting for the disk")
        answer: asyncio.Future[Result] = self._loop.create_future()
        self._unanswered += 1
        self._queue.put(_Request(operation, item, answer))
        return answer

    async def close(self) -> None:
        """Write what has queued up, then end the thread."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        closing = False
        while not closing:
            batch = [self._queue.get()]
            while len(batch) < self._batch_size and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            closing = None in batch
            requests = [request for request in batch if request is not None]
            if requests:
                results = self._commit(requests)
                self._loop.call_soon_threadsafe(self._answer, requests, results)
        close_database()

    def _commit(self, requests: list[_Request]) -> list[Any]:
        by_operation: dict[Operation, list[int]] = {}
        for position, request in enumerate(requests):
            by_operation.setdefault(request.operation, []).append(position)
        results: list[Any] = [None] * len(requests)
        if self._outcome_unknown:
            return [_Failure(Stopping("a commit failed; the server restarts"))] * len(requests)
        try:
            database.connect(reuse_if_open=True)
            with transaction():
                for operation, positions in by_operation.items():
                    written = _apply(operation, [requests[p].item for p in positions])
                    for position, result in zip(positions, written, strict=True):
                        results[position] = result
        except StorageError as error:
            self._outcome_unknown = isinstance(error, OutcomeUnknown)
            event = "a commit failed" if self._outcome_unknown else "storage failed"
            log.error(event, extra={"reason": str(error), "writes": len(requests)})
            return [_Failure(error)] * len(requests)
        except Exception as error:  # the thread must outlive any surprise, and its clients must be answered
            log.exception("a batch failed")
            return [_Failure(error)] * len(requests)
        return results

    def _answer(self, requests: list[_Request], results: list[Any]) -> None:
        self._unanswered -= len(requests)
        committed: set[Operation] = set()
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, _Failure):
                if isinstance(result.error, OutcomeUnknown):
                    self.broken.set()
                if not request.answer.done():
                    request.answer.set_exception(result.error)
                continue
            committed.add(request.operation)
            if not request.answer.done():
                request.answer.set_result(result)
        for operation in committed & self._after.keys():
            self._after[operation]()


def _apply(operation: Operation, items: list[Any]) -> Sequence[Any]:
    # The whole set first; if a row of it fails, each by itself, so that only the bad one is refused.
    try:
        with database.savepoint():
            return operation(items)
    except Exception as error:
        if is_storage_failure(error):
            raise
        if len(items) == 1:
            return [_Failure(error)]
    return [_apply(operation, [item])[0] for item in items]
