"""The mail that a building's leasing agent gets for a new lead: its facts, subject, bodies and invitation."""

import re
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from zoneinfo import ZoneInfo

# Imported at the start although it takes 80 ms: at the first lead with a tour it would block the loop.
from icalendar import Calendar, Event, vCalAddress
from tornado.template import Loader

from jobs.adapter import DeliveryContext, one_line
from jobs.email.mime import NAME_LIMIT, address_header, ascii_domain, mailbox, multipart, part, text_header
from models.building import BuildingDict
from models.lead_dict import LeadForDelivery
from models.slot import Remark, Slot, read_stored_slot

SENDER_NAME = "Website leads"
TOUR_LENGTH = timedelta(minutes=30)
LISTING_NAMES = {
    "june_homes": "June Homes",
    "streeteasy": "StreetEasy",
    "nooklyn": "Nooklyn",
    "zillow": "Zillow",
}

_PHONE = re.compile(r"\+?[0-9 ().\-/]{5,40}")
_TEMPLATES = Loader(str(Path(__file__).parent / "templates"))
_HTML = _TEMPLATES.load("lead.html")
_TEXT = _TEMPLATES.load("lead.txt")


class Fact(NamedTuple):
    """One labelled line of the mail. link: a URL that is safe in an HTML attribute."""

    label: str
    text: str
    link: str | None = None


class Tour(NamedTuple):
    """The tour that the renter requested: its start, in UTC and as text in the building's time zone.

    day: of a tour without an hour. remarks: sentences for the agent.
    """

    begins: datetime
    text: str
    day: date | None = None
    remarks: Sequence[str] = ()


def render(context: DeliveryContext, mail_from: str, *, utf8: bool) -> bytes:
    """Return the whole mail, ready for DATA: CRLF line ends, no line over 998 octets.

    The same context gives the same bytes. mail_from: a bare address. utf8: whether the server supports
    SMTPUTF8. The bodies are always ASCII, and the headers too unless an address is not, so `isascii()` of the
    mail says whether to request SMTPUTF8.

    Raises ValueError if the building has no agent e-mail, or if that or mail_from can't be written.
    """
    lead, building = context.lead, context.building
    if building is None or not context.address:
        raise ValueError("the building has no agent e-mail")
    sender, agent = mailbox(mail_from, utf8=utf8), mailbox(context.address, utf8=utf8)
    if sender is None or agent is None:
        raise ValueError("an address of the mail needs SMTPUTF8")
    received = datetime.fromisoformat(lead["created_at"])
    tour = _tour(lead, ZoneInfo(building["time_zone"]), received)
    reply_to = _reply_to(lead, utf8=utf8)
    unique = f"{context.stable_id}@{ascii_domain(sender)}"
    content = _content(lead, building, tour, received, can_reply=reply_to is not None)
    bodies = [
        part("text/plain; charset=utf-8", _TEXT.generate(**content)),
        part("text/html; charset=utf-8", _HTML.generate(**content)),
    ]
    attachments = []
    if tour and tour.begins.year < 9999:  # a later tour's end is no datetime
        invitation = _invitation(content, building, tour, received, unique, (sender, agent))
        bodies.append(part("text/calendar; charset=utf-8; method=REQUEST", invitation))
        # As a file too, for mail programs that ignore the part above.
        attachments.append(
            part(
                'application/ics; name="tour.ics"',
                invitation,
                'Content-Disposition: attachment; filename="tour.ics"',
            )
        )
    headers = [
        address_header("From", SENDER_NAME, sender),
        address_header("To", "", agent),
        *([reply_to] if reply_to else []),
        text_header("Subject", _subject(content)),
        f"Date: {format_datetime(received)}",
        f"Message-ID: <{unique}>",
        # Suppress automatic replies. Not "All": that would suppress failure notices as well.
        "Auto-Submitted: auto-generated",
        "X-Auto-Response-Suppress: OOF, AutoReply",
        "MIME-Version: 1.0",
    ]
    alternative = multipart("alternative", context.stable_id, bodies)
    mixed = multipart("mixed", context.stable_id, [alternative, *attachments])
    return "\r\n".join(headers).encode() + b"\r\n" + mixed


def _reply_to(lead: LeadForDelivery, *, utf8: bool) -> str | None:
    try:
        address = mailbox(lead["requestor_email"] or "", utf8=utf8)
    except ValueError:
        return None
    return address and address_header("Reply-To", one_line(lead["requestor_name"] or ""), address)


def _content(
    lead: LeadForDelivery,
    building: BuildingDict,
    tour: Tour | None,
    received: datetime,
    *,
    can_reply: bool,
) -> dict[str, Any]:
    """Return the variables of both templates: each text on one line, the facts in their order."""
    email, phone = one_line(lead["requestor_email"] or ""), one_line(lead["requestor_phone"] or "")
    unit = one_line(lead["unit_preference"] or "")
    utm = dict(lead["utm_data"] or {})
    source = one_line(utm.pop("utm_source", None) or "")
    listing = lead["listing_source"] or ""
    zone = ZoneInfo(building["time_zone"])
    return {
        "name": one_line(lead["requestor_name"] or "") or email,
        # A single word with a digit is a unit's number: 'unit 4B', but 'two bedrooms' and 'studio'.
        "unit": f"unit {unit}" if re.fullmatch(r"(?=.*\d)\S+", unit) else unit,
        "building": one_line(building["name"]),
        "tour": tour,
        "suspected": one_line(lead["suspected"] or ""),
        "contact": _filled(
            Fact("E-mail", email, "mailto:" + quote(email, safe="@!$*+") if "@" in email else None),
            Fact("Phone", phone, _tel(phone)),
            Fact("Texts allowed", "yes" if lead["sms_consent"] else "no"),
            Fact("Unit", unit),
            Fact("Source", source),
        ),
        "message": [one_line(line) for line in (lead["message"] or "").strip().splitlines()],
        "origin": _filled(
            Fact("Listed on", LISTING_NAMES.get(listing, one_line(listing))),
            Fact("Listing number", one_line(lead["listing_source_original_id"] or "")),
            Fact("Website", one_line(lead["website"] or "")),
            *(Fact(one_line(key), one_line(value or "")) for key, value in utm.items()),
            Fact("Building", one_line(building["name"])),
            Fact("Address", one_line(building["address_line_one"] or "")),
            Fact("Lead number", str(lead["id"])),
            Fact("Looks like spam", one_line(lead["suspected"] or "")),
            Fact("Received", _time_text(received, zone)),
        ),
        "reply": "Your reply to this mail goes to the renter."
        if can_reply
        else f"A reply to this mail does not reach the renter: write to {email}"
        if email
        else "",
    }


