"""Owns the mail that a building's leasing agent gets for a new lead: its headers, parts and invitation.

It is put together by hand: EmailMessage mis-encodes a local part that isn't ASCII, raises on some of what
renters type, and alone takes 2 ms a mail, three times what all of this takes.
"""

import re
from binascii import b2a_qp
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from email.header import Header
from email.utils import format_datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from zoneinfo import ZoneInfo

import idna

# Slow to import (80 ms), and still not put off to the first lead with a tour: it would hold the loop then.
from icalendar import Calendar, Event, vCalAddress
from tornado.template import Loader

from jobs.adapter import DeliveryContext, one_line
from models.building import BuildingDict
from models.email_address import normal_form
from models.lead_record import LeadForDelivery

SENDER_NAME = "Website leads"
TOUR_LENGTH = timedelta(minutes=30)
HEADER_LIMIT = 100  # characters of a name in a header: the longest line of one stays far below 998 octets
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
    """A line of the mail; link is a URL that is safe in an attribute."""

    label: str
    text: str
    link: str | None = None


class Tour(NamedTuple):
    """A tour that the renter asked for: when it begins, and that in words."""

    begins: datetime
    spoken: str


def render(context: DeliveryContext, mail_from: str, *, utf8: bool) -> bytes:
    """The whole mail, ready for DATA: CRLF line ends, no line over 998 octets. The same for the same context.

    mail_from: a bare address. utf8: the server speaks SMTPUTF8. The bodies are ASCII in any case; the headers
    only if no address needs more, so `isascii()` of the mail says whether SMTPUTF8 has to be asked for.
    Raises ValueError if the building has no agent's address, or if that or mail_from can't be written.
    """
    lead, building = context.lead, context.building
    if building is None or not building["agent_email"]:
        raise ValueError("the building has no agent e-mail")
    sender, agent = mailbox(mail_from, utf8=utf8), mailbox(building["agent_email"], utf8=utf8)
    if sender is None or agent is None:
        raise ValueError("an address of the mail needs SMTPUTF8")
    received = datetime.fromisoformat(lead["created_at"])
    tour = _tour(lead["slot"], ZoneInfo(building["time_zone"]))
    reply_to = _reply_to(lead, utf8=utf8)
    unique = f"{context.stable_id}@{_ascii_domain(mail_from)}"
    letter = _letter(lead, building, tour, received, can_reply=reply_to is not None)
    bodies = [
        _part("text/plain; charset=utf-8", _TEXT.generate(**letter)),
        _part("text/html; charset=utf-8", _HTML.generate(**letter)),
    ]
    attachments = []
    if tour and tour.begins.year < 9999:  # so that it also ends
        invitation = _invitation(letter, lead, building, tour, received, unique, (sender, agent))
        bodies.append(_part("text/calendar; charset=utf-8; method=REQUEST", invitation))
        # Once more as a file, for the programs that don't know what to do with the part above.
        attachments.append(
            _part(
                'application/ics; name="tour.ics"',
                invitation,
                'Content-Disposition: attachment; filename="tour.ics"',
            )
        )
    headers = [
        _address_header("From", SENDER_NAME, sender),
        _address_header("To", "", agent),
        *([reply_to] if reply_to else []),
        _text_header("Subject", _subject(letter)),
        f"Date: {format_datetime(received)}",
        f"Message-ID: <{unique}>",
        # Nobody's holiday notice is of use here. Not "All": that would keep back failure notices as well.
        "Auto-Submitted: auto-generated",
        "X-Auto-Response-Suppress: OOF, AutoReply",
        "MIME-Version: 1.0",
    ]
    alternative = _multipart("alternative", context.stable_id, bodies)
    mixed = _multipart("mixed", context.stable_id, [alternative, *attachments])
    return "\r\n".join(headers).encode() + b"\r\n" + mixed


def mailbox(address: str, *, utf8: bool) -> str | None:
    """The address as SMTP takes it: ASCII, the domain in IDNA, wherever that can be; None if it needs utf8.

    Raises ValueError if it is not an e-mail address.
    """
    normal = normal_form(address)
    local = normal.rpartition("@")[0]
    if not local.isascii():
        return normal if utf8 else None
    return f"{local}@{_ascii_domain(normal)}"


def _ascii_domain(address: str) -> str:
    domain = address.strip().rpartition("@")[2]
    return domain if domain.isascii() else idna.encode(domain, uts46=True).decode()


def _reply_to(lead: LeadForDelivery, *, utf8: bool) -> str | None:
    try:
        address = mailbox(lead["requestor_email"] or "", utf8=utf8)
    except ValueError:
        return None
    return address and _address_header("Reply-To", one_line(lead["requestor_name"] or ""), address)


