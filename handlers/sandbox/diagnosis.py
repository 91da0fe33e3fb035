"""Diagnosis of a recorded request: the mistakes that the rules find in it."""

from collections.abc import Sequence
from datetime import timedelta

import handlers.sandbox.slot_rules  # noqa: F401  # registers its rules
from handlers.api.body import decode_body
from handlers.errors import BadRequest
from handlers.sandbox.request_log import RecordedRequest
from handlers.sandbox.rules import RULES, DecodedRequest, Facts
from models.building import BuildingDict, building_as_dict
from models.intake import unnotified_reason_of
from models.lead import Lead
from models.spam import why_quarantined

DUPLICATE_WITHIN = timedelta(seconds=10)


def diagnose(request: RecordedRequest, facts: Facts) -> list[dict[str, str]]:
    """Return the code and the sentence of each mistake found, in the order of the rules."""
    content_type = request.header("Content-Type") or ""
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        document = decode_body(content_type, bytes(request.body), request.path.partition("?")[2])
    except BadRequest:
        document = {}
    tour = document.get("tour_request")
    decoded = DecodedRequest(request, facts, media_type, document, tour if isinstance(tour, dict) else {})
    return [{"code": code, "says": says} for code, rule in RULES.items() for says in rule(decoded)]


def find_duplicate(
    request: RecordedRequest, earlier_requests: Sequence[RecordedRequest]
) -> RecordedRequest | None:
    """Return the last request within ten seconds that had the same body and created a lead, or None."""
    if request.method != "POST" or not request.body:
        return None
    for earlier in reversed(earlier_requests):
        if (
            earlier.lead_id is not None
            and earlier.method == "POST"
            and earlier.body == request.body
            and request.at - earlier.at <= DUPLICATE_WITHIN
        ):
            return earlier
    return None


def read_building_and_reason(lead_id: int) -> tuple[BuildingDict | None, str | None]:
    """Return a lead's building, as a dict, and the reason why no agent gets a mail about the lead."""
    lead = Lead.get_by_id(lead_id)
    building = lead.building
    reason = unnotified_reason_of(lead.customer, building) or why_quarantined(lead.suspected, building)
    return None if building is None else building_as_dict(building), reason
