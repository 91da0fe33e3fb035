"""The sandbox's clock, which a test can freeze and advance."""

import time
from datetime import UTC, datetime, timedelta

from models.clock import Clock


class SandboxClock(Clock):
    """The machine's clock, plus the time that it was advanced by.

    A thawed clock continues from the time at which it was frozen. Only a reset sets the clock back; whatever
    was recorded by the later time must be deleted then.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Set the clock to the machine's time, and let it run."""
        self._shown, self._shown_ns = datetime.now(UTC), time.monotonic_ns()
        self._since_ns: int | None = self._shown_ns  # by the machine's clock; None while frozen

    @property
    def frozen(self) -> bool:
        """True while the clock stands still."""
        return self._since_ns is None

    def freeze(self) -> None:
        """Stop the clock."""
        self._settle()
        self._since_ns = None

    def thaw(self) -> None:
        """Let the clock run again."""
        self._settle()
        self._since_ns = time.monotonic_ns()

    def advance(self, seconds: float) -> None:
        """Set the clock forward."""
        self._settle()
        self._shown += timedelta(seconds=seconds)
        self._shown_ns += round(seconds * 1e9)

    def now(self) -> datetime:
        return self._shown + timedelta(microseconds=self._elapsed_ns() // 1_000)

    def monotonic_ns(self) -> int:
        return self._shown_ns + self._elapsed_ns()

    def _elapsed_ns(self) -> int:
        return 0 if self._since_ns is None else time.monotonic_ns() - self._since_ns

    def _settle(self) -> None:
        elapsed_ns = self._elapsed_ns()
        self._shown += timedelta(microseconds=elapsed_ns // 1_000)
        self._shown_ns += elapsed_ns
        if self._since_ns is not None:
            self._since_ns += elapsed_ns
