"""What a mail says of one lead: the variables of the templates."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote
from zoneinfo import ZoneInfo

from jobs.adapter import DeliveryContext, one_line
from jobs.email.mime import NAME_LIMIT
from jobs.email.renter_text import FILE_NAME, RenterTexts, visible_line
from jobs.email.tour import Tour, requested_tour, time_text, tour_of
from models.building import BuildingDict
from models.lead_dict import LeadForDelivery
from models.outbox.delivery import CHANGED_TOUR, TAKEN_AWAY

LISTING_NAMES = {
    "june_homes": "June Homes",
    "streeteasy": "StreetEasy",
    "nooklyn": "Nooklyn",
    "zillow": "Zillow",
}
MOST_PAGE_VALUES = 20
PAGE_KEY_LIMIT, PAGE_VALUE_LIMIT = 100, 300  # characters

_UTM_KEYS = ("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "utm_id")
_PHONE = re.compile(r"\+?[0-9 ().\-/]{5,40}")
# What a label ends with, and what looks like it: no first line of a text may pass for a labelled one.
_LABEL_SIGN = re.compile(
    "[:\u02d0\u02f8\u0589\u05c3\u0703\u0704\u16ec\u1803\u205a\u2236\ua789\ufe13\ufe30\ufe55\uff1a]"
)


class Fact(NamedTuple):
    """One labelled line of the mail. link: a URL that is safe in an HTML attribute."""

    label: str
    text: str
    link: str | None = None


class PageValue(NamedTuple):
    """A value that the page sent under a key of its own."""

    key: str
    value: str


@dataclass(slots=True)
class LeadContent:
    """One lead in a mail: each text on one line, the facts in their order.

    headline: the mail's subject for this lead alone. name: of the renter, or in its place the address. title,
    place: the first two lines of the text. notice: what happened, if the lead is not new. page_values: the
    first MOST_PAGE_VALUES of page_count. texts: what is withheld of the renter's; withheld: a sentence on it.
    """

    number: int
    name: str
    email: str
    unit: str
    building: str
    texts: RenterTexts
    title: str = ""
    place: str = ""
    headline: str = ""
    reply_name: str = ""
    notice: str = ""
    tour_label: str = "Tour requested"
    tour: Tour | None = None
    contact: Sequence[Fact] = ()
    message: Sequence[str] = ()
    origin: Sequence[Fact] = ()
    page_values: Sequence[PageValue] = ()
    page_count: int = 0
    withheld: str = ""


def lead_content(context: DeliveryContext, received: datetime) -> LeadContent:
    """Return what the mail of this delivery says. received: when the lead came."""
    lead, building, texts = context.lead, context.building, _sent_texts(context.lead)
    zone = ZoneInfo(building["time_zone"] if building else "UTC")
    tour = tour_of(lead, zone, received)
    sent_name, sent_unit = one_line(lead["requestor_name"] or ""), one_line(lead["unit_preference"] or "")
    email = texts.shown("E-mail", one_line(lead["requestor_email"] or ""), links=True)
    name, unit = texts.shown("Name", sent_name), texts.shown("Unit", sent_unit)
    # A single word with a digit is a unit's number: 'unit 4B', but 'two bedrooms' and 'studio'.
    named_unit = f"unit {unit}" if re.fullmatch(r"(?=.*\d)\S+", unit) else unit
    content = LeadContent(
        lead["id"],
        name or email or "A renter",
        email,
        named_unit,
        one_line(building["name"]) if building else "",
        texts,
        tour=tour,
        reply_name=name if name == sent_name else "",
    )
    content.title = f"Renter: {content.name}" if _LABEL_SIGN.search(content.name) else content.name
    content.place = " at ".join(
        filter(None, ("" if _LABEL_SIGN.search(named_unit) else named_unit, content.building))
    )
    kind = "Looks like spam: New lead" if lead["suspected"] else "New lead"
    if context.content == TAKEN_AWAY:
        kind = "Taken away"
        _take_away(content, lead, zone, received)
    else:
        if context.content == CHANGED_TOUR:
            kind = "Tour changed" if tour else "Tour cancelled"
            _change_tour(content, lead, zone)
        _describe(content, lead, building, zone, received, unit)
    # A text that has lost a link is none for a subject.
    named = content.reply_name or email or "a renter"
    content.headline = _headline(kind, named, named_unit if unit == sent_unit else "", content.building)
    return content


def _sent_texts(lead: LeadForDelivery) -> RenterTexts:
    utm = lead["utm_data"] or {}
    return RenterTexts(
        (
            lead["requestor_name"],
            lead["requestor_phone"],
            lead["unit_preference"],
            lead["message"],
            lead["listing_source"],
            lead["listing_source_original_id"],
            *utm,
            *utm.values(),
        ),
        (lead["requestor_email"], lead["website"]),
    )


def _change_tour(content: LeadContent, lead: LeadForDelivery, zone: ZoneInfo) -> None:
    if content.tour:
        content.notice = "The time of this tour was corrected."
        content.tour_label = "New time of the tour"
    else:
        content.notice = "This lead no longer has a tour."
        content.tour_label = "Tour cancelled"
        content.tour = requested_tour(lead, zone)


def _take_away(content: LeadContent, lead: LeadForDelivery, zone: ZoneInfo, received: datetime) -> None:
    """Say only whose lead it was: the renter's other data are no longer this agent's."""
    content.notice = "This lead is no longer yours. Another agent looks after the renter now."
    if content.tour:
        content.tour_label, content.tour = "Tour cancelled", content.tour._replace(remarks=())
    content.origin = _filled(
        Fact("Lead number", str(lead["id"])), Fact("Received", time_text(received, zone))
    )
    content.texts.withheld.clear()


def _describe(
    content: LeadContent,
    lead: LeadForDelivery,
    building: BuildingDict | None,
    zone: ZoneInfo,
    received: datetime,
    unit: str,
) -> None:
    texts = content.texts
    phone = one_line(lead["requestor_phone"] or "")
    is_number = _PHONE.fullmatch(phone) is not None
    phone = phone if is_number else texts.shown("Phone", phone)
    email, listing = content.email, lead["listing_source"] or ""
    utm = lead["utm_data"] or {}
    campaign = {key: texts.shown(key, visible_line(utm[key] or "")) for key in _UTM_KEYS if key in utm}
    content.contact = _filled(
        Fact("E-mail", email, "mailto:" + quote(email, safe="@!$*+") if "@" in email else None),
        Fact("Phone", phone, "tel:" + re.sub(r"[^+0-9]", "", phone) if is_number else None),
        Fact("Texts allowed", "yes" if lead["sms_consent"] else "no"),
        Fact("Unit", unit),
        Fact("Source", campaign.pop("utm_source", "")),
    )
    message = (lead["message"] or "").strip()
    content.message = [visible_line(line) for line in texts.shown("Message", message).splitlines()]
    website = one_line(lead["website"] or "")
    content.origin = _filled(
        Fact("Listed on", LISTING_NAMES.get(listing) or texts.shown("Listed on", one_line(listing))),
        Fact(
            "Listing number",
            texts.shown("Listing number", one_line(lead["listing_source_original_id"] or "")),
        ),
        Fact("Website", texts.shown("Website", website, links=True)),
        *(Fact(key, value) for key, value in campaign.items()),
        Fact("Building", content.building),
        Fact("Address", one_line(building["address_line_one"] or "") if building else ""),
        Fact("Lead number", str(lead["id"])),
        Fact("Looks like spam", one_line(lead["suspected"] or "")),
        Fact("Received", time_text(received, zone)),
    )
    foreign = [key for key in utm if key not in _UTM_KEYS]
    content.page_count = len(foreign)
    content.page_values = [
        PageValue(
            texts.shown(f"Key {number} of the page", visible_line(key, PAGE_KEY_LIMIT)),
            texts.shown(f"Value {number} of the page", visible_line(utm[key] or "", PAGE_VALUE_LIMIT)),
        )
        for number, key in enumerate(foreign[:MOST_PAGE_VALUES], 1)
    ]
    if texts.withheld:
        content.withheld = (
            "Mail filters react to links and advertising. "
            f"So the attached file {FILE_NAME} has this as it was sent: {', '.join(texts.withheld)}."
        )


def _headline(kind: str, name: str, unit: str, building: str) -> str:
    for_unit = f" for {one_line(unit, NAME_LIMIT)}" if unit else ""
    at_building = f" at {one_line(building, NAME_LIMIT)}" if building else ""
    return f"{kind}: {one_line(name, NAME_LIMIT)}{for_unit}{at_building}"


def _filled(*facts: Fact) -> list[Fact]:
    return [fact for fact in facts if fact.text]
