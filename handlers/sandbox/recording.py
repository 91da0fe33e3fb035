"""Recording of requests to the API, with fault injection and dry runs."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from tornado.httputil import HTTPHeaders, RequestStartLine, ResponseStartLine

from handlers.api.admission import MAX_BODY_BYTES
from handlers.api.context import ApiContext
from handlers.api.handler import ApiHandler
from handlers.api.leads import LeadsHandler
from handlers.api.preferences import DRY_RUN, parse_preferences
from handlers.errors import ApiError, InternalError, Throttled, Unavailable
from handlers.http_connection import LimitedConnection
from handlers.sandbox.diagnosis import diagnose, find_duplicate, read_facts
from handlers.sandbox.faults import API, CUT, SLOW, Fault, Faults, InvalidFault, parse_fault
from handlers.sandbox.preview import preview_lead
from handlers.sandbox.request_log import RecordedRequest, RequestLog
from handlers.sandbox.rules import Facts
from models.intake import KeyReused, Recorded, Submission
from models.storage import Storage, StorageError, WriteResult


class Recorder:
    """Diagnoses each finished request, and adds it to the request log."""

    def __init__(self, request_log: RequestLog, faults: Faults, storage: Storage) -> None:
        self.request_log = request_log
        self.faults = faults
        self.storage = storage
        self._recording: set[asyncio.Task[None]] = set()

    def on_finished(self, request: RecordedRequest) -> None:
        """Begin to record a request that got its response, or whose client closed the connection."""
        task = asyncio.create_task(self._record(request))
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)

    async def wait_until_recorded(self) -> None:
        """Wait until every request that is finished by now is in the request log."""
        if self._recording:
            await asyncio.wait(self._recording)

    async def _record(self, request: RecordedRequest) -> None:
        duplicate_of = find_duplicate(request, self.request_log.requests)
        facts = Facts()
        if request.preview is not None:
            facts = Facts(request.preview["building"], request.preview["nobody_told_because"])
        else:
            with suppress(StorageError):  # the diagnosis is then less complete
                facts = await self.storage.read(read_facts, request)
        request.diagnosis = diagnose(request, replace(facts, duplicate_of=duplicate_of))
        self.request_log.add_request(request)


class RecordedHandler(ApiHandler):
    """API request handler that records the request and its response."""

    request_headers = (*ApiHandler.request_headers, "Prefer")

    def __init__(self, recorder: Recorder, api: ApiContext, connection: LimitedConnection) -> None:
        super().__init__(api, connection)
        self._recorder = recorder
        self._response_fault: Fault | None = None  # delays or cuts the response
        self._finished = False
        self._recorded = RecordedRequest(
            recorder.request_log.generation, api.clock.now(), self.request_id, "", "", []
        )

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Record the request line and the headers."""
        assert isinstance(start_line, RequestStartLine)
        self._recorded.method, self._recorded.path = start_line.method, start_line.path
        self._recorded.headers = list(headers.get_all())
        return super().headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> None:
        """Record a part of the body, also when the request is refused."""
        self._recorded.body_bytes += len(chunk)
        self._recorded.body += chunk[: MAX_BODY_BYTES - len(self._recorded.body)]
        super().data_received(chunk)

    def on_connection_close(self) -> None:
        """Record that the client closed the connection before it got a response."""
        super().on_connection_close()
        self._finish_recording()

    def write_error_body(self, error: ApiError) -> None:
        """Record what the error says, then answer."""
        self._recorded.error = error.message
        super().write_error_body(error)

    def send(self, status: int, content: bytes) -> None:
        """Send the response, delayed or cut if a fault says so, and record it."""
        if self._response_fault is None:
            super().send(status, content)
        elif self._response_fault.what == SLOW:
            delay, self._response_fault = self._response_fault.seconds, None
            asyncio.get_running_loop().call_later(delay, self.send, status, content)
            return
        else:
            self._send_half(status, content)
        recorded = self._recorded
        recorded.status, recorded.answer, recorded.answer_headers = status, content, self.response_headers
        recorded.ms = 1e3 * self.seconds
        self._finish_recording()

    def _finish_recording(self) -> None:
        # An endless body is refused first, and then the connection closes too: that is one request.
        if not self._finished:
            self._finished = True
            self._recorder.on_finished(self._recorded)

    def _send_half(self, status: int, content: bytes) -> None:
        headers = HTTPHeaders({**self.response_headers, "Content-Length": str(len(content))})
        start_line = ResponseStartLine("HTTP/1.1", status, HTTPStatus(status).phrase)
        sent = self._connection.write_headers(start_line, headers, content[: len(content) // 2])
        sent.add_done_callback(lambda done: self._connection.stream.close())
        self.api.in_flight.discard(self)


class RecordedLeadsHandler(RecordedHandler, LeadsHandler):
    """Leads handler that records requests, injects faults, and does dry runs.

    A fault comes from the client's Prefer header, else from the sandbox's faults.
    """

    def post(self) -> None:
        preferences = parse_preferences(self.headers.get("Prefer", ""))
        fault = _preferred_fault(preferences) or self._recorder.faults.next_fault(API)
        if fault is not None:
            self._recorded.fault = fault.what
            self.response_headers["Preference-Applied"] = fault.what
            if fault.status is not None:
                raise _error_for(fault, self.request_id)
            self._response_fault = fault
        super().post()

    def write_stored(self, result: WriteResult[Recorded | KeyReused]) -> None:
        """Record the lead's id before its mail can arrive, then respond."""
        lead = result.value
        if isinstance(lead, Recorded):
            self._recorded.lead_id = lead.lead_id
            self._recorded.replayed = lead.replayed
            if not lead.replayed:
                self._recorder.request_log.add_lead(self.request_id, lead.lead_id)
        super().write_stored(result)

    def dry_run(self, submission: Submission) -> None:
        """Answer with more than a real server: the lead that would be stored, and the diagnosis."""
        self._recorded.fault = DRY_RUN
        self.log_fields["dry_run"] = True
        self.response_headers["Preference-Applied"] = DRY_RUN
        reading = asyncio.ensure_future(self._recorder.storage.read(preview_lead, submission))
        reading.add_done_callback(lambda done: self.run(self._write_preview, done))

    def _write_preview(self, reading: "asyncio.Future[dict[str, Any]]") -> None:
        try:
            preview = self._recorded.preview = reading.result()
        except StorageError:
            raise Unavailable("the server can't read its data now", 5) from None
        diagnosis = diagnose(self._recorded, Facts(preview["building"], preview["nobody_told_because"]))
        self.write_json(200, {"dry_run": True, "would_store": preview, "diagnosis": diagnosis})


def _preferred_fault(preferences: dict[str, str]) -> Fault | None:
    try:
        if "code" in preferences:
            return parse_fault({"on": API, "what": preferences["code"]})
        if "delay" in preferences:
            return parse_fault({"on": API, "what": SLOW, "seconds": _number(preferences["delay"])})
        if CUT in preferences:
            return parse_fault({"on": API, "what": CUT})
    except InvalidFault as error:
        raise ApiError(400, f"Prefer: {error}", quotes_client=True) from None
    return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _error_for(fault: Fault, request_id: str) -> ApiError:
    if fault.status == 429:
        return Throttled(round(fault.seconds))
    if fault.status == 503:
        retry_after = max(1, round(fault.seconds))
        return Unavailable("the server can't store leads now; the lead was not stored", retry_after)
    return InternalError(request_id)
