"""Owns what the sandbox does to an exchange of the API: watches it, harms it if told to, tries it dry."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, RequestStartLine, ResponseStartLine

from handlers.api.admission import MAX_BODY_BYTES, THROTTLED
from handlers.api.body import decode_body
from handlers.api.context import ApiContext
from handlers.api.handler import ApiHandler
from handlers.api.leads import LeadsHandler
from handlers.api.validation import read_submission
from handlers.errors import ApiError, InternalError, Unavailable
from handlers.sandbox.diagnosis import Facts, diagnose
from handlers.sandbox.faults import API, CUT, SLOW, BadFault, Fault, Faults, read_fault
from handlers.sandbox.request_log import Attempt, RequestLog
from models.intake import KeyReused, Recorded, Submission
from models.storage import StorageError, WriteResult

DRY_RUN = "dry-run"
_PREFERENCE = re.compile(r'\s*([\w-]+)\s*(?:=\s*"?([\w.-]*)"?)?\s*')


@dataclass(frozen=True, slots=True)
class Recorder:
    """What a watched exchange works with. over: is told of each attempt when it is over. preview: what would
    be stored of a lead.
    """

    request_log: RequestLog
    faults: Faults
    over: Callable[[Attempt], None]
    preview: Callable[[Submission], Awaitable[dict[str, Any]]]


class RecordedHandler(ApiHandler):
    """An exchange that is written down."""

    request_headers = ApiHandler.request_headers + ", Prefer"

    def __init__(self, watch: Recorder, api: ApiContext, connection: HTTP1Connection) -> None:
        super().__init__(api, connection)
        self._watch = watch
        self._harm: Fault | None = None  # to be done to the answer
        self._ended = False
        self._attempt = Attempt(watch.request_log.generation, api.clock.now(), self.request_id, "", "", [])

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Write the head of the request down."""
        assert isinstance(start_line, RequestStartLine)
        self._attempt.method, self._attempt.path = start_line.method, start_line.path
        self._attempt.headers = list(headers.get_all())
        return super().headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> None:
        """Write the body down, of a request that is refused as well."""
        self._attempt.body_bytes += len(chunk)
        self._attempt.body += chunk[: MAX_BODY_BYTES - len(self._attempt.body)]
        super().data_received(chunk)

    def on_connection_close(self) -> None:
        """The client has hung up; that is written down, too."""
        super().on_connection_close()
        self._end()

    def send(self, status: int, content: bytes) -> None:
        """Send the answer, late or in part if that is the fault, and write it down."""
        if self._harm is None:
            super().send(status, content)
        elif self._harm.what == SLOW:
            delay, self._harm = self._harm.seconds, None
            asyncio.get_running_loop().call_later(delay, self.send, status, content)
            return
        else:
            self._cut(status, content)
        attempt = self._attempt
        attempt.status, attempt.answer, attempt.answer_headers = status, content, self.response_headers
        attempt.ms = 1e3 * self.seconds
        self._end()

    def _end(self) -> None:
        if not self._ended:  # a body that goes on and on is refused, and then the connection ends as well
            self._ended = True
            self._watch.over(self._attempt)

    def _cut(self, status: int, content: bytes) -> None:
        headers = HTTPHeaders({**self.response_headers, "Content-Length": str(len(content))})
        start_line = ResponseStartLine("HTTP/1.1", status, HTTPStatus(status).phrase)
        sent = self._connection.write_headers(start_line, headers, content[: len(content) // 2])
        sent.add_done_callback(lambda done: self._connection.stream.close())
        self.api.in_flight.discard(self)


class RecordedLeadsHandler(RecordedHandler, LeadsHandler):
    """The same for a lead, with the faults that were asked for, by the client or of the sandbox."""

    def post(self) -> None:
        preferences = read_preferences(self.headers.get("Prefer", ""))
        fault = _asked_for(preferences) or self._watch.faults.next_fault(API)
        if fault is not None:
            self._attempt.fault = fault.what
            self.response_headers["Preference-Applied"] = fault.what
            if fault.status is not None:
                raise _refusal(fault, self.request_id)
            self._harm = fault
        if DRY_RUN in preferences:
            self._try_dry()
        else:
            super().post()

    def write_stored(self, result: WriteResult[Recorded | KeyReused]) -> None:
        """Remember which lead it was, before its mail can come."""
        lead = result.value
        if isinstance(lead, Recorded):
            lead_id = self._attempt.lead_id = lead.lead_id
            self._attempt.replayed = lead.replayed
            if not lead.replayed:
                self._watch.request_log.note_lead(self.request_id, lead_id)
        super().write_stored(result)

    def _try_dry(self) -> None:
        self._attempt.fault = DRY_RUN
        self.response_headers["Preference-Applied"] = DRY_RUN
        document = decode_body(self.headers.get("Content-Type", ""), bytes(self.body))
        submission = read_submission(document, self.metadata(document))
        looking = asyncio.ensure_future(self._watch.preview(submission))
        looking.add_done_callback(lambda done: self.run(self._answer_preview, done))

    def _answer_preview(self, looking: "asyncio.Future[dict[str, Any]]") -> None:
        try:
            preview = self._attempt.preview = looking.result()
        except StorageError:
            raise Unavailable("the server can't read its data now", 5) from None
        said = diagnose(self._attempt, Facts(preview["building"], preview["nobody_told_because"]))
        self.write_json(200, {"dry_run": True, "would_store": preview, "diagnosis": said})


def read_preferences(text: str) -> dict[str, str]:
    """Prefer: code=503, delay="2" (RFC 7240) → {"code": "503", "delay": "2"}."""
    found = [_PREFERENCE.match(part) for part in text.split(",")]
    return {match[1].lower(): match[2] or "" for match in found if match}


def _asked_for(preferences: dict[str, str]) -> Fault | None:
    try:
        if "code" in preferences:
            return read_fault({"on": API, "what": preferences["code"]})
        if "delay" in preferences:
            return read_fault({"on": API, "what": SLOW, "seconds": _number(preferences["delay"])})
        if CUT in preferences:
            return read_fault({"on": API, "what": CUT})
    except BadFault as error:
        raise ApiError(400, f"Prefer: {error}", quotes_client=True) from None
    return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _refusal(fault: Fault, request_id: str) -> ApiError:
    wait = str(max(1, round(fault.seconds)))
    if fault.status == 429:
        return ApiError(429, THROTTLED, Retry_After=wait)
    if fault.status == 503:
        return Unavailable("the server can't store leads now; the lead was not stored", int(wait))
    return InternalError(request_id)
