"""The clock of servers that share a database: the database's, so that all of them agree."""

import time
from datetime import UTC, datetime

from models.clock import Clock

LONGEST_SECONDS = 1.0  # that the answer to a measurement may take


class DatabaseClock(Clock):
    """The database's time of day: measured now and then, and carried on by the machine's monotonic clock.

    Until the first measurement it is the machine's. So a machine whose time of day is wrong, or is set, moves
    no time in the database.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()
        self.measured_at = float("-inf")  # by the monotonic clock

    def measured(self, epoch: float, sent: float, received: float) -> None:
        """Take note of the database's time in seconds since 1970.

        sent, received: when it was asked for and when it came, by the monotonic clock. If that took long, the
        time is not known well, and an earlier measurement stays.
        """
        if received - sent > LONGEST_SECONDS and self.measured_at > float("-inf"):
            return
        self._offset = epoch - (sent + received) / 2
        self.measured_at = received

    def now(self) -> datetime:
        """As `Clock.now`."""
        return datetime.fromtimestamp(time.monotonic() + self._offset, UTC)
