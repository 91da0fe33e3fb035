"""Owns the watch over the time of day: set back, it holds the outbox up for seconds, not for hours."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from models.clock import Clock
from models.outbox.clock_changes import shift_due_times
from models.storage import Storage

log = logging.getLogger("leads.clock")

LOOK_EVERY_SECONDS = 5.0
SLEWING = timedelta(seconds=2)  # what a clock may be put right by between two looks; more is a step


async def monitor_clock(
    clock: Clock, storage: Storage, wake: Callable[[], None], tick_on: Callable[[], None]
) -> None:
    """Wake the dispatcher now and then, by the loop's own time, which no one can set; never returns.

    The scheduler's ticks go by the time of day: set back an hour, they would stop for an hour, and what is to
    leave at a certain time would wait an hour longer. tick_on: has the scheduler go on from now.
    """
    monitor = ClockMonitor(clock, storage, wake, tick_on)
    while True:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        try:
            await monitor.look()
        except Exception:  # it is the net under the others, and must not tear
            log.exception("the clock monitor failed")


class ClockMonitor:
    """Compares the time of day with the running time, from one look to the next."""

    def __init__(
        self, clock: Clock, storage: Storage, wake: Callable[[], None], tick_on: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._storage = storage
        self._wake = wake
        self._tick_on = tick_on
        self._ahead = self._time_of_day_ahead()
        self._owed = timedelta(0)  # by how much what waits is still to be moved

    async def look(self) -> None:
        """Move what waits along if the clock was set back, and wake the dispatcher."""
        ahead = self._time_of_day_ahead()
        if self._ahead - ahead > SLEWING:
            self._owed += self._ahead - ahead
            self._tick_on()
        self._ahead = ahead
        self._wake()
        if self._owed:  # and still is after a failure, at the next look
            await self._storage.write(shift_due_times, self._owed, self._clock.now())
            self._owed = timedelta(0)
            self._wake()

    def _time_of_day_ahead(self) -> timedelta:
        running = timedelta(microseconds=self._clock.monotonic_ns() // 1_000)
        return timedelta(seconds=self._clock.now().timestamp()) - running
