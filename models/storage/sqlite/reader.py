"""Reading beside the writer: a thread, and a connection that can't write."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from models.storage.sqlite.connection import close_database, connect_for_reading, database
from models.storage.sqlite.failures import storage_errors

Params = ParamSpec("Params")
Result = TypeVar("Result")


class Reader:
    """Runs queries in a thread of its own. In WAL mode they neither wait for the writer nor delay it."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def read(
        self, query: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Run a query and return its result. It must have fetched all of its rows.

        Raises StorageError if the disk failed it.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: _with_connection(query, *args, **kwargs))

    async def close(self) -> None:
        """Wait for the running query, then close the connection."""
        await asyncio.get_running_loop().run_in_executor(self._executor, close_database)
        self._executor.shutdown()


def _with_connection(query: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
    with storage_errors():
        if database.is_closed():
            connect_for_reading()
        return query(*args, **kwargs)
