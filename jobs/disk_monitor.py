"""The disk monitor: measures the free space of the data folder's disk, for the space budget."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from jobs.daemon_threads import DaemonThreads
from models.disk_space import DiskSpace, SpaceBudget

log = logging.getLogger("leads.disk")

CHECK_SECONDS = 2
TIMEOUT_SECONDS = 1.0  # less than CHECK_SECONDS, so that no check meets the one before

ENOUGH, LOW, UNKNOWN = "enough", "low", "unknown"
_EVENTS = {
    ENOUGH: "the disk has room again",
    LOW: "the disk is nearly full: addresses that have stored much today can store no more until it has room",
    UNKNOWN: "the free space of the disk can't be measured: no lead is refused for lack of it",
}


class DiskMonitor:
    """Sets a budget's `is_low` by measurements, and logs each change once."""

    def __init__(self, measure: Callable[[], DiskSpace], budget: SpaceBudget) -> None:
        """measure: may block, and may raise any error."""
        self._measure = measure
        self._budget = budget
        self._state = ENOUGH
        # A network disk may hang. Its thread then delays neither the loop nor the end of the process.
        self._threads = DaemonThreads()
        self._measuring: asyncio.Future[DiskSpace] | None = None

    async def check(self) -> None:
        """Measure once. A disk that fails, or does not answer within TIMEOUT_SECONDS, is not low."""
        state, facts = await self._measured_state()
        self._budget.is_low = state == LOW
        if state != self._state:
            self._state = state
            log.warning(_EVENTS[state], extra=facts)

    async def _measured_state(self) -> tuple[str, dict[str, Any]]:
        if self._measuring is None:  # else a thread still waits for the disk: one is enough
            loop = asyncio.get_running_loop()
            self._measuring = loop.run_in_executor(self._threads, self._measure)
        await asyncio.wait([self._measuring], timeout=TIMEOUT_SECONDS)
        if not self._measuring.done():
            return UNKNOWN, {"reason": "the disk does not answer"}
        measuring, self._measuring = self._measuring, None
        try:
            space = measuring.result()
        except Exception as error:  # whatever it is, no lead is refused for it
            return UNKNOWN, {"reason": getattr(error, "strerror", None) or type(error).__name__}
        facts = {"free_bytes": space.free_bytes, "low_below_bytes": space.reserve_bytes}
        return LOW if space.is_low else ENOUGH, facts
