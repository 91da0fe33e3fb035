"""The daily counter: adds events to the daily counts, in few writes."""

from functools import partial

from models.clock import Clock
from models.daily_count import add_counts
from models.storage import Overloaded, Submitter, WriteResult

FLUSH_SECONDS = 60


class DailyCounter:
    """Counts events by name and day. A count that can't be written now is kept for the next `flush`."""

    def __init__(self, storage: Submitter, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._buffered: dict[str, int] = {}  # events that are not yet written, by the names written of late

    def count(self, name: str, events: int = 1) -> None:
        """Add events to the count of this name, in a write of their own."""
        keep = partial(self._keep, name, events)
        try:
            self._storage.submit(add_counts, (name, self._clock.now(), events), keep, linger=True)
        except Overloaded as error:
            keep(WriteResult(error=error))

    def count_buffered(self, name: str) -> None:
        """Add an event that a flood may repeat: at most one write between two calls of `flush`."""
        if name in self._buffered:
            self._buffered[name] += 1
        else:
            self._buffered[name] = 0
            self.count(name)

    async def flush(self) -> None:
        """Write what is buffered. A job of the scheduler, every FLUSH_SECONDS."""
        buffered = {name: events for name, events in self._buffered.items() if events}
        self._buffered = dict.fromkeys(buffered, 0)
        for name, events in buffered.items():
            self.count(name, events)

    def _keep(self, name: str, events: int, result: WriteResult[None]) -> None:
        if result.error is not None:
            self._buffered[name] = self._buffered.get(name, 0) + events
