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
from jobs.email.tour import Tour, time_text, tour_of
from models.building import BuildingDict
from models.lead_dict import LeadForDelivery
from models.outbox.delivery import CANCELLED_TOUR, CHANGED_TOUR, TAKEN_AWAY

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

    headline: the mail's subject for this lead alone. name: of the renter, or in its place the address. place:
    unit and building. notice: what happened, if the lead is not new. page_values: the first MOST_PAGE_VALUES
    of page_count. texts: what is withheld of the renter's; withheld: a sentence on it.
    """

    number: int
    name: str
    email: str
    unit: str
    building: str
    texts: RenterTexts
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
    # The address is shown whatever a filter makes of it: without one there is no lead.
    email = visible_line(lead["requestor_email"] or "")
    name = visible_line(texts.shown("Name", lead["requestor_name"] or ""))
    unit = visible_line(texts.shown("Unit", lead["unit_preference"] or ""))
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
        reply_name="" if "Name" in texts.withheld else name,
    )
    content.place = " at ".join(filter(None, (named_unit, content.building)))
    kind = "Looks like spam: New lead" if lead["suspected"] else "New lead"
    if context.content == TAKEN_AWAY:
        kind = "Taken away"
        _take_away(content, lead, zone, received)
    else:
        if context.content == CHANGED_TOUR:
            kind, content.tour_label = "Tour changed", "New time of the tour"
            content.notice = "The time of this tour was corrected."
        elif context.content == CANCELLED_TOUR:
            kind = content.tour_label = "Tour cancelled"
            content.notice = "This lead no longer has a tour."
        _describe(content, lead, building, zone, received, unit)
    # A text that has lost a link is none for a subject.
    named = content.reply_name or email or "a renter"
    content.headline = _headline(
        kind, named, "" if "Unit" in texts.withheld else named_unit, content.building
    )
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
        (lead["website"],),
    )


def _take_away(content: LeadContent, lead: LeadForDelivery, zone: ZoneInfo, received: datetime) -> None:
    """Say only whose lead it was: the renter's other data are no longer this agent's."""
    content.notice = "This lead is no longer yours. Another agent looks after the renter now."
    if content.tour:
        content.tour_label = "Tour cancelled"
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
    phone = visible_line(lead["requestor_phone"] or "")
    is_number = _PHONE.fullmatch(phone) is not None
    phone = phone if is_number else visible_line(texts.shown("Phone", lead["requestor_phone"] or ""))
    email, listing = content.email, lead["listing_source"] or ""
    utm = lead["utm_data"] or {}
    campaign = {key: visible_line(texts.shown(key, utm[key] or "")) for key in _UTM_KEYS if key in utm}
    content.contact = _filled(
        Fact("E-mail", email, "mailto:" + quote(email, safe="@!$*+") if "@" in email else None),
        Fact("Phone", phone, "tel:" + re.sub(r"[^+0-9]", "", phone) if is_number else None),
        Fact("Texts allowed", "yes" if lead["sms_consent"] else "no"),
        Fact("Unit", unit),
        Fact("Source", campaign.pop("utm_source", "")),
    )
    message = (lead["message"] or "").strip()
    content.message = [visible_line(line) for line in texts.shown("Message", message).splitlines()]
    content.origin = _filled(
        Fact("Listed on", LISTING_NAMES.get(listing) or visible_line(texts.shown("Listing site", listing))),
        Fact(
            "Listing number",
            visible_line(texts.shown("Listing number", lead["listing_source_original_id"] or "")),
        ),
        Fact("Website", visible_line(texts.shown("Website", lead["website"] or "", links=True))),
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
            visible_line(texts.shown(f"Page key {number}", key), PAGE_KEY_LIMIT),
            visible_line(texts.shown(f"Page value {number}", utm[key] or ""), PAGE_VALUE_LIMIT),
        )
        for number, key in enumerate(foreign[:MOST_PAGE_VALUES], 1)
    ]
    if texts.withheld:
        labels = [label[0].lower() + label[1:] for label in texts.withheld]
        content.withheld = (
            f"Mail filters react to links and advertising, so the attached file {FILE_NAME} has the "
            + (
                f"{labels[0]} as it was sent."
                if len(labels) == 1
                else f"{_listed(labels)} as they were sent."
            )
        )


def _headline(kind: str, name: str, unit: str, building: str) -> str:
    for_unit = f" for {one_line(unit, NAME_LIMIT)}" if unit else ""
    at_building = f" at {one_line(building, NAME_LIMIT)}" if building else ""
    return f"{kind}: {one_line(name, NAME_LIMIT)}{for_unit}{at_building}"


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _filled(*facts: Fact) -> list[Fact]:
    return [fact for fact in facts if fact.text]
