"""Reading on PostgreSQL: on a new connection if the last one broke, and not for ever if the server hangs."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar

from models.storage.postgres.connection import close_database, reading
from models.storage.postgres.stall_timer import StallTimer
from models.storage.reader import Reader

Params = ParamSpec("Params")
Result = TypeVar("Result")

CLOSE_SECONDS = 2.0  # that a query may go on at a stop


class PostgresReader(Reader):
    """A reader whose query fails after so many seconds, with those that wait for it."""

    def __init__(self, name: str, seconds: float) -> None:
        # A second attempt, as the connection may be of a server that has ended since the last query.
        super().__init__(name, self._read_here, close_database, attempts=2)
        self._seconds = seconds
        self._thread: int | None = None

    async def read(
        self, query: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """As `Reader.read`."""
        timer = StallTimer(self._seconds, lambda: self._thread)
        try:
            return await super().read(query, *args, **kwargs)
        finally:
            timer.cancel()

    async def close(self) -> None:
        """As `Reader.close`."""
        timer = StallTimer(CLOSE_SECONDS, lambda: self._thread)
        try:
            await super().close()
        finally:
            timer.cancel()

    def _read_here(self) -> AbstractContextManager[Any]:
        self._thread = threading.get_ident()
        return reading()