def _filled(*facts: Fact) -> list[Fact]:
    return [fact for fact in facts if fact.text]


def _tel(phone: str) -> str | None:
    return "tel:" + re.sub(r"[^+0-9]", "", phone) if _PHONE.fullmatch(phone) else None


def _tour(lead: LeadForDelivery, zone: ZoneInfo, received: datetime) -> Tour | None:
    if not lead["slot"]:
        return None
    begins = datetime.fromisoformat(lead["slot"])
    sent = read_stored_slot(lead["sent_slot"])
    if sent is None:
        return Tour(begins, _time_text(begins, zone))
    remarks = _remarks(sent, zone, received)
    if sent.is_date:
        return Tour(begins, _day_text(sent.day), sent.day, remarks)
    return Tour(begins, _time_text(begins, zone), None, remarks)


def _remarks(sent: Slot, zone: ZoneInfo, received: datetime) -> list[str]:
    found, local = sent.remarks(zone, received), sent.in_utc(zone).astimezone(zone)
    sentences = {
        Remark.DATE_ALONE: "The renter named a day, but no time.",
        Remark.PAST: f"This {'day' if sent.is_date else 'time'} was already past when the lead came.",
        Remark.REPEATED: "The clocks go back that day, so this time comes twice. The first one is taken.",
        Remark.SKIPPED: f"The renter wrote {_hour_text(sent.moment)}, which the clocks skip that day. "
        f"{_hour_text(local)} is taken instead.",
    }
    return [sentence for remark, sentence in sentences.items() if remark in found]


def _time_text(instant: datetime, zone: ZoneInfo) -> str:
    """Return the time in this zone: 'Tuesday, December 1, 2026 at 10:00 AM EST (America/New_York)'."""
    try:
        local = instant.astimezone(zone)
    except OverflowError:  # within hours of the year 1 or of the end of 9999
        local = instant
    name = local.tzname() or ""
    name = name if name.isalpha() else f"UTC{local:%z}"  # some zones have no name of their own
    text = f"{_day_text(local)} at {_hour_text(local)} {name}"
    return text if local is instant or name == zone.key else f"{text} ({zone.key})"


def _day_text(day: date) -> str:
    return f"{day:%A, %B} {day.day}, {day.year}"


def _hour_text(moment: datetime) -> str:
    return f"{moment.hour % 12 or 12}:{moment:%M %p}"


def _subject(content: dict[str, Any]) -> str:
    name, unit = one_line(content["name"], NAME_LIMIT), one_line(content["unit"], NAME_LIMIT)
    for_unit = f" for {unit}" if unit else ""
    prefix = "Looks like spam: " if content["suspected"] else ""
    return f"{prefix}New lead: {name}{for_unit} at {one_line(content['building'], NAME_LIMIT)}"


def _invitation(
    content: dict[str, Any],
    building: BuildingDict,
    tour: Tour,
    received: datetime,
    unique: str,
    addresses: tuple[str, str],
) -> bytes:
    """Return the tour as iCalendar: tentative, since only the renter has requested it; for a whole day, if
    there is no hour. addresses: the sender's and the agent's.
    """
    sender, agent = (vCalAddress("mailto:" + quote(address, safe="@!$*+")) for address in addresses)
    sender.params["CN"] = SENDER_NAME
    agent.params.update({"ROLE": "REQ-PARTICIPANT", "PARTSTAT": "NEEDS-ACTION", "RSVP": "FALSE"})
    title = ", ".join(filter(None, (content["name"], content["unit"], content["building"])))
    event = Event()
    for name, value in {
        "uid": unique,
        "dtstamp": received,
        "dtstart": tour.day or tour.begins,
        "dtend": tour.day + timedelta(days=1) if tour.day else tour.begins + TOUR_LENGTH,
        "summary": f"Tour: {title}",
        "location": one_line(building["address_line_one"] or building["name"]),
        "description": "\n".join(
            [*tour.remarks, *(f"{fact.label}: {fact.text}" for fact in content["contact"])]
        ),
        "organizer": sender,
        "attendee": agent,
        "status": "TENTATIVE",
        # A whole day would block the agent's calendar.
        **({"transp": "TRANSPARENT"} if tour.day else {}),
        "sequence": 0,
    }.items():
        event.add(name, value)
    calendar = Calendar()
    for name, text in {
        "prodid": "-//Website leads//Tours//EN",
        "version": "2.0",
        "method": "REQUEST",
    }.items():
        calendar.add(name, text)
    calendar.add_component(event)
    ical: bytes = calendar.to_ical()
    return ical
