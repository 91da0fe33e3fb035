"""The log of storage failures: not a line for each lead while a database is away."""

import logging
import time

log = logging.getLogger("leads.writer")

REPEAT_SECONDS = 10.0


class FailureLog:
    """Logs each reason at most once in REPEAT_SECONDS, with the writes that failed since its last line."""

    def __init__(self) -> None:
        self._logged_at: dict[str, float] = {}  # by the reason
        self._writes = 0  # that failed since the last line

    def failed(self, reason: str, writes: int) -> None:
        """Note that so many writes failed."""
        now = time.monotonic()
        self._writes += writes
        if now - self._logged_at.get(reason, float("-inf")) < REPEAT_SECONDS:
            return
        log.error("storage failed", extra={"reason": reason, "writes": self._writes})
        recent = {each: at for each, at in self._logged_at.items() if now - at < REPEAT_SECONDS}
        self._logged_at, self._writes = {**recent, reason: now}, 0
