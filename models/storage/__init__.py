"""The storage protocol: how the program writes and reads its database, and how storage fails.

Each database has a package of its own beside this file, `sqlite` and `postgres`; `models/database.py`
chooses. Nothing in here knows a table of the domain.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from models.clock import Clock

Params = ParamSpec("Params")
Item = TypeVar("Item")
Result = TypeVar("Result")

# Writes a set of items in the open transaction. Returns a list of results, one for each item, in order.
Operation = Callable[[Sequence[Any]], Sequence[Any]]


class StorageError(Exception):
    """The disk, a lock or the database's server failed a transaction, and nothing of it is stored.

    A later retry may succeed.
    """


class Overloaded(StorageError):
    """The writer's queue is full: commits are slower than submissions."""


class WriterStopped(StorageError):
    """The writer accepts nothing more, because the outcome of an earlier commit is unknown."""


class OutcomeUnknown(StorageError):
    """A commit failed, and whether its rows are stored is unknown. On SQLite the next start finds out."""


class DatabaseUnusable(Exception):
    """The database can't be opened as it is. The message says why and what to do; nothing was changed."""


@dataclass(slots=True, eq=False)  # frozen, it takes twice as long to make
class WriteResult(Generic[Result]):
    """What became of a submitted item: its result, or the error that it met."""

    value: Result | None = None
    error: Exception | None = None

    def get(self) -> Result:
        """Return the result. Raises the error instead, if there is one."""
        if self.error is not None:
            raise self.error.with_traceback(None)  # one error object may stand for a whole batch
        return self.value  # type: ignore[return-value]


WriteCallback = Callable[[WriteResult[Any]], None]


class Submitter(Protocol):
    """The hot path of a storage, as leads and deliveries use it."""

    def submit(
        self,
        operation: Operation,
        item: Any,
        callback: WriteCallback,
        *,
        linger: bool = False,
        alone: bool = False,
    ) -> None:
        """Queue one item of a set, and call back once its commit is durable, or has failed.

        One commit takes all items that are queued; each operation is called once, with all of its items.
        linger: the item may wait a few milliseconds to share another write's commit. alone: the caller
        expects no other item soon, so on a fast disk the item is committed before this returns. Raises
        Overloaded.
        """

    def after_commit(self, operation: Operation, callback: Callable[[], None]) -> None:
        """Call back, on the loop, after each commit that contains this operation."""


class Storage(Submitter, Protocol):
    """The database of a running server. Its methods are called on the event loop's thread."""

    @property
    def is_shared(self) -> bool:
        """True if other servers may write to the same database."""

    @property
    def waited_seconds(self) -> float:
        """How long the loop has waited for commits, in all: a wait that its thread's time does not show."""

    async def write(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Run one action, all or nothing, and return its result once it is durable.

        Raises what the action raises, and StorageError or one of its kinds.
        """

    async def read(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Run a quick query off the loop, on a connection that can't write. It must have fetched its rows.

        Raises StorageError.
        """

    async def read_slowly(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Run a query that may take long, such as a listing: it delays no quick one. Raises StorageError."""

    async def check(self) -> None:
        """Raise StorageError unless a lead could be stored now."""


class ServerStorage(Storage, Protocol):
    """The database as the server's start and stop use it."""

    clock: Clock  # by which all times in the database are made

    @property
    def failed(self) -> asyncio.Event:
        """Set once only a new start can tell what is stored."""

    def lock(self) -> None:
        """Take the database for this server, if it can't be shared. Raises DatabaseUnusable."""

    def open(self) -> None:
        """Open the locked database. Raises DatabaseUnusable. One that is shared need not be reachable yet."""

    def upgrade(self) -> None:
        """Make or upgrade the tables of the open database if need be, in any thread.

        Raises DatabaseUnusable, and StorageError if it can't be reached now: another call may succeed.
        """

    def abandon(self) -> None:
        """Undo `lock` and `open`, after a start that failed."""

    def start(self) -> None:
        """Start the writer on the running loop."""

    async def close(self) -> None:
        """Write what is queued, and close every connection."""


class BlockingStorage(Protocol):
    """The database of a command: the same verbs without a loop."""

    has_written: bool  # True once a `write` has committed
    clock: Clock  # by which all times in the database are made

    def write(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Run one action, all or nothing, and return its result once it is durable.

        Raises what the action raises, and StorageError or one of its kinds.
        """

    def read(self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
        """Run a query and return its result, which must be fetched. Raises StorageError."""

    def read_each(
        self, function: Callable[Params, Iterator[Item]], *args: Params.args, **kwargs: Params.kwargs
    ) -> Iterator[Item]:
        """Run a query whose items are fetched as they are asked for. The iterator raises StorageError."""

    def scrub(self) -> None:
        """Remove what the database's files still hold of deleted and changed rows. Raises StorageError."""


OperationType = TypeVar("OperationType", bound=Callable[..., Any])
ACTIONS = 1  # the place of what has no other


def in_batch(place: int) -> Callable[[OperationType], OperationType]:
    """Return a decorator that gives an operation its place among the operations of a batch.

    On a shared database the batches of all servers must lock in one order, or two would wait for each other.
    """

    def decorate(operation: OperationType) -> OperationType:
        operation.place = place  # type: ignore[attr-defined]
        return operation

    return decorate


def place_of(operation: Operation) -> int:
    """Return the place of an operation among those of a batch."""
    return getattr(operation, "place", ACTIONS)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes: Peewee reports a driver's error as one of its own."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def operation_of(action: Callable[[], Any]) -> Operation:
    """Return an operation for one action alone: a set of its own, so that its failure is its own as well."""

    def operation(items: Sequence[None]) -> list[Any]:
        return [action() for _ in items]

    return operation


def submit_and_wait(
    storage: Submitter,
    operation: Callable[[Sequence[Item]], Sequence[Result]],
    item: Item,
    *,
    linger: bool = False,
) -> "asyncio.Future[Result]":
    """Submit an item and return a future of its result. Raises Overloaded at once if the queue is full.

    The future raises what the operation raised for this item, and StorageError or one of its kinds. A
    cancelled future cancels only the wait: the item is written all the same.
    """
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def completed(result: WriteResult[Result]) -> None:
        if future.done():
            return
        if result.error is None:
            future.set_result(result.value)  # type: ignore[arg-type]
        else:
            future.set_exception(result.error)

    storage.submit(operation, item, completed, linger=linger)
    return future
