"""The request log: requests to the API, mails and partner calls, and how to wait for them."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any

from models.clock import Clock, utc_text

MAX_ENTRIES = 1_000  # of each kind; the oldest are dropped
POLL_SECONDS = 0.05
MAILS, PARTNER_CALLS = OUTGOING = ("mails", "partner_calls")  # the kinds of outgoing messages


@dataclass
class RecordedRequest:
    """A request to the API and its response. generation: of the request log, when the request began."""

    generation: int
    at: datetime
    request_id: str
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytearray = field(default_factory=bytearray)  # the part that was kept
    body_bytes: int = 0  # the size of the whole body
    status: int | None = None  # None: the client closed the connection first
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b""
    error: object = None  # what an error of the API says, also if its answer is a page
    ms: float = 0.0
    lead_id: int | None = None
    replayed: bool = False  # by its Idempotency-Key, lead_id is an earlier request's lead
    fault: str | None = None  # the fault that the sandbox injected, or DRY_RUN
    preview: dict[str, Any] | None = None  # of a dry run
    diagnosis: list[dict[str, str]] = field(default_factory=list)
    number: int = 0

    def header(self, name: str) -> str | None:
        """Return the request's header of this name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def as_dict(self) -> dict[str, Any]:
        """Return the request as the sandbox's API shows it."""
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
    """The latest requests and outgoing messages of the sandbox, the oldest first.

    generation: is raised by each `clear`, so that requests from before it are not added after it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = asyncio.Event()
        self.generation = 0
        self.clear()

    def clear(self) -> None:
        """Delete every entry, and ignore requests that are in flight. Numbers begin at 1 again."""
        self.generation += 1
        self.requests: deque[RecordedRequest] = deque(maxlen=MAX_ENTRIES)
        self._outgoing: dict[str, deque[dict[str, Any]]] = {
            kind: deque(maxlen=MAX_ENTRIES) for kind in OUTGOING
        }
        self._numbers = {kind: count(1) for kind in ("requests", *OUTGOING)}
        self._lead_ids: dict[str, int] = {}  # by the id of the request that created the lead

    def add_request(self, request: RecordedRequest) -> None:
        """Add a finished request, unless the log was cleared since it began."""
        if request.generation != self.generation:
            return
        request.number = next(self._numbers["requests"])
        self.requests.append(request)
        self._notify()

    def add_lead(self, request_id: str, lead_id: int) -> None:
        """Record that this request created this lead."""
        self._lead_ids[request_id] = lead_id

    def lead_id_of(self, request_id: str | None) -> int | None:
        """Return the lead that this request created since the log was last cleared; None if there is none."""
        return self._lead_ids.get(request_id or "")

    def add_outgoing(self, kind: str, message: dict[str, Any]) -> None:
        """Add a mail or a partner call."""
        number = next(self._numbers[kind])
        self._outgoing[kind].append({"number": number, "at": utc_text(self._clock.now()), **message})
        self._notify()

    def outgoing(self, kind: str, lead_id: int | None) -> list[dict[str, Any]]:
        """Return the messages of this kind, each with its lead_id; only this lead's, if one is given."""
        messages = [
            {**message, "lead_id": self.lead_id_of(message["request_id"])} for message in self._outgoing[kind]
        ]
        return [message for message in messages if lead_id is None or message["lead_id"] == lead_id]

    async def wait_for(
        self, query: Callable[[], Awaitable[list[Any]]], at_least: int, seconds: float
    ) -> list[Any] | None:
        """Return the query's result once it has this many items; None if it has fewer when time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            found = await query()
            if len(found) >= at_least:
                return found
            remaining = deadline - loop.time()
            if remaining <= 0:
                return None
            # A change of the database sets no event, so the query also runs again after a short while.
            try:
                await asyncio.wait_for(self._changed.wait(), min(remaining, POLL_SECONDS))
            except TimeoutError:
                pass

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
