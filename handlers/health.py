"""Owns the health checks: is the process alive, and could it store a lead now."""

from collections.abc import Awaitable, Callable

from handlers.base import Handler
from handlers.errors import Unavailable
from models.clock import Clock
from models.database import StorageError

REMEMBER_FOR_NS = 1_000_000_000


class Readiness:
    """Whether a lead could be stored: found out by a write, at most once a second."""

    def __init__(self, write: Callable[[], Awaitable[object]], clock: Clock) -> None:
        self._write = write
        self._clock = clock
        self._asked_at_ns: int | None = None
        self._failure: str | None = None

    async def failure(self) -> str | None:
        """Why no lead could be stored now; None if one could."""
        now = self._clock.monotonic_ns()
        if self._asked_at_ns is None or now - self._asked_at_ns >= REMEMBER_FOR_NS:
            self._asked_at_ns = now
            try:
                await self._write()
                self._failure = None
            except StorageError as error:
                self._failure = str(error)
        return self._failure


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
