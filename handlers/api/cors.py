"""The CORS allowlist: the origins of the web pages that may call the API (C25)."""

import asyncio
from collections.abc import Awaitable, Callable

from models.clock import Clock
from models.origin import origin_of

NS = 1_000_000_000
ALLOWED_TTL_NS = 300 * NS  # how long a registered origin stays allowed without another read (C25)
UNKNOWN_TTL_NS = 1 * NS  # how long an unknown origin stays refused: a new building works within a second


class Allowlist:
    """The registered origins, in memory. They are read again when they are old, or an origin is unknown."""

    def __init__(
        self,
        read_origins: Callable[[], Awaitable[frozenset[str]]],
        public_url: str,
        clock: Clock,
    ) -> None:
        self._read_origins = read_origins
        self._own_origin = origin_of(public_url) if public_url else None
        self._clock = clock
        self._origins: frozenset[str] = frozenset()
        self._read_at_ns: int | None = None
        self._reading = asyncio.Lock()

    def knows(self, origin: str, requested: str | None) -> bool:
        """Return True if the page's origin is allowed, by what is in memory.

        requested: the origin that the request was addressed to. It is allowed while no public URL is set.
        """
        return origin == (self._own_origin or requested) or (
            origin in self._origins and self._age_ns() <= ALLOWED_TTL_NS
        )

    async def allows(self, origin: str, requested: str | None) -> bool:
        """Return True if the page's origin is allowed; read the origins again if memory lacks it.

        Raises StorageError.
        """
        if self.knows(origin, requested):
            return True
        async with self._reading:  # concurrent requests share one read
            if self._age_ns() > UNKNOWN_TTL_NS:
                read_at_ns = self._clock.monotonic_ns()
                self._origins = await self._read_origins()
                self._read_at_ns = read_at_ns
        return origin in self._origins

    def forget(self) -> None:
        """Drop the origins in memory, as this server has changed a building."""
        self._read_at_ns = None
        self._origins = frozenset()

    def _age_ns(self) -> float:
        if self._read_at_ns is None:
            return float("inf")
        return self._clock.monotonic_ns() - self._read_at_ns
