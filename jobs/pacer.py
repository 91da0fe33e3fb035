"""The pacer: slows deliveries down while leads arrive on a busy loop.

Sending a mail takes the loop several times as long as storing a lead, and only a lead has a client waiting.
So while leads arrive and the loop is busy, the dispatcher pauses between deliveries, twice as long each time.
Once the loop has time, or no leads arrive, deliveries leave at full speed.
"""

import time
from collections.abc import Callable

BUSY = 0.8  # part of its time for which the loop is busy; above it, deliveries rest longer
MEASURE_SECONDS = 0.05
LEADS_ARE_ARRIVING_SECONDS = 0.1  # for so long after a lead
FIRST_REST_SECONDS, MAX_REST_SECONDS = 0.01, 0.2


class Pacer:
    """Says how long deliveries rest before the next one. Used on the loop's thread only."""

    def __init__(self, waited_seconds: Callable[[], float]) -> None:
        """waited_seconds: returns how long the loop has waited for the disk, in all."""
        self._waited_seconds = waited_seconds
        self._measured_at = time.monotonic()
        self._used = self._used_seconds()
        self._lead_at = -LEADS_ARE_ARRIVING_SECONDS
        self._rest = 0.0

    def lead_committed(self) -> None:
        """Note that a lead was stored."""
        self._lead_at = time.monotonic()

    @property
    def leads_are_arriving(self) -> bool:
        """Whether claims and settlements are to share the leads' commits."""
        return self._lead_arrived_before(time.monotonic())

    def rest_seconds(self) -> float:
        """Return how long to rest before the next delivery; 0 for not at all."""
        now = time.monotonic()
        if not self._lead_arrived_before(now):
            self._rest = 0.0
        elif now - self._measured_at >= MEASURE_SECONDS:
            used = self._used_seconds()
            busy = (used - self._used) / (now - self._measured_at)
            self._measured_at, self._used = now, used
            self._rest = next_rest(self._rest, busy)
        return self._rest

    def _lead_arrived_before(self, now: float) -> bool:
        return now - self._lead_at <= LEADS_ARE_ARRIVING_SECONDS

    def _used_seconds(self) -> float:
        return time.thread_time() + self._waited_seconds()


def next_rest(rest: float, busy: float) -> float:
    """Return the rest after this one, in seconds. busy: the part of its time for which the loop was busy."""
    if busy > BUSY:
        return min(max(2 * rest, FIRST_REST_SECONDS), MAX_REST_SECONDS)
    return rest / 2 if rest > FIRST_REST_SECONDS else 0.0