def _letter(
    lead: LeadForDelivery,
    building: BuildingDict,
    tour: Tour | None,
    received: datetime,
    *,
    can_reply: bool,
) -> dict[str, Any]:
    """All that the mail says, clean and in order: what both templates are filled with."""
    email, phone = one_line(lead["requestor_email"] or ""), one_line(lead["requestor_phone"] or "")
    unit = one_line(lead["unit_preference"] or "")
    utm = dict(lead["utm_data"] or {})
    source = one_line(utm.pop("utm_source", None) or "")
    listing = lead["listing_source"] or ""
    zone = ZoneInfo(building["time_zone"])
    return {
        "name": one_line(lead["requestor_name"] or "") or email,
        # One word with a digit in it is a number: 'unit 4B', but 'two bedrooms' and 'studio'.
        "unit": f"unit {unit}" if re.fullmatch(r"(?=.*\d)\S+", unit) else unit,
        "building": one_line(building["name"]),
        "tour": tour and tour.spoken,
        "suspected": one_line(lead["suspected"] or ""),
        "contact": _said(
            Fact("E-mail", email, "mailto:" + quote(email, safe="@!$*+") if "@" in email else None),
            Fact("Phone", phone, _tel(phone)),
            Fact("Texts allowed", "yes" if lead["sms_consent"] else "no"),
            Fact("Unit", unit),
            Fact("Source", source),
        ),
        "message": [one_line(line) for line in (lead["message"] or "").strip().splitlines()],
        "origin": _said(
            Fact("Listed on", LISTING_NAMES.get(listing, one_line(listing))),
            Fact("Listing number", one_line(lead["listing_source_original_id"] or "")),
            Fact("Website", one_line(lead["request_host"] or "")),
            *(Fact(one_line(key), one_line(value or "")) for key, value in utm.items()),
            Fact("Building", one_line(building["name"])),
            Fact("Address", one_line(building["address_line_one"] or "")),
            Fact("Lead number", str(lead["id"])),
            Fact("Looks like spam", one_line(lead["suspected"] or "")),
            Fact("Received", _spoken(received, zone)),
        ),
        "reply": "Your reply to this mail goes to the renter."
        if can_reply
        else f"A reply to this mail does not reach the renter: write to {email}"
        if email
        else "",
    }


def _said(*facts: Fact) -> list[Fact]:
    return [fact for fact in facts if fact.text]


def _tel(phone: str) -> str | None:
    return "tel:" + re.sub(r"[^+0-9]", "", phone) if _PHONE.fullmatch(phone) else None


def _tour(slot: str | None, zone: ZoneInfo) -> Tour | None:
    if not slot:
        return None
    begins = datetime.fromisoformat(slot)
    return Tour(begins, _spoken(begins, zone))


def _spoken(instant: datetime, zone: ZoneInfo) -> str:
    """'Tuesday, December 1, 2026 at 10:00 AM EST (America/New_York)'"""
    try:
        local = instant.astimezone(zone)
    except OverflowError:  # within hours of the year 1 or of the end of 9999
        local = instant
    name = local.tzname() or ""
    name = name if name.isalpha() else f"UTC{local:%z}"  # zones without a name of their own
    hour = local.hour % 12 or 12
    spoken = f"{local:%A, %B} {local.day}, {local.year} at {hour}:{local:%M %p} {name}"
    return spoken if local is instant or name == zone.key else f"{spoken} ({zone.key})"


def _subject(letter: dict[str, Any]) -> str:
    name, unit = one_line(letter["name"], HEADER_LIMIT), one_line(letter["unit"], HEADER_LIMIT)
    wanted = f" for {unit}" if unit else ""
    looks = "Looks like spam: " if letter["suspected"] else ""
    return f"{looks}New lead: {name}{wanted} at {one_line(letter['building'], HEADER_LIMIT)}"


def _invitation(
    letter: dict[str, Any],
    lead: LeadForDelivery,
    building: BuildingDict,
    tour: Tour,
    received: datetime,
    unique: str,
    addresses: tuple[str, str],
) -> bytes:
    """The tour, for the agent's calendar: tentative, since only the renter has asked for it yet."""
    sender, agent = (vCalAddress("mailto:" + quote(address, safe="@!$*+")) for address in addresses)
    sender.params["CN"] = SENDER_NAME
    agent.params.update({"ROLE": "REQ-PARTICIPANT", "PARTSTAT": "NEEDS-ACTION", "RSVP": "FALSE"})
    event = Event()
    for name, value in {
        "uid": unique,
        "dtstamp": received,
        "dtstart": tour.begins,
        "dtend": tour.begins + TOUR_LENGTH,
        "summary": "Tour: " + ", ".join(filter(None, (letter["name"], letter["unit"], letter["building"]))),
        "location": one_line(building["address_line_one"] or building["name"]),
        "description": "\n".join(f"{fact.label}: {fact.text}" for fact in letter["contact"]),
        "organizer": sender,
        "attendee": agent,
        "status": "TENTATIVE",
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


def _plain(text: str) -> bool:
    # What looks like an encoded word would be decoded at the other end, so that has to be encoded as well.
    return text.isascii() and "=?" not in text


def _text_header(name: str, text: str) -> str:
    charset = "us-ascii" if _plain(text) else "utf-8"
    return f"{name}: " + Header(text, charset, header_name=name).encode(linesep="\r\n")


def _address_header(name: str, display_name: str, address: str) -> str:
    display_name = one_line(display_name, HEADER_LIMIT)
    if not display_name:
        return f"{name}: {address}"
    if _plain(display_name):
        escaped = re.sub(r'(["\\])', r"\\\1", display_name)
        return f'{name}: "{escaped}" <{address}>'
    words = Header(display_name, "utf-8", header_name=name).encode(linesep="\r\n")
    return f"{name}: {words}\r\n <{address}>"  # a line with encoded words has room for 76 characters


def _part(content_type: str, content: bytes, *headers: str) -> bytes:
    lines = [f"Content-Type: {content_type}", "Content-Transfer-Encoding: quoted-printable", *headers]
    text = b"\r\n".join([*content.splitlines(), b""])
    return "\r\n".join([*lines, "", ""]).encode() + b2a_qp(text)


def _multipart(subtype: str, unique: str, parts: Sequence[bytes]) -> bytes:
    boundary = f"=_{subtype}_{unique}"  # '=_' never comes about in quoted-printable
    head = f'Content-Type: multipart/{subtype}; boundary="{boundary}"\r\n\r\n'
    return head.encode() + b"".join(_enclosed(boundary.encode(), parts))


def _enclosed(boundary: bytes, parts: Iterable[bytes]) -> Iterable[bytes]:
    for part in parts:
        yield b"--" + boundary + b"\r\n" + part + b"\r\n"
    yield b"--" + boundary + b"--\r\n"
