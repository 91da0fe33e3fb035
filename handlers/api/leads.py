"""Owns POST /api/v1/website_leads: decode, validate, store, answer."""

import logging

from handlers.api.base import ApiHandler
from handlers.api.body import decode_body
from handlers.api.schemas import Receipt, clean_text, read_submission
from handlers.errors import Unavailable
from models.database import StorageError
from models.writer import Overloaded

log = logging.getLogger("leads.http")


class LeadsHandler(ApiHandler):
    """Takes a lead. The 201 is written only after it is on disk (C4)."""

    route = "/api/v1/website_leads"
    methods = ("POST",)

    async def respond(self) -> None:
        document = decode_body(self.request.headers.get("Content-Type", ""), bytes(self.body))
        submission = read_submission(document, self._receipt())
        try:
            lead = await self.api.record_lead(submission)
        except Overloaded:
            raise Unavailable("the server is overloaded; the lead was not stored", 1) from None
        except StorageError:
            raise Unavailable("the server can't store leads now; the lead was not stored", 5) from None
        self.log_fields["lead"] = lead.lead_id
        if lead.not_told:
            log.warning(
                "nobody is told of a lead",
                extra={"request": self.request_id, "lead": lead.lead_id, "reason": lead.not_told},
            )
        self.answer(201, {"id": lead.lead_id})

    def _receipt(self) -> Receipt:
        headers = self.request.headers
        return Receipt(
            request_id=self.request_id,
            received_at=self.api.clock.now(),
            source_ip=str(self.source),
            user_agent=clean_text(headers.get("User-Agent", "")[:1_000]),
            host=clean_text(headers.get("Host", "")[:1_000]),
        )
