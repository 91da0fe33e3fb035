"""The request log: requests to the API, mails and partner calls, and waiting for them."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any

from models.clock import Clock, utc_text

KEPT = 1_000  # of each kind; the oldest go first
LOOK_AGAIN_SECONDS = 0.05
MAILS, PARTNER_CALLS = LEFT = ("mails", "partner_calls")  # what leaves because of a lead


@dataclass
class Attempt:
    """One request to the API and what was answered. generation: of the request_log that it began in."""

    generation: int
    at: datetime
    request_id: str
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytearray = field(default_factory=bytearray)
    body_bytes: int = 0  # how large it was; `body` is what was kept of it
    status: int | None = None  # None: nothing was answered
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b""
    ms: float = 0.0
    lead_id: int | None = None
    replayed: bool = False  # it was answered with an earlier lead, by its Idempotency-Key
    fault: str | None = None  # what the sandbox was told to do to it
    preview: dict[str, Any] | None = None  # of a dry run: what would be stored
    diagnosis: list[dict[str, str]] = field(default_factory=list)
    number: int = 0

    def header(self, name: str) -> str | None:
        """The request's header of this name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def as_dict(self) -> dict[str, Any]:
        """As the sandbox's API shows it."""
        return {
            "number": self.number,
            "at": utc_text(self.at),
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "headers": self.headers,
            "body": self.body.decode(errors="replace"),
            "body_bytes": self.body_bytes,
            "status": self.status,
            "answer_headers": self.answer_headers,
            "answer": self.answer.decode(errors="replace"),
            "ms": round(self.ms, 1),
            "lead_id": self.lead_id,
            "fault": self.fault,
            "diagnosis": self.diagnosis,
        }


class RequestLog:
    """What has happened in the sandbox, the oldest first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = asyncio.Event()
        self.generation = 0
        self.clear()

    def clear(self) -> None:
        """Forget all of it, and what is still going on; the numbers begin at 1 again."""
        self.generation += 1
        self.attempts: deque[Attempt] = deque(maxlen=KEPT)
        self._left: dict[str, deque[dict[str, Any]]] = {kind: deque(maxlen=KEPT) for kind in LEFT}
        self._numbers = {kind: count(1) for kind in ("attempts", *LEFT)}
        self._leads: dict[str, int] = {}  # by the id of the request that brought it

    def add_attempt(self, attempt: Attempt) -> None:
        """Remember an attempt that is over."""
        if attempt.generation != self.generation:
            return
        attempt.number = next(self._numbers["attempts"])
        self.attempts.append(attempt)
        self._tell()

    def note_lead(self, request_id: str, lead_id: int) -> None:
        """Remember which lead a request brought."""
        self._leads[request_id] = lead_id

    def add(self, kind: str, thing: dict[str, Any]) -> None:
        """Remember a mail that was taken, or a call that the partner had."""
        number = next(self._numbers[kind])
        self._left[kind].append({"number": number, "at": utc_text(self._clock.now()), **thing})
        self._tell()

    def about(self, kind: str, lead: int | None) -> list[dict[str, Any]]:
        """What left of this kind, with the lead that it is about; of this lead alone, if one is named."""
        known = [{**one, "lead_id": self.lead_of(one["request_id"])} for one in self._left[kind]]
        return [one for one in known if lead is None or one["lead_id"] == lead]

    async def wait_for(
        self, look: Callable[[], Awaitable[list[Any]]], enough: int, seconds: float
    ) -> list[Any] | None:
        """What `look` finds, once it is enough of it; None if it isn't within so many seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            found = await look()
            if len(found) >= enough:
                return found
            left = until - loop.time()
            if left <= 0:
                return None
            # Not everything that may be waited for is told of: what is in the database, for one.
            try:
                await asyncio.wait_for(self._changed.wait(), min(left, LOOK_AGAIN_SECONDS))
            except TimeoutError:
                pass

    def lead_of(self, request_id: str | None) -> int | None:
        """The lead that this request brought; None of one from before all was forgotten."""
        return self._leads.get(request_id or "")

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
