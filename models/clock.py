"""The clock that all logic asks for the time, so that a test can step it."""

import functools
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


@functools.lru_cache(256)  # the same instant is written several times in a row
def utc_text(instant: datetime) -> str:
    """Return an aware instant as the database and every JSON listing have it: 2026-11-23T10:00:00.000000Z."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def utc_text_or_none(instant: datetime | None) -> str | None:
    """Return `utc_text(instant)`, or None."""
    return None if instant is None else utc_text(instant)
