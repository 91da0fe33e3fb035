"""The stall timer: breaks the connection of a thread that has waited too long for PostgreSQL."""

import asyncio
import logging
from collections.abc import Callable

from models.storage.postgres.connection import database

log = logging.getLogger("leads.storage")

AGAIN_SECONDS = 2.0  # for each connection that the thread makes after that


class StallTimer:
    """A server that hangs keeps a connection open and answers nothing: its host acknowledges what is sent."""

    def __init__(self, seconds: float, thread: Callable[[], int | None]) -> None:
        """Start on the running loop. thread: returns the id of the thread that waits, if it runs."""
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(seconds, self._break)

    def cancel(self) -> None:
        """Stop: the thread has its answer."""
        self._handle.cancel()

    def _break(self) -> None:
        thread = self._thread()
        if thread is not None and database.give_up(thread):
            log.error("PostgreSQL does not answer; the connection is given up")
        self._handle = self._loop.call_later(AGAIN_SECONDS, self._break)
