"""POST /api/v1/website_leads: decode the body, validate it, submit the lead, write the answer."""

import hashlib
import logging
from typing import Any

import orjson

from handlers.api.body import decode_body
from handlers.api.handler import ApiHandler
from handlers.api.page import POLICY, redirect_url, render, wants_page
from handlers.api.rate_limit import source_network
from handlers.api.validation import RequestMetadata, clean_text, read_submission
from handlers.errors import ApiError, BadRequest, Unavailable
from models.idempotency import KeyedRequest
from models.intake import KeyReused, Recorded
from models.storage import OutcomeUnknown, Overloaded, StorageError, WriteResult

log = logging.getLogger("leads.http")

PATH, OLDER_PATH = "/api/v1/website_leads", "/api/v1/tour_requests"
MAX_KEY_LENGTH = 255  # characters of an Idempotency-Key
MAX_HEADER_LENGTH = 1_000  # characters of a request header that a lead keeps


class LeadsHandler(ApiHandler):
    """Handler of one lead. It writes the 201 only after the lead's commit is durable (C4)."""

    route = PATH
    methods = ("POST",)
    _return_to: object = None  # the page that a form without JavaScript asks to be redirected to

    def post(self) -> None:
        document = decode_body(self.headers.get("Content-Type", ""), bytes(self.body), self.query)
        self._return_to = document.get("return_to")
        submission = read_submission(document, self.metadata(document))
        try:
            self.api.record_lead(submission, self._stored)
        except Overloaded:
            raise Unavailable("the server is overloaded; the lead was not stored", 1) from None

    def _stored(self, result: WriteResult[Recorded | KeyReused]) -> None:
        self.run(self.write_stored, result)

    def write_stored(self, result: WriteResult[Recorded | KeyReused]) -> None:
        """Answer with the outcome of the lead's commit. Raises ApiError."""
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
        self.write_json(201, {"id": lead.lead_id})

    def write_json(self, status: int, body: Any) -> None:
        """Answer in JSON, or a form navigation with a page or a redirect (C27a)."""
        headers, origin = self.headers, self.headers.get("Origin")
        if not wants_page(headers.get("Content-Type", ""), headers.get("Accept", ""), origin):
            super().write_json(status, body)
            return
        location = redirect_url(self._return_to, origin) if status == 201 else None
        if location is not None:
            self.response_headers["Location"] = location
            status = 303
        self.response_headers["Content-Type"] = "text/html; charset=utf-8"
        self.response_headers["Content-Security-Policy"] = POLICY
        self.send(status, render(status, body, headers.get("Accept-Language", ""), origin))

    def metadata(self, document: dict[str, Any]) -> RequestMetadata:
        """Return what is kept of the request besides its body. Raises BadRequest."""
        headers, source_ip = self.headers, str(self.admission.source)
        return RequestMetadata(
            request_id=self.request_id,
            received_at=self.api.clock.now(),
            source_ip=source_ip,
            user_agent=clean_text(headers.get("User-Agent", "")[:MAX_HEADER_LENGTH]),
            host=clean_text(headers.get("Host", "")[:MAX_HEADER_LENGTH]),
            keyed_request=self._keyed_request(document, source_ip),
            source=source_network(self.admission.source),
        )

    def _keyed_request(self, document: dict[str, Any], source_ip: str) -> KeyedRequest | None:
        key = self.headers.get("Idempotency-Key", "").strip()
        if len(key) > MAX_KEY_LENGTH:
            raise BadRequest(f"Idempotency-Key is too long (maximum is {MAX_KEY_LENGTH} characters)")
        if not key:
            return None
        # A digest of the decoded body: a browser that sends a multipart form again makes a new boundary.
        try:
            body = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:  # orjson reads deeper nesting than it writes
            body = bytes(self.body)
        return KeyedRequest(key, source_ip, hashlib.sha256(body).digest())
