"""POST /api/v1/website_leads: decode the body, validate it, submit the lead, write the answer."""

import asyncio
import hashlib
import logging
from typing import Any

import orjson

from handlers.api.body import decode_body
from handlers.api.form_navigation import is_program_form
from handlers.api.handler import ApiHandler
from handlers.api.page import page_policy, refusal_page
from handlers.api.preferences import DRY_RUN, parse_preferences
from handlers.api.submission import RequestMetadata, read_submission
from handlers.api.text import clean_text
from handlers.api.validation import MAX_KEY_LENGTH, NO_KEYS
from handlers.errors import ApiError, BadRequest, Unavailable
from handlers.source_address import source_network
from handlers.thank_you import ThankYou, return_url, thank_you_url, tour_text
from models.building import BuildingDict, origins_of
from models.daily_count import DRY_RUNS, REFUSED_FOR_SPACE
from models.errors import NotFound
from models.idempotency import KeyedRequest
from models.intake import KeyReused, Recorded, Submission
from models.origin import MAX_ORIGIN_LENGTH, page_origin
from models.shown_text import cut
from models.storage import OutcomeUnknown, Overloaded, StorageError, WriteResult

log = logging.getLogger("leads.http")

PATH, OLDER_PATH = "/api/v1/website_leads", "/api/v1/tour_requests"
MAX_HEADER_LENGTH = 1_000  # characters of a request header that a lead keeps
LOW_SPACE = (
    "the disk of this server is nearly full, and this address has stored a lot today; the lead was not stored"
)
LOW_SPACE_RETRY_SECONDS = 600  # an operator has to make room first, or the day to end


class LeadsHandler(ApiHandler):
    """Handler of one lead. It writes the 201 only after the lead's commit is durable (C4)."""

    route = PATH
    methods = ("POST",)
    _submission: Submission
    _body_bytes: int
    _return_to: object = None  # the page that a form without JavaScript asks to be redirected to

    def post(self) -> None:
        document = decode_body(self.headers.get("Content-Type", ""), bytes(self.body), self.query)
        self._return_to = document.get("return_to")
        self._submission = read_submission(document, self.metadata(document))
        if DRY_RUN in parse_preferences(self.headers.get("Prefer", "")):
            self.dry_run(self._submission)
            return
        if not self.api.space_budget.allows(self._submission.source, self._submission.received_at):
            self.api.count_buffered(REFUSED_FOR_SPACE)
            raise Unavailable(LOW_SPACE, LOW_SPACE_RETRY_SECONDS)
        self._body_bytes = len(self.body)
        try:
            self.api.record_lead(self._submission, self._stored)
        except Overloaded:
            raise Unavailable("the server is overloaded; the lead was not stored", 1) from None

    def dry_run(self, submission: Submission) -> None:
        """Answer a lead that could be stored, and store nothing (C33)."""
        self.log_fields["dry_run"] = True
        self.api.count_today(DRY_RUNS)
        self.response_headers["Preference-Applied"] = DRY_RUN
        self.write_json(200, {"dry_run": True})

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
        else:
            submission = self._submission
            self.api.space_budget.add(submission.source, self._body_bytes, submission.received_at)
        if lead.not_told:
            log.warning(
                "nobody is told of a lead",
                extra={"request": self.request_id, "lead": lead.lead_id, "reason": lead.not_told},
            )
        if self.admission.is_form_navigation:
            self._redirecting = asyncio.ensure_future(self._redirect(lead.building_id))
        else:
            self.write_json(201, {"id": lead.lead_id})

    async def _redirect(self, building_id: int | None) -> None:
        """Answer a form navigation: with its return_to if that is on a website of the building, else thanks.

        The redirect keeps a reload from sending the form again (C27a).
        """
        building = None
        if building_id is not None:
            try:
                building = await self.api.read_building(building_id)
            except (NotFound, StorageError):
                pass
            except Exception as error:  # the lead is stored all the same, so the renter is thanked
                log.error("failed", extra={"request": self.request_id}, exc_info=error)
        self.run(self._write_redirect, building)

    def _write_redirect(self, building: BuildingDict | None) -> None:
        origins = origins_of(building["website_urls"]) if building else []
        location = return_url(self._return_to, origins)
        if location is None:
            submission = self._submission
            tour = tour_text(submission.slot, building)
            carried = ThankYou(
                building and building["id"],
                submission.unit_preference,
                tour,
                self.admission.registered_origin,
            )
            location = thank_you_url(carried, self.api.secret.keys(), self.api.clock.now())
        self.response_headers["Location"] = location
        self.response_headers["Content-Type"] = "text/html; charset=utf-8"
        self.response_headers["Referrer-Policy"] = "no-referrer"
        self.send(303, b"")

    def write_error_body(self, error: ApiError) -> None:
        """Answer in JSON, or a form navigation with a page for the renter (C27a)."""
        if not self.admission.is_form_navigation:
            super().write_error_body(error)
            return
        origin = self.admission.registered_origin
        self.response_headers["Content-Type"] = "text/html; charset=utf-8"
        self.response_headers["Content-Security-Policy"] = page_policy([origin] if origin else [])
        self.send(error.status_code, refusal_page(error, self.headers.get("Accept-Language", "")))

    def metadata(self, document: dict[str, Any]) -> RequestMetadata:
        """Return what is kept of the request besides its body. Raises BadRequest."""
        headers, source = self.headers, self.admission.source
        source_ip = str(source)
        # The mark of a cut: the beginning of a longer text must not pass for an origin.
        origin = clean_text(cut(headers.get("Origin", ""), MAX_ORIGIN_LENGTH))
        return RequestMetadata(
            request_id=self.request_id,
            received_at=self.api.clock.now(),
            source_ip=source_ip,
            user_agent=clean_text(headers.get("User-Agent", "")[:MAX_HEADER_LENGTH]),
            host=clean_text(headers.get("Host", "")[:MAX_HEADER_LENGTH]),
            secret=self.api.secret.keys,
            keyed_request=self._keyed_request(document, source_ip),
            source=None if self.api.limiter.has_own_rate(source) else source_network(source),
            origin=origin,
            page_host=self._page_host(origin),
            unregistered_origin=origin if self.admission.unregistered_origin else None,
            is_unattended=self.admission.is_unattended,
            is_program_form=is_program_form(headers),
        )

    def _page_host(self, origin: str | None) -> str | None:
        """Return the host of the page with the form, with its port, by Origin, else by Referer (C13)."""
        for url in filter(None, (origin, self.headers.get("Referer", "")[:MAX_HEADER_LENGTH])):
            if page := page_origin(url):
                return page.partition("//")[2]
        return None

    def _keyed_request(self, document: dict[str, Any], source_ip: str) -> KeyedRequest | None:
        key = self.headers.get("Idempotency-Key", "").strip()
        if len(key) > MAX_KEY_LENGTH:
            raise BadRequest(f"Idempotency-Key is too long (maximum is {MAX_KEY_LENGTH} characters)")
        is_strict = key not in NO_KEYS
        if not is_strict:  # a form can send no header
            key = str(document.get("idempotency_key") or "").strip()
            if key in NO_KEYS:
                return None
        # A digest of the decoded body: a browser that sends a multipart form again makes a new boundary.
        try:
            body = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:  # orjson reads deeper nesting than it writes
            body = bytes(self.body)
        digest = hashlib.sha256(body).digest()
        return KeyedRequest(key, source_ip, digest, self.api.secret.keys(), is_strict)
