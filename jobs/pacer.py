"""Owns the pacer that deliveries show to leads: while these keep the loop busy, they take short turns.

A mail takes several times as long to send as a lead to store, and a renter waits for the one but not for the
other. So while leads come and little of the loop's time is left, deliveries rest between turns, longer and
longer; as soon as there is time, or no more leads, they leave as fast as they can.
"""

import time
from collections.abc import Callable

BUSY = 0.8  # of a processor, from which on the loop has little time left
LOOK_EVERY_SECONDS = 0.05
LEADS_ARE_COMING_SECONDS = 0.1  # for so long after one
FIRST_REST_SECONDS, LONGEST_REST_SECONDS = 0.01, 0.2


class Pacer:
    """How long deliveries are to rest before the next one. For the loop's thread."""

    def __init__(self, waited_seconds: Callable[[], float]) -> None:
        """waited_seconds: how long the loop has waited for the disk, in all."""
        self._waited_seconds = waited_seconds
        self._looked_at = time.monotonic()
        self._used = self._used_seconds()
        self._lead_at = -LEADS_ARE_COMING_SECONDS
        self._rest = 0.0

    def lead_came(self) -> None:
        """A lead was stored."""
        self._lead_at = time.monotonic()

    @property
    def leads_are_coming(self) -> bool:
        """Whether what is claimed and settled is to be written along with leads, not before them."""
        return self._leads_came_by(time.monotonic())

    def rest_seconds(self) -> float:
        """How long to rest now; 0 if there is no need to."""
        now = time.monotonic()
        if not self._leads_came_by(now):
            self._rest = 0.0
        elif now - self._looked_at >= LOOK_EVERY_SECONDS:
            used = self._used_seconds()
            busy = (used - self._used) / (now - self._looked_at)
            self._looked_at, self._used = now, used
            self._rest = adapted(self._rest, busy)
        return self._rest

    def _leads_came_by(self, now: float) -> bool:
        return now - self._lead_at <= LEADS_ARE_COMING_SECONDS

    def _used_seconds(self) -> float:
        return time.thread_time() + self._waited_seconds()


def adapted(rest: float, busy: float) -> float:
    """The next rest in seconds, after this one, if the loop was busy for this part of the time."""
    if busy > BUSY:
        return min(max(2 * rest, FIRST_REST_SECONDS), LONGEST_REST_SECONDS)
    return rest / 2 if rest > FIRST_REST_SECONDS else 0.0
