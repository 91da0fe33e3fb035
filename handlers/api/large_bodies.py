"""Queue of requests with large bodies: each turn of the event loop reads one."""

import asyncio
from collections import deque
from collections.abc import Callable

LARGE_BODY_BYTES = 4 * 1024  # ten ordinary leads; a body of 64 KiB may take 10 ms


class LargeBodies:
    """Queue of calls, of which each turn of the event loop makes one.

    So the small leads of others wait for one large body, and not for as many as have come at once.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._scheduled = False

    def submit(self, call: Callable[[], None]) -> None:
        """Make this call once it has its turn."""
        self._waiting.append(call)
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._call_next)

    def _call_next(self) -> None:
        self._scheduled = False
        call = self._waiting.popleft()
        self._schedule()
        call()
