"""Owns the CORS allowlist: which web pages may call the API."""

import asyncio
from collections.abc import Awaitable, Callable

from models.clock import Clock
from models.origin import origin_of

NS = 1_000_000_000
TRUST_FOR_NS = 300 * NS  # how long an origin that was registered is taken to be so still (C25)
DOUBT_FOR_NS = 1 * NS  # how long one that wasn't is taken not to be, so that a new building works at once


class Allowlist:
    """The registered origins, in memory, read again when they are old or when an unknown one asks."""

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

    def knows(self, origin: str, addressed_to: str | None) -> bool:
        """True if the page's origin is allowed, by what is in memory; `addressed_to`: the request's own."""
        return origin == (self._own_origin or addressed_to) or (
            origin in self._origins and self._age_ns() <= TRUST_FOR_NS
        )

    async def allows(self, origin: str, addressed_to: str | None) -> bool:
        """True if the page's origin is allowed; reads the buildings again if memory doesn't know."""
        if self.knows(origin, addressed_to):
            return True
        async with self._reading:  # whoever comes meanwhile waits for this answer, and doesn't ask again
            if self._age_ns() > DOUBT_FOR_NS:
                read_at_ns = self._clock.monotonic_ns()
                self._origins = await self._read_origins()
                self._read_at_ns = read_at_ns
        return origin in self._origins

    def forget(self) -> None:
        """Read the buildings again when the next page asks: they were changed through this server."""
        self._read_at_ns = None
        self._origins = frozenset()

    def _age_ns(self) -> float:
        if self._read_at_ns is None:
            return float("inf")
        return self._clock.monotonic_ns() - self._read_at_ns
