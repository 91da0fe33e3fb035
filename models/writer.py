"""Owns the writing: one connection, one commit for whatever has queued up meanwhile."""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from models.database import (
    OutcomeUnknown,
    StorageError,
    WriteTransaction,
    close_database,
    database,
    is_storage_failure,
    storage_reason,
)
from models.journal import Journal

log = logging.getLogger("leads.writer")

Item = TypeVar("Item")
Result = TypeVar("Result")

# Takes a set of items and writes them all; answers with one result an item, in their order.
Operation = Callable[[Sequence[Any]], Sequence[Any]]
# Is called with the result of an item, or with None and the error.
Answered = Callable[[Any, Exception | None], None]

BATCH_SIZE = 256
QUEUE_SIZE = 2_000
QUICK_COMMIT_SECONDS = 0.003  # up to here the loop waits for a commit: having a thread do it takes 0.13 ms
COMMITS_REMEMBERED = 8
PATIENCE_SECONDS = 0.005
CLOSING_SECONDS = 0.005  # between two looks whether all is written


class Overloaded(StorageError):
    """The queue of the writer is full: the disk does not keep up."""


class Stopping(StorageError):
    """Nothing is written any more: of an earlier commit nobody knows whether it is on the disk."""


@dataclass(slots=True, eq=False)
class _Request:
    operation: Operation
    item: Any
    answered: Answered


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception


