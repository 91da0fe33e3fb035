"""Reading beside the writer: a thread, and a connection that can't write."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from typing import Any, ParamSpec, TypeVar

from models.storage import StorageError

Params = ParamSpec("Params")
Result = TypeVar("Result")


class Reader:
    """Runs queries in a thread of its own. They neither wait for the writer nor delay it."""

    def __init__(
        self,
        name: str,
        session: Callable[[], AbstractContextManager[Any]],
        close: Callable[[], None],
        *,
        attempts: int = 1,
    ) -> None:
        """session: opens the thread's connection for a query, unless it is open. close: closes it.

        attempts: how often a query is run that the database fails.
        """
        self._session, self._close, self._attempts = session, close, attempts
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def read(
        self, query: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Run a query and return its result. It must have fetched all of its rows.

        Raises StorageError if the database failed it.
        """

        def run() -> Result:
            for _ in range(self._attempts - 1):
                with suppress(StorageError), self._session():
                    return query(*args, **kwargs)
            with self._session():
                return query(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._executor, run)

    async def close(self) -> None:
        """Wait for the running query, then close the connection."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._close)
        self._executor.shutdown()
