"""Rules of the diagnosis about a lead's slot."""

from collections.abc import Collection
from datetime import UTC
from zoneinfo import ZoneInfo

from handlers.sandbox.rules import DecodedRequest, Messages, as_text
from models.slot import Remark, Slot, read_stored_slot


def undefined_slot(request: DecodedRequest) -> Messages:
    text = _text(request)
    if request.created_lead and text and _slot(request) is None:
        yield f"The slot is {text!r}, which JavaScript makes of no date. It counts as not sent."


def slot_is_a_date(request: DecodedRequest) -> Messages:
    if Remark.DATE_ALONE in _remarks(request):
        yield (
            f"The slot {_text(request)} is a day without a time. The mail and the invitation name the day "
            f"alone; the lead has midnight in the building's own time zone ({_zone_name(request)})."
        )


def slot_in_the_past(request: DecodedRequest) -> Messages:
    if Remark.PAST in _remarks(request):
        yield f"The slot {_text(request)} was already past when the lead came. The mail says so."


def slot_at_a_change_of_clocks(request: DecodedRequest) -> Messages:
    remarks = _remarks(request)
    clocks = f"the clocks of the building's own time zone ({_zone_name(request)})"
    if Remark.REPEATED in remarks:
        yield (
            f"The slot {_text(request)} has no offset, and {clocks} show that time twice that day. The first "
            "is taken. Send an offset."
        )
    if Remark.SKIPPED in remarks:
        yield (
            f"The slot {_text(request)} has no offset, and {clocks} skip that time that day. It is moved on "
            "by the gap. Send an offset."
        )


def slot_without_offset(request: DecodedRequest) -> Messages:
    slot = _slot(request)
    if request.created_lead and slot and slot.moment.tzinfo is None and not slot.is_date:
        yield (
            f"The slot {_text(request)} has no offset, so it is in the building's own time zone "
            f"({_zone_name(request)})."
        )


def _text(request: DecodedRequest) -> str:
    return as_text(request.tour.get("slot"))


def _slot(request: DecodedRequest) -> Slot | None:
    return read_stored_slot(_text(request))


def _remarks(request: DecodedRequest) -> Collection[Remark]:
    building, slot = request.facts.building, _slot(request)
    zone = ZoneInfo(building["time_zone"]) if building else UTC
    return slot.remarks(zone, request.recorded.at) if slot and request.created_lead else ()


def _zone_name(request: DecodedRequest) -> str:
    building = request.facts.building
    return building["time_zone"] if building else "UTC, because the lead has no building"


# In the order of the diagnosis, after the other rules.
SLOT_RULES = (
    undefined_slot,
    slot_is_a_date,
    slot_in_the_past,
    slot_at_a_change_of_clocks,
    slot_without_offset,
)
