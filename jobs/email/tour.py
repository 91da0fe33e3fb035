"""The tour of a lead as a mail shows it: its time in the building's time zone, and remarks on it."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from models.lead_dict import LeadForDelivery
from models.slot import Remark, Slot, read_stored_slot

TOUR_LENGTH = timedelta(minutes=30)


class Tour(NamedTuple):
    """The tour that the renter requested: its start, in UTC and as text in the building's time zone.

    day: of a tour without an hour. remarks: sentences for the agent.
    """

    begins: datetime
    text: str
    day: date | None = None
    remarks: Sequence[str] = ()


def tour_of(lead: LeadForDelivery, zone: ZoneInfo, received: datetime) -> Tour | None:
    """Return the lead's tour; None if it has none. zone: the building's; received: when the lead came."""
    if not lead["slot"]:
        return None
    begins = datetime.fromisoformat(lead["slot"])
    sent = read_stored_slot(lead["sent_slot"])
    if sent is None or (tour_sequence(lead) and sent.in_utc(zone) != begins):  # another time than it says
        return Tour(begins, time_text(begins, zone))
    # The remarks are on the renter's words, and a corrected time is the operator's.
    remarks = () if lead["slot_corrected"] else _remarks(sent, zone, received)
    if sent.is_date:
        return Tour(begins, _day_text(sent.day), sent.day, remarks)
    return Tour(begins, time_text(begins, zone), None, remarks)


def tour_sequence(lead: LeadForDelivery) -> int:
    """Return the SEQUENCE of the tour's invitation."""
    return lead.get("tour_sequence", 0)


def time_text(instant: datetime, zone: ZoneInfo) -> str:
    """Return the time in this zone: 'Tuesday, December 1, 2026 at 10:00 AM EST (America/New_York)'."""
    try:
        local = instant.astimezone(zone)
    except OverflowError:  # within hours of the year 1 or of the end of 9999
        local = instant
    name = local.tzname() or ""
    name = name if name.isalpha() else f"UTC{local:%z}"  # some zones have no name of their own
    text = f"{_day_text(local)} at {_hour_text(local)} {name}"
    return text if local is instant or name == zone.key else f"{text} ({zone.key})"


def _remarks(sent: Slot, zone: ZoneInfo, received: datetime) -> Sequence[str]:
    found, local = sent.remarks(zone, received), sent.in_utc(zone).astimezone(zone)
    sentences = {
        Remark.DATE_ALONE: "The renter named a day, but no time.",
        Remark.PAST: f"This {'day' if sent.is_date else 'time'} was already past when the lead came.",
        Remark.REPEATED: "The clocks go back that day, so this time comes twice. The first one is taken.",
        Remark.SKIPPED: f"The renter wrote {_hour_text(sent.moment)}, which the clocks skip that day. "
        f"{_hour_text(local)} is taken instead.",
    }
    return [sentence for remark, sentence in sentences.items() if remark in found]


def _day_text(day: date) -> str:
    return f"{day:%A, %B} {day.day}, {day.year}"


def _hour_text(moment: datetime) -> str:
    return f"{moment.hour % 12 or 12}:{moment:%M %p}"
