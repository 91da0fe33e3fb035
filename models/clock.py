"""Owns the time: the one place that asks the machine what time it is, so that a test can step it."""

import time
from datetime import UTC, datetime


class Clock:
    """The machine's clock. Whatever depends on time takes one of these."""

    def now(self) -> datetime:
        """The time of day, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic_ns(self) -> int:
        """Nanoseconds since some fixed moment; never goes back, whatever happens to the time of day."""
        return time.monotonic_ns()
