"""Owns the reading: one thread, a connection that can't write, and a loop that never waits for the disk."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from models.database import (
    StorageError,
    close_database,
    connect_for_reading,
    database,
    is_storage_failure,
    storage_reason,
)

Params = ParamSpec("Params")
Result = TypeVar("Result")


class Reader:
    """Runs queries in its own thread. In WAL mode they neither wait for the writer nor hold it up."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="reader")

    async def read(
        self, query: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """The query's result. It must have fetched all of its rows: nothing lazy leaves the thread.

        Raises StorageError if the disk failed it.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: _with_connection(query, *args, **kwargs))

    async def close(self) -> None:
        """Wait for the running query and close the connection."""
        await asyncio.get_running_loop().run_in_executor(self._executor, close_database)
        self._executor.shutdown()


def _with_connection(query: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
    try:
        if database.is_closed():
            connect_for_reading()
        return query(*args, **kwargs)
    except Exception as error:
        if is_storage_failure(error):
            raise StorageError(storage_reason(error)) from error
        raise