class Writer:
    """Group commit. While one commit is on its way to the disk, the writes that arrive queue up; the next
    transaction takes all of them, a set for each operation. A lone write never waits for company.

    The statements run on the loop's thread, since in another they would fight it for the interpreter at each
    of them; a batch of 64 leads takes 2 ms. What waits, for another's lock or a disk that is not known to be
    quick, is done in a thread; meanwhile the next batch is read.
    """

    def __init__(self, queue_size: int = QUEUE_SIZE, batch_size: int = BATCH_SIZE) -> None:
        self._queue_size = queue_size
        self._batch_size = batch_size
        self._queue: deque[_Request] = deque()
        self._batch: list[_Request] = []  # what is being written
        self._busy = False  # with a batch, or with the journal
        self._hurry = False  # there is one in the queue that doesn't wait for company
        self._company: asyncio.TimerHandle | None = None  # until when those that do still wait
        self._gathering: asyncio.Handle | None = None  # looks whether more have come
        self._gather_until = 0.0
        self._crowd = 0  # how many wrote or waited to when the last batch was answered
        self._after: dict[Operation, Callable[[], None]] = {}
        self._outcome_unknown = False
        # Set once a commit's outcome is unknown: the process is to be restarted.
        self.broken = asyncio.Event()
        self.waited_seconds = 0.0  # how long the loop has waited for commits, in all
        # On an average that forgets. At the start it is not known to be quick.
        self._commit_seconds = 2 * QUICK_COMMIT_SECONDS
        self._waiter = _Waiter()

    def start(self) -> None:
        """Open the connection; it belongs to the running event loop's thread."""
        self._loop = asyncio.get_running_loop()
        database.connect(reuse_if_open=True)
        self._transaction = WriteTransaction(database.connection())
        self._journal = Journal(database.connection())
        self._waiter.start(self._loop)

    def after_commit_of(self, operation: Operation, callback: Callable[[], None]) -> None:
        """Call back, on the loop, after each commit that this operation took part in."""
        self._after[operation] = callback

    @property
    def unanswered(self) -> int:
        """How many writes wait for the disk."""
        return len(self._queue) + len(self._batch)

    def write(
        self, operation: Callable[[Sequence[Item]], Sequence[Result]], item: Item, patient: bool = False
    ) -> "asyncio.Future[Result]":
        """Have the operation write this item. Done when it is on disk; call it on the loop's thread.
        patient: it waits for others to come along with, PATIENCE_SECONDS from when the writer is free, as a
        commit of its own would only hold these up.

        Raises Overloaded at once if the queue is full. The future raises StorageError if the disk failed
        (then nothing was written, unless it is OutcomeUnknown), or what the operation itself raised for this
        item. After an OutcomeUnknown nothing more is written: what the disk has, and what the system only
        remembers, is told apart by the next start.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def answered(result: Any, error: Exception | None) -> None:
            if future.done():  # nobody waits for it any more
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.submit(operation, item, answered, patient=patient)
        return future

    def submit(
        self,
        operation: Operation,
        item: Any,
        answered: Answered,
        *,
        patient: bool = False,
        alone: bool = False,
    ) -> None:
        """The same, and `answered` is called with what the future would have: a lone lead is answered 0.05 ms
        sooner than through one. alone: nobody else is about to come, so that on a quick disk it is written,
        and `answered` called, right here.
        """
        if self.unanswered >= self._queue_size:
            raise Overloaded("too many writes are waiting for the disk")
        self._queue.append(_Request(operation, item, answered))
        self._hurry = self._hurry or not patient
        if self._gathering is not None:
            begin = self._gathered_long_enough
        else:
            begin = alone and not self._busy and self._disk_is_quick
        if begin:
            self._begin()
        else:
            self._begin_soon()

    def _begin_soon(self) -> None:
        if self._busy or self._gathering is not None or not self._queue:
            return
        if self._hurry:
            self._gather_until = self._loop.time() + self._commit_seconds / 2
            self._gathering = self._loop.call_soon(self._begin_unless_more_come, len(self._queue))
        elif self._company is None:
            self._company = self._loop.call_later(PATIENCE_SECONDS, self._no_company)

    def _no_company(self) -> None:
        self._company = None
        self._hurry = True
        self._begin_soon()

    def _begin_unless_more_come(self, queued: int) -> None:
        # Without waiting: whoever is in the middle of being read comes along, a lone lead waits for nobody.
        if queued < len(self._queue) < self._batch_size and not self._gathered_long_enough:
            self._gathering = self._loop.call_soon(self._begin_unless_more_come, len(self._queue))
        else:
            self._begin()

    @property
    def _gathered_long_enough(self) -> bool:
        # While a slow disk is at work, the other half of a crowd can be read; they are the next batch.
        return (
            not self._disk_is_quick
            and 2 * len(self._queue) >= self._crowd
            and self._loop.time() > self._gather_until
        )

    @property
    def _disk_is_quick(self) -> bool:
        return self._commit_seconds <= QUICK_COMMIT_SECONDS

    async def close(self) -> None:
        """Write what has queued up, then close the connection, as the last of this process."""
        while self.unanswered or self._busy:
            self._hurry = bool(self._queue)
            self._begin_soon()
            await asyncio.sleep(CLOSING_SECONDS)
        await self._waiter.stop()
        close_database(moves_journal=not self._outcome_unknown)

    def _go_on(self) -> None:
        self._busy = False
        if self._hurry and not self._disk_is_quick:
            self._begin()  # so that the disk is at work while the last batch is answered
        else:
            self._begin_soon()

    def _moved(self, error: Exception | None) -> None:
        if error is not None:  # what it was to move is still in the journal
            log.error("the journal can't be moved into the database", extra={"reason": str(error)})
        if isinstance(error, OutcomeUnknown):
            self._write_no_more()
        self._go_on()

    def _begin(self) -> None:
        for handle in (self._gathering, self._company):
            if handle is not None:
                handle.cancel()
        self._gathering = self._company = None
        self._busy = True
        self._batch = [self._queue.popleft() for _ in range(min(self._batch_size, len(self._queue)))]
        self._hurry = bool(self._queue)
        if self._outcome_unknown:
            self._fail(Stopping("a commit failed; the server restarts"))
            return
        try:
            begun = self._transaction.begin(wait=False)
        except StorageError as error:
            self._fail(error)
            return
        if begun:
            self._fill()
        else:
            self._waiter.do(lambda: self._transaction.begin(wait=True), self._begun)

    def _begun(self, error: Exception | None) -> None:
        if error is None:
            self._fill()
        else:
            self._fail(error)

    def _fill(self) -> None:
        try:
            results = self._apply_operations()
        except Exception as error:
            self._undo(error)
        else:
            self._commit(results)

    def _undo(self, error: Exception) -> None:
        try:
            self._transaction.roll_back()
        except OutcomeUnknown as unknown:
            self._fail(unknown)
            return
        if is_storage_failure(error):
            self._fail(StorageError(storage_reason(error)))
        elif len(self._batch) == 1:
            self._answer([_Failure(error)])
        else:
            self._fail(error)

    def _apply_operations(self) -> list[Any]:
        if len(self._batch) == 1:  # without a savepoint: there is nobody else in the transaction
            [only] = self._batch
            [result] = only.operation([only.item])
            return [result]
        by_operation: dict[Operation, list[int]] = {}
        for position, request in enumerate(self._batch):
            by_operation.setdefault(request.operation, []).append(position)
        results: list[Any] = [None] * len(self._batch)
        for operation, positions in by_operation.items():
            written = _apply(operation, [self._batch[p].item for p in positions])
            for position, result in zip(positions, written, strict=True):
                results[position] = result
        return results

    def _commit(self, results: list[Any]) -> None:
        if not self._disk_is_quick:
            self._waiter.do(self._timed_commit, partial(self._committed, results))
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
        # In the waiter's thread as well; while it is there, nobody else looks at the time.
        began = time.monotonic()
        try:
            self._transaction.commit()
        finally:
            self._commit_seconds += (time.monotonic() - began - self._commit_seconds) / COMMITS_REMEMBERED

    def _committed(self, results: list[Any], error: Exception | None) -> None:
        if error is None:
            self._answer(results)
        elif isinstance(error, StorageError):
            self._fail(error)
        else:  # a surprise, in the middle of a commit
            self._fail(OutcomeUnknown(type(error).__name__))

    def _fail(self, error: Exception) -> None:
        if isinstance(error, OutcomeUnknown):
            self._write_no_more()
        if not isinstance(error, StorageError):  # a surprise; the clients must be answered all the same
            log.error("a batch failed", exc_info=error)
        elif not isinstance(error, Stopping):
            event = "a commit failed" if self._outcome_unknown else "storage failed"
            log.error(event, extra={"reason": str(error), "writes": len(self._batch)})
        self._answer([_Failure(error)] * len(self._batch))

    def _write_no_more(self) -> None:
        self._outcome_unknown = True
        self.broken.set()

    def _answer(self, results: list[Any]) -> None:
        batch, self._batch = self._batch, []
        self._crowd = len(batch) + len(self._queue)
        if self._journal.is_long and not self._outcome_unknown:
            self._waiter.do(self._journal.move, self._moved)
        else:
            self._go_on()
        committed: set[Operation] = set()
        for request, result in zip(batch, results, strict=True):
            try:
                if isinstance(result, _Failure):
                    request.answered(None, result.error)
                else:
                    committed.add(request.operation)
                    request.answered(result, None)
            except Exception:  # the others must be answered all the same
                log.exception("an answer failed")
        for operation in committed & self._after.keys():
            self._after[operation]()


def _apply(operation: Operation, items: list[Any]) -> Sequence[Any]:
    # The whole set first; if a row of it fails, each by itself, so that only the bad one is refused.
    try:
        with database.connection():  # a savepoint
            return operation(items)
    except Exception as error:
        if is_storage_failure(error):
            raise
        if len(items) == 1:
            return [_Failure(error)]
    return [_apply(operation, [item])[0] for item in items]


Then = Callable[[Exception | None], None]


class _Waiter:
    """A thread that does, one after the other, what may take long, and has the loop go on when it is done."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], object], Then] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    def do(self, work: Callable[[], object], then: Then) -> None:
        """Do this work, then call `then` on the loop with the error that it raised, or None."""
        self._work.put((work, then))

    async def stop(self) -> None:
        """End the thread, once it has done what it has to do."""
        self._work.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (task := self._work.get()) is not None:
            work, then = task
            error: Exception | None = None
            try:
                work()
            except Exception as raised:
                error = raised
            self._loop.call_soon_threadsafe(then, error)
