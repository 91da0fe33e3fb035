"""Owns the health checks: is the process alive, and could it store a lead now."""

import asyncio
from collections.abc import Awaitable, Callable

from handlers.base import Handler
from handlers.errors import Unavailable
from models.clock import Clock
from models.storage import StorageError

REMEMBER_FOR_NS = 1_000_000_000
LINGER_SECONDS = 2.0


class Readiness:
    """Whether a lead could be stored: found out by a write, at most once a second, one at a time."""

    def __init__(self, write: Callable[[], Awaitable[object]], clock: Clock) -> None:
        self._write = write
        self._clock = clock
        self._asked_at_ns = 0
        self._asking: asyncio.Task[str | None] | None = None

    def forget(self) -> None:
        """Find out anew when the next one asks."""
        self._asking = None

    async def failure(self) -> str | None:
        """Why no lead could be stored now; None if one could."""
        now = self._clock.monotonic_ns()
        asking = self._asking
        if asking is None or (asking.done() and now - self._asked_at_ns >= REMEMBER_FOR_NS):
            self._asked_at_ns = now
            asking = self._asking = asyncio.create_task(self._ask())
        try:
            return await asyncio.wait_for(asyncio.shield(asking), LINGER_SECONDS)
        except TimeoutError:
            return "the disk does not answer"

    async def _ask(self) -> str | None:
        try:
            await self._write()
        except StorageError as error:
            return str(error)
        return None


class Livez(Handler):
    """GET /livez: the process lives."""

    route = "/livez"

    def get(self) -> None:
        self.answer(200, {"status": "alive"})


class Readyz(Handler):
    """GET /readyz: 200 only when a lead could be stored now."""

    route = "/readyz"

    def initialize(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def get(self) -> None:
        failure = await self._readiness.failure()
        if failure is not None:
            raise Unavailable(f"no lead can be stored now: {failure}", retry_after_seconds=5)
        self.answer(200, {"status": "ready"})
