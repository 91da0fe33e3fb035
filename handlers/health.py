"""Health checks: whether the process is alive, and whether a lead could be stored now."""

import asyncio
from collections.abc import Awaitable, Callable

from handlers.base import Handler
from handlers.errors import Unavailable
from models.clock import Clock
from models.storage import StorageError

CACHED_NS = 1_000_000_000
CHECK_TIMEOUT_SECONDS = 2.0


class Readiness:
    """Check whether a lead could be stored, by a write: at most one a second, and one at a time."""

    def __init__(self, check: Callable[[], Awaitable[object]], clock: Clock) -> None:
        """check: write, and raise StorageError if that fails."""
        self._check = check
        self._clock = clock
        self._started_ns = 0
        self._running: asyncio.Task[str | None] | None = None
        self.is_stopping = False  # a balancer is to send requests elsewhere

    def forget(self) -> None:
        """Drop the cached result."""
        self._running = None

    async def failure(self) -> str | None:
        """Return why no lead should be sent now; None if one could be stored."""
        if self.is_stopping:
            return "the server is stopping"
        now = self._clock.monotonic_ns()
        running = self._running
        if running is None or (running.done() and now - self._started_ns >= CACHED_NS):
            self._started_ns = now
            running = self._running = asyncio.create_task(self._run())
        try:
            return await asyncio.wait_for(asyncio.shield(running), CHECK_TIMEOUT_SECONDS)
        except TimeoutError:
            return "the database does not answer"

    async def _run(self) -> str | None:
        try:
            await self._check()
        except StorageError as error:
            return str(error)
        return None


class Livez(Handler):
    """GET /livez: 200 while the process is alive."""

    route = "/livez"

    def get(self) -> None:
        self.write_json(200, {"status": "alive"})


class Readyz(Handler):
    """GET /readyz: 200 only when a lead could be stored now."""

    route = "/readyz"

    def initialize(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def get(self) -> None:
        failure = await self._readiness.failure()
        if failure is not None:
            raise Unavailable(f"no lead can be stored now: {failure}", retry_after_seconds=5)
        self.write_json(200, {"status": "ready"})
