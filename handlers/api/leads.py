"""Owns POST /api/v1/website_leads: decode, validate, store, answer."""

import hashlib
import logging
from typing import Any

import orjson

from handlers.api.body import decode_body
from handlers.api.handler import ApiHandler
from handlers.api.page import POLICY, leads_on, render, wants_page
from handlers.api.validation import RequestMetadata, clean_text, read_submission
from handlers.errors import ApiError, BadRequest, Unavailable
from models.idempotency import KeyedRequest
from models.intake import KeyReused, Recorded
from models.storage import OutcomeUnknown, Overloaded, StorageError, WriteResult

log = logging.getLogger("leads.http")


PATH, OLDER_PATH = "/api/v1/website_leads", "/api/v1/tour_requests"
LONGEST_KEY = 255  # characters


class Leads(ApiHandler):
    """Takes a lead. The 201 is written only after it is on disk (C4)."""

    route = PATH
    methods = ("POST",)
    _return_to: object = None  # where a form without JavaScript would like to lead on

    def respond(self) -> None:
        document = decode_body(self.headers.get("Content-Type", ""), bytes(self.body))
        self._return_to = document.get("return_to")
        submission = read_submission(document, self._receipt(document))
        try:
            self.api.record_lead(submission, self._stored)
        except Overloaded:
            raise Unavailable("the server is overloaded; the lead was not stored", 1) from None

    def _stored(self, result: WriteResult[Recorded | KeyReused]) -> None:
        self.conclude(lambda: self.answer_stored(result))

    def answer_stored(self, result: WriteResult[Recorded | KeyReused]) -> None:
        """Answer with what became of the lead. May raise ApiError."""
        try:
            lead = result.get()
        except OutcomeUnknown:
            raise Unavailable(
                "the disk failed; the lead may be stored or not, and is safe to send again "
                "if it has an Idempotency-Key",
                10,
            ) from None
        except StorageError:
            raise Unavailable("the server can't store leads now; the lead was not stored", 5) from None
        if isinstance(lead, KeyReused):
            raise ApiError(
                422, "this Idempotency-Key came with another body before; a new lead takes a new key"
            )
        self.log_fields["lead"] = lead.lead_id
        if lead.replayed:
            self.log_fields["again"] = True
        if lead.not_told:
            log.warning(
                "nobody is told of a lead",
                extra={"request": self.request_id, "lead": lead.lead_id, "reason": lead.not_told},
            )
        self.answer(201, {"id": lead.lead_id})

    def answer(self, status: int, body: Any) -> None:
        """Answer in JSON; a browser that navigates by a form gets a page, or is led on to one of its own."""
        headers, origin = self.headers, self.headers.get("Origin")
        if not wants_page(headers.get("Content-Type", ""), headers.get("Accept", ""), origin):
            super().answer(status, body)
            return
        going_on = leads_on(self._return_to, origin) if status == 201 else None
        if going_on is not None:
            self._answer_headers["Location"] = going_on
            status = 303
        self._answer_headers["Content-Type"] = "text/html; charset=utf-8"
        self._answer_headers["Content-Security-Policy"] = POLICY
        self.send(status, render(status, body, headers.get("Accept-Language", ""), origin))

    def _receipt(self, document: dict[str, Any]) -> RequestMetadata:
        headers = self.headers
        return RequestMetadata(
            request_id=self.request_id,
            received_at=self.api.clock.now(),
            source_ip=str(self.source),
            user_agent=clean_text(headers.get("User-Agent", "")[:1_000]),
            host=clean_text(headers.get("Host", "")[:1_000]),
            keyed_request=self._keyed_request(document),
        )

    def _keyed_request(self, document: dict[str, Any]) -> KeyedRequest | None:
        key = self.headers.get("Idempotency-Key", "").strip()
        if len(key) > LONGEST_KEY:
            raise BadRequest(f"Idempotency-Key is too long (maximum is {LONGEST_KEY} characters)")
        if not key:
            return None
        # Of what the body says, not of its bytes: a form that a browser sends again has another boundary.
        try:
            said = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:  # it reads deeper nesting than it writes
            said = bytes(self.body)
        return KeyedRequest(key, str(self.source), hashlib.sha256(said).digest())
