"""Owns the courtesy that deliveries show to leads: while these keep the loop busy, they take short turns.

A mail takes several times as long to send as a lead to store, and a renter waits for the one but not for the
other. So while leads come and little of the loop's time is left, deliveries rest between turns, longer and
longer; as soon as there is time, or no more leads, they leave as fast as they can.
"""

import time

BUSY = 0.8  # of a processor, from which on the loop has little time left
LOOK_EVERY_SECONDS = 0.05
LEADS_ARE_COMING_SECONDS = 0.1  # for so long after one
FIRST_REST_SECONDS, LONGEST_REST_SECONDS = 0.01, 0.2


class Courtesy:
    """How long deliveries are to rest before the next one. For the loop's thread."""

    def __init__(self) -> None:
        self._looked_at = time.monotonic()
        self._used = time.thread_time()
        self._lead_at = -LEADS_ARE_COMING_SECONDS
        self._rest = 0.0

    def lead_came(self) -> None:
        """A lead was stored."""
        self._lead_at = time.monotonic()

    def rest_seconds(self) -> float:
        """How long to rest now; 0 if there is no need to."""
        now = time.monotonic()
        if now - self._lead_at > LEADS_ARE_COMING_SECONDS:
            self._rest = 0.0
        elif now - self._looked_at >= LOOK_EVERY_SECONDS:
            used = time.thread_time()
            busy = (used - self._used) / (now - self._looked_at)
            self._looked_at, self._used = now, used
            self._rest = adapted(self._rest, busy)
        return self._rest


def adapted(rest: float, busy: float) -> float:
    """The next rest in seconds, after this one, if the loop was busy for this part of the time."""
    if busy > BUSY:
        return min(max(2 * rest, FIRST_REST_SECONDS), LONGEST_REST_SECONDS)
    return rest / 2 if rest > FIRST_REST_SECONDS else 0.0
