"""The mails that a leasing agent gets: one of one lead, and a digest of several."""

from collections.abc import Sequence
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path
from typing import NamedTuple

from tornado.template import Loader

from jobs.adapter import DeliveryContext, one_line
from jobs.email.invitation import CANCEL, REQUEST, Invitation, organizer_for
from jobs.email.lead_content import LeadContent, lead_content
from jobs.email.mime import (
    address_header,
    ascii_domain,
    attached_text,
    mailbox,
    multipart,
    part,
    text_header,
)
from jobs.email.renter_text import FILE_NAME, file_of
from jobs.email.tour import tour_sequence
from models.outbox.delivery import CANCELLED_TOUR, CHANGED_TOUR, NEW_LEAD, TAKEN_AWAY

SENDER_NAME = "Website leads"
MOST_HTML = 1_000_000  # bytes of a digest's HTML; a longer one is left out, for servers take 10 MB or less

_TEMPLATES = Loader(str(Path(__file__).parent / "templates"))
_HTML, _TEXT = _TEMPLATES.load("lead.html"), _TEMPLATES.load("lead.txt")
_DIGEST_HTML, _DIGEST_TEXT = _TEMPLATES.load("digest.html"), _TEMPLATES.load("digest.txt")


class _Envelope(NamedTuple):
    """The addresses of a mail as `mailbox` returns them, and the domain of its ids."""

    sender: str
    agent: str
    domain: str


def render(context: DeliveryContext, mail_from: str, *, utf8: bool) -> bytes:
    """Return the whole mail, ready for DATA: CRLF line ends, no line over 998 octets.

    The same context gives the same bytes. mail_from: a bare address. utf8: whether the server supports
    SMTPUTF8. The bodies are always ASCII, and the headers too unless an address is not, so `isascii()` of the
    mail says whether to request SMTPUTF8.

    Raises ValueError if the building has no agent e-mail, or if that or mail_from can't be written.
    """
    envelope = _envelope(context, mail_from, utf8=utf8)
    received = datetime.fromisoformat(context.lead["created_at"])
    sent_at = context.sent_at or received
    lead = lead_content(context, received)
    tour = _tour_file(context, lead, sent_at, envelope)
    reply_to, reply = _reply(context, lead, utf8=utf8)
    variables = {"lead": lead, "reply": reply, "calendar": tour and _CALENDAR_NOTES[tour.method]}
    headers = [
        *([reply_to] if reply_to else []),
        text_header("Subject", lead.headline),
    ]
    if context.content != NEW_LEAD:
        first = f"<{_tour_id(context)}@{envelope.domain}>"
        headers += [f"In-Reply-To: {first}", f"References: {first}"]
    return _mail(
        envelope,
        headers,
        sent_at,
        context.stable_id,
        [_TEXT.generate(**variables), _HTML.generate(**variables)],
        {"tour.ics": tour.to_ical()} if tour else {},
        file_of([(lead.number, lead.texts)]),
    )


def render_digest(
    contexts: Sequence[DeliveryContext], stable_id: str, mail_from: str, *, utf8: bool
) -> bytes:
    """Return one mail of several deliveries to one address, each lead in full. As `render` otherwise."""
    envelope = _envelope(contexts[0], mail_from, utf8=utf8)
    leads: list[LeadContent] = []
    tours: dict[str, bytes] = {}  # of several deliveries of one lead the last tells its tour
    times: list[datetime] = []
    for context in contexts:
        received = datetime.fromisoformat(context.lead["created_at"])
        times.append(context.sent_at or received)
        lead = lead_content(context, received)
        leads.append(lead)
        if tour := _tour_file(context, lead, times[-1], envelope):
            tours[f"tour-{lead.number}.ics"] = tour.to_ical()
    subject = _digest_subject(contexts, leads)
    variables = {"leads": leads, "subject": subject, "tour_file": next(iter(tours), None)}
    text, html = _DIGEST_TEXT.generate(**variables), _DIGEST_HTML.generate(**variables)
    return _mail(
        envelope,
        [text_header("Subject", subject)],
        max(times),
        stable_id,
        [text, html] if len(html) <= MOST_HTML else [text],
        tours,
        file_of((lead.number, lead.texts) for lead in leads),
    )


_CALENDAR_NOTES = {
    REQUEST: "The attached file tour.ics puts this tour into your calendar.",
    CANCEL: "The attached file tour.ics takes this tour out of your calendar.",
}


