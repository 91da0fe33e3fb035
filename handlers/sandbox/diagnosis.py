"""Diagnosis of a recorded request: the mistakes that the rules find in it."""

from collections.abc import Sequence
from datetime import timedelta
from urllib.parse import parse_qsl

from handlers.api.body import BUILDING_KEYS, decode_body
from handlers.api.form import media_type
from handlers.errors import BadRequest
from handlers.sandbox.origin_rules import ORIGIN_RULES
from handlers.sandbox.request_log import RecordedRequest
from handlers.sandbox.rules import RULES, DecodedRequest, Facts, code_of
from handlers.sandbox.slot_rules import SLOT_RULES
from models.building import BuildingDict, show_building
from models.building_match import BuildingKeys, match_buildings
from models.intake import unnotified_reason_of
from models.lead import Lead
from models.shown_text import cut
from models.spam import why_quarantined

_ALL_RULES = (*ORIGIN_RULES, *RULES, *SLOT_RULES)  # the most telling first
MAX_SENTENCE_LENGTH = 2_000  # characters; a sentence may quote what the client sent
DUPLICATE_WITHIN = timedelta(seconds=10)


def diagnose(request: RecordedRequest, facts: Facts) -> list[dict[str, str]]:
    """Return the code and the sentence of each mistake found, in the order of the rules."""
    decoded = _decode(request, facts)
    return [
        {"code": code_of(rule), "says": cut(says, MAX_SENTENCE_LENGTH)}
        for rule in _ALL_RULES
        for says in rule(decoded)
    ]


def _decode(request: RecordedRequest, facts: Facts) -> DecodedRequest:
    content_type = request.header("Content-Type") or ""
    query = request.path.partition("#")[0].partition("?")[2]
    try:
        document = decode_body(content_type, bytes(request.body), query)
    except BadRequest:
        document = {}
    tour = document.get("tour_request")
    in_url = [name for name, _ in parse_qsl(query) if name in BUILDING_KEYS]
    return DecodedRequest(
        request, facts, media_type(content_type), document, tour if isinstance(tour, dict) else {}, in_url
    )


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


def read_facts(request: RecordedRequest) -> Facts:
    """Return what the database knows of a request: of its lead, else of the building that it names."""
    if request.lead_id is None:
        return Facts(_named_building(request) if request.status == 403 else None)
    lead = Lead.get_by_id(request.lead_id)
    building = lead.building
    return Facts(
        building=show_building(building.id, request.at, even_removed=True) if building else None,
        unnotified_reason=unnotified_reason_of(lead.customer, building)
        or why_quarantined(lead.suspected, building),
        suspected=lead.suspected,
        unregistered_origin=lead.unregistered_origin,
    )


def _named_building(request: RecordedRequest) -> BuildingDict | None:
    decoded = _decode(request, Facts())
    keys = BuildingKeys(*(decoded.text(name) or None for name in BUILDING_KEYS))
    match = match_buildings([keys], request.at).get(keys)
    return None if match is None else show_building(match.id, request.at)
