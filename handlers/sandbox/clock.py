"""Owns the sandbox's clock, which can be stopped and set forward."""

import time
from datetime import UTC, datetime, timedelta

from models.clock import Clock


class SandboxClock(Clock):
    """The machine's clock, until it is frozen, and so much further on as it was advanced by.

    Thawed, it goes on from where it stood. It goes back in a reset alone, and then all that went by it must
    be forgotten.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Be the machine's clock again."""
        self._shown, self._shown_ns = datetime.now(UTC), time.monotonic_ns()
        self._since_ns: int | None = self._shown_ns  # of the machine; None while it is frozen

    @property
    def frozen(self) -> bool:
        """True while it stands still."""
        return self._since_ns is None

    def freeze(self) -> None:
        """Stand still."""
        self._settle()
        self._since_ns = None

    def thaw(self) -> None:
        """Go on."""
        self._settle()
        self._since_ns = time.monotonic_ns()

    def advance(self, seconds: float) -> None:
        """Be so much later at once."""
        self._settle()
        self._shown += timedelta(seconds=seconds)
        self._shown_ns += round(seconds * 1e9)

    def now(self) -> datetime:
        return self._shown + timedelta(microseconds=self._run_ns() // 1_000)

    def monotonic_ns(self) -> int:
        return self._shown_ns + self._run_ns()

    def _run_ns(self) -> int:
        return 0 if self._since_ns is None else time.monotonic_ns() - self._since_ns

    def _settle(self) -> None:
        run_ns = self._run_ns()
        self._shown += timedelta(microseconds=run_ns // 1_000)
        self._shown_ns += run_ns
        if self._since_ns is not None:
            self._since_ns += run_ns