def _envelope(context: DeliveryContext, mail_from: str, *, utf8: bool) -> _Envelope:
    if not context.address:
        raise ValueError("the building has no agent e-mail")
    sender, agent = mailbox(mail_from, utf8=utf8), mailbox(context.address, utf8=utf8)
    if sender is None or agent is None:
        raise ValueError("an address of the mail needs SMTPUTF8")
    return _Envelope(sender, agent, ascii_domain(sender))


def _mail(
    envelope: _Envelope,
    headers: Sequence[str],
    sent_at: datetime,
    stable_id: str,
    bodies: Sequence[bytes],  # as plain text, and as HTML if there is any
    tours: dict[str, bytes],
    renter_texts: bytes | None,
) -> bytes:
    subtypes = ("plain", "html")
    alternatives = [
        part(f"text/{subtype}; charset=utf-8", body) for subtype, body in zip(subtypes, bodies, strict=False)
    ]
    parts = [multipart("alternative", stable_id, alternatives)]
    # A file, and not of the type text/calendar: a mail that is an invitation leaves the agent's inbox when it
    # is accepted, and the lead with it (decision 13).
    parts += [
        part(f'application/ics; name="{name}"', tour, f'Content-Disposition: attachment; filename="{name}"')
        for name, tour in tours.items()
    ]
    if renter_texts is not None:
        parts.append(attached_text(FILE_NAME, renter_texts))
    lines = [
        address_header("From", SENDER_NAME, envelope.sender),
        address_header("To", "", envelope.agent),
        *headers,
        f"Date: {format_datetime(sent_at)}",
        f"Message-ID: <{stable_id}@{envelope.domain}>",
        # Suppress automatic replies. Not "All": that would suppress failure notices as well.
        "Auto-Submitted: auto-generated",
        "X-Auto-Response-Suppress: OOF, AutoReply",
        "MIME-Version: 1.0",
    ]
    return "\r\n".join(lines).encode() + b"\r\n" + multipart("mixed", stable_id, parts)


def _reply(context: DeliveryContext, lead: LeadContent, *, utf8: bool) -> tuple[str | None, str]:
    """Return the header Reply-To, if the renter's address can be written, and a sentence on replies."""
    if context.content == TAKEN_AWAY:
        return None, ""
    try:
        address = mailbox(context.lead["requestor_email"] or "", utf8=utf8)
    except ValueError:
        address = None
    if address:
        return (
            address_header("Reply-To", lead.reply_name, address),
            "Your reply to this mail goes to the renter.",
        )
    if lead.email:
        return None, f"A reply to this mail does not reach the renter: write to {lead.email}"
    return None, ""


def _tour_id(context: DeliveryContext) -> str:
    return context.tour_id or context.stable_id


def _tour_file(
    context: DeliveryContext, lead: LeadContent, sent_at: datetime, envelope: _Envelope
) -> Invitation | None:
    if lead.tour is None or lead.tour.begins.year >= 9999:  # a later tour's end is no datetime
        return None
    building = context.building
    is_gone = context.content in (CANCELLED_TOUR, TAKEN_AWAY)
    place = building and (building["address_line_one"] or building["name"])
    return Invitation(
        method=CANCEL if is_gone else REQUEST,
        uid=f"{_tour_id(context)}@{envelope.domain}",
        # Above every file sent before. When the lead is given back, the sequence has risen as far, and the
        # later time stamp counts.
        sequence=tour_sequence(context.lead) + (context.content == TAKEN_AWAY),
        stamp=sent_at,
        tour=lead.tour,
        title="Tour: " + ", ".join(filter(None, (lead.name, lead.unit, lead.building))),
        location=one_line(place or ""),
        description=[*lead.tour.remarks, *(f"{fact.label}: {fact.text}" for fact in lead.contact)],
        organizer=organizer_for(envelope.agent, envelope.sender),
        organizer_name=SENDER_NAME,
        attendee=envelope.agent,
    )


def _digest_subject(contexts: Sequence[DeliveryContext], leads: Sequence[LeadContent]) -> str:
    """Return such as '12 new leads at Maple Court', '1 new lead, 2 changed tours at 3 buildings'."""
    count = len(leads)
    new = sum(context.content == NEW_LEAD for context in contexts)
    changed = sum(context.content in (CHANGED_TOUR, CANCELLED_TOUR) for context in contexts)
    counts = [
        f"{number} {one if number == 1 else many}"
        for number, one, many in (
            (new, "new lead", "new leads"),
            (changed, "changed tour", "changed tours"),
            (count - new - changed, "lead taken away", "leads taken away"),
        )
        if number
    ]
    buildings = list(dict.fromkeys(lead.building for lead in leads if lead.building))
    place = buildings[0] if len(buildings) == 1 else f"{len(buildings)} buildings"
    return ", ".join(counts) + (f" at {place}" if buildings else "")
