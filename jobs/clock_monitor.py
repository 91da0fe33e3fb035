"""The clock monitor: if the time of day is set back, moves the times for which the outbox waits.

The scheduler's ticks go by the machine's clock, and the outbox by the storage's: of servers that share a
database it is the database's.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from models.clock import Clock
from models.outbox.clock_changes import cap_due_times, shift_due_times
from models.storage import Storage

log = logging.getLogger("leads.clock")

CHECK_SECONDS = 5.0
SLEW = timedelta(seconds=2)  # by how much NTP may adjust the clock between two checks; more is a step


async def monitor_clock(
    clock: Clock, storage: Storage, wake: Callable[[], None], reschedule: Callable[[], None]
) -> None:
    """Check the clock every CHECK_SECONDS of the loop's own time, which is never set. Never returns.

    The scheduler's ticks go by the time of day. If the clock is set back an hour, they stop for an hour, and
    deliveries wait an hour longer. wake: wakes the dispatcher. reschedule: restarts the ticks from now.
    """
    monitor = ClockMonitor(clock, storage, wake, reschedule)
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        try:
            await monitor.check()
        except Exception:  # without the monitor the outbox could stop for hours
            log.exception("the clock monitor failed")


async def cap_all_due_times(storage: Storage, clock: Clock) -> None:
    """Make every delivery due now that waits longer than its backoff. Raises StorageError."""
    while await storage.write(cap_due_times, clock.now()):
        pass


class ClockMonitor:
    """Compares the time of day with the monotonic clock, from one check to the next."""

    def __init__(
        self, clock: Clock, storage: Storage, wake: Callable[[], None], reschedule: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._storage = storage
        self._wake = wake
        self._reschedule = reschedule
        self._steps, self._machine_steps = _Steps(clock), _Steps(Clock())
        self._unapplied = timedelta(0)  # by how much the outbox's times are still to be moved back

    async def check(self) -> None:
        """Move the outbox's times if the clock was set back, and wake the dispatcher.

        On a shared database each server would move them, so only waits that are too long are cut short.
        Raises StorageError; the next check then moves the times.
        """
        if self._machine_steps.set_back():
            self._reschedule()
        self._unapplied += self._steps.set_back()
        self._wake()
        if self._unapplied:
            if self._storage.is_shared:
                await cap_all_due_times(self._storage, self._clock)
            else:
                await self._storage.write(shift_due_times, self._unapplied, self._clock.now())
            self._unapplied = timedelta(0)
            self._wake()


class _Steps:
    """The steps of a clock's time of day, from one look to the next."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = self._measure_offset()

    def set_back(self) -> timedelta:
        """Return by how much the clock was set back since the last look."""
        earlier, self._offset = self._offset, self._measure_offset()
        step = earlier - self._offset
        return step if step > SLEW else timedelta(0)

    def _measure_offset(self) -> timedelta:
        """Return how far the time of day is ahead of the monotonic clock."""
        monotonic = timedelta(microseconds=self._clock.monotonic_ns() // 1_000)
        return timedelta(seconds=self._clock.now().timestamp()) - monotonic
