"""The agent's mail: it shows every field, and text that a renter types never becomes markup or a header."""

import email.policy
from datetime import UTC, datetime
from email.message import EmailMessage
from email.parser import BytesParser
from html.parser import HTMLParser
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icalendar import Calendar

from jobs.adapter import DeliveryContext, one_line
from jobs.email.message import render
from jobs.email.mime import mailbox
from jobs.email.renter_text import is_bait, visible_line
from models.building import BuildingDict
from models.clock import utc_text
from models.lead_dict import LeadForDelivery
from models.slot import Remark, parse_slot

LEAD: dict[str, Any] = {
    "id": 1234,
    "created_at": "2026-11-23T15:04:05.123456Z",
    "building_id": 1,
    "customer": {"id": 7, "email": "jane@home.test", "name": "Jane Doe", "phone": None, "spam": False},
    "requestor_name": "Jane Doe",
    "requestor_email": " jane+rent@home.test ",
    "requestor_phone": "+1 (555) 123-4567",
    "message": "Is the roof open?\nI have a small dog.",
    "slot": "2026-12-01T15:00:00.000000Z",
    "sent_slot": "2026-12-01T10:00",
    "slot_corrected": False,
    "unit_preference": "4B",
    "property_type": "listing",
    "utm_data": {"utm_medium": "cpc", "utm_source": "google", "gclid": "abc123"},
    "listing_source": "streeteasy",
    "listing_source_original_id": "SE-998",
    "request_host": "www.maple.test",
    "website": "www.maple.test",
    "sms_consent": True,
    "lead_source": "website",
    "suspected": None,
    "tour_sequence": 0,
    "deal": {"id": 9, "stage": "new"},
    "deliveries": [],
}
BUILDING: dict[str, Any] = {
    "id": 1,
    "name": "The Maple",
    "address_line_one": "123 Main Street",
    "agent_email": "agent@maple.test",
    "time_zone": "America/New_York",
}
HEADERS = [
    "From",
    "To",
    "Reply-To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "X-Auto-Response-Suppress",
    "MIME-Version",
    "Content-Type",
]
BLANK = dict.fromkeys(
    (
        "requestor_name",
        "requestor_phone",
        "message",
        "slot",
        "unit_preference",
        "utm_data",
        "listing_source",
        "listing_source_original_id",
        "request_host",
        "website",
    )
)


def context(
    lead: dict[str, Any] | None = None, building: dict[str, Any] | None = None, **more: Any
) -> DeliveryContext:
    return DeliveryContext(
        "email_01-aB",
        cast(LeadForDelivery, {**LEAD, **(lead or {})}),
        cast(BuildingDict, {**BUILDING, **(building or {})}),
        **more,
    )


def parse(mail: bytes) -> EmailMessage:
    return BytesParser(EmailMessage, policy=email.policy.default).parsebytes(mail)


def rendered(lead: dict[str, Any] | None = None, building: dict[str, Any] | None = None) -> EmailMessage:
    return parse(render(context(lead, building), "leads@example.test", utf8=False))


def content(message: EmailMessage, subtype: str) -> str:
    body = next(part for part in message.walk() if part.get_content_type() == f"text/{subtype}")
    text: str = body.get_content()
    return text.replace("\r\n", "\n")


class Page(HTMLParser):
    """The HTML as a mail program reads it: its text, tags, attributes and links."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags, self.attributes, self.links = "", set[str](), set[str](), list[str]()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def invitation(message: EmailMessage) -> Any:
    return calendar(message).walk("VEVENT")[0]


def calendar(message: EmailMessage) -> Any:
    (file,) = (part for part in message.iter_attachments() if part.get_content_type() == "application/ics")
    return Calendar.from_ical(cast(bytes, file.get_payload(decode=True)))


def test_headers_name_renter_building_and_unit() -> None:
    message = rendered()
    assert message.keys() == HEADERS
    assert message["Subject"] == "New lead: Jane Doe for unit 4B at The Maple"
    assert message["From"] == "Website leads <leads@example.test>"
    assert message["To"] == "agent@maple.test"
    assert message["Reply-To"] == "Jane Doe <jane+rent@home.test>"
    assert message["Date"].datetime == datetime(2026, 11, 23, 15, 4, 5, tzinfo=UTC)
    assert message["Message-ID"] == "<email_01-aB@example.test>"
    assert message["Auto-Submitted"] == "auto-generated"


@pytest.mark.parametrize(
    ("lead", "subject"),
    [
        ({"requestor_name": None}, "New lead: jane+rent@home.test for unit 4B at The Maple"),
        ({"unit_preference": None}, "New lead: Jane Doe at The Maple"),
        ({"unit_preference": "2 bedrooms"}, "New lead: Jane Doe for 2 bedrooms at The Maple"),
        ({"unit_preference": "studio"}, "New lead: Jane Doe for studio at The Maple"),
        ({"requestor_name": "Zoë\r\nBcc: a@b.test"}, "New lead: Zoë Bcc: a@b.test for unit 4B at The Maple"),
        ({"requestor_name": "=?utf-8?q?A=0AB?="}, "New lead: =?utf-8?q?A=0AB?= for unit 4B at The Maple"),
        ({"requestor_name": "x" * 101}, f"New lead: {'x' * 99}… for unit 4B at The Maple"),
    ],
)
def test_subject_is_one_safe_line(lead: dict[str, Any], subject: str) -> None:
    assert rendered(lead)["Subject"] == subject


@pytest.mark.parametrize("subtype", ["plain", "html"])
def test_both_bodies_show_every_field_sent(subtype: str) -> None:
    text = content(rendered(), subtype)
    if subtype == "html":
        text = Page(text).text
    for shown in (
        "Jane Doe",
        "unit 4B at The Maple",
        "jane+rent@home.test",
        "+1 (555) 123-4567",
        "Is the roof open?",
        "I have a small dog.",
        "Tuesday, December 1, 2026 at 10:00 AM EST (America/New_York)",
        "google",
        "utm_medium",
        "cpc",
        "gclid",
        "abc123",
        "StreetEasy",
        "SE-998",
        "www.maple.test",
        "123 Main Street",
        "1234",
        "Monday, November 23, 2026 at 10:04 AM EST (America/New_York)",
    ):
        assert shown.lower() in text.lower()
    assert "Texts allowed" in text and "yes" in text


@pytest.mark.parametrize("subtype", ["plain", "html"])
def test_blank_fields_are_not_shown(subtype: str) -> None:
    text = content(rendered({**BLANK, "sms_consent": False}, {"address_line_one": None}), subtype)
    for label in ("Phone", "Tour", "Unit", "Message", "Source", "Listed", "Listing", "Website", "Address"):
        assert label not in text
    assert "None" not in text
    assert "jane+rent@home.test" in text and "no" in text


def test_plain_text_shows_its_facts_in_order() -> None:
    lines = content(rendered({**BLANK, "requestor_name": "Jane Doe"}), "plain").splitlines()
    assert lines == [
        "Renter: Jane Doe",
        "For: The Maple",
        "",
        "E-mail: jane+rent@home.test",
        "Texts allowed: yes",
        "",
        "Building: The Maple",
        "Address: 123 Main Street",
        "Lead number: 1234",
        "Received: Monday, November 23, 2026 at 10:04 AM EST (America/New_York)",
        "",
        "Your reply to this mail goes to the renter.",
    ]


@pytest.mark.parametrize(
    ("slot", "zone", "text"),
    [
        (
            "2026-07-01T04:30:00.000000Z",
            "America/New_York",
            "July 1, 2026 at 12:30 AM EDT (America/New_York)",
        ),
        ("2026-07-01T15:00:00.000000Z", "America/Sao_Paulo", "12:00 PM UTC-0300 (America/Sao_Paulo)"),
        ("2026-07-01T15:00:00.000000Z", "UTC", "Wednesday, July 1, 2026 at 3:00 PM UTC\n"),
        ("0001-01-01T00:00:00.000000Z", "America/New_York", "Monday, January 1, 1 at 12:00 AM UTC\n"),
        ("9999-12-31T23:59:00.000000Z", "Asia/Tokyo", "Friday, December 31, 9999 at 11:59 PM UTC\n"),
    ],
)
def test_C10_tour_is_shown_in_the_buildings_time_zone(slot: str, zone: str, text: str) -> None:
    assert text in content(rendered({"slot": slot}, {"time_zone": zone}), "plain")


@pytest.mark.parametrize("sent", ["2026-12-01", "20261201", "Tue Dec 01 2026", "2026-W49-2"])
@pytest.mark.parametrize("zone", ["America/New_York", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_C10_a_date_alone_is_a_day_without_an_hour(sent: str, zone: str) -> None:
    slot = utc_text(datetime(2026, 12, 1, tzinfo=ZoneInfo(zone)))
    message = rendered({"slot": slot, "sent_slot": sent}, {"time_zone": zone})
    plain = content(message, "plain")
    assert "\nTour requested: Tuesday, December 1, 2026\nThe renter named a day, but no time.\n\n" in plain
    assert "Tuesday, December 1, 2026" in Page(content(message, "html")).text
    assert "The renter named a day, but no time." in Page(content(message, "html")).text
    event = invitation(message)
    assert b"DTSTART;VALUE=DATE:20261201\r\n" in event.to_ical()
    assert b"DTEND;VALUE=DATE:20261202\r\n" in event.to_ical()
    assert event["transp"] == "TRANSPARENT" and "but no time" in event["description"]


@pytest.mark.parametrize(
    ("slot", "sent", "text", "remark"),
    [
        (
            "2026-11-01T05:30:00.000000Z",
            "2026-11-01T01:30",
            "Sunday, November 1, 2026 at 1:30 AM EDT (America/New_York)",
            "The clocks go back that day, so this time comes twice. The first one is taken.",
        ),
        (
            "2026-03-08T07:30:00.000000Z",
            "2026-03-08 02:30",
            "Sunday, March 8, 2026 at 3:30 AM EDT (America/New_York)",
            "The renter wrote 2:30 AM, which the clocks skip that day. 3:30 AM is taken instead.",
        ),
        (
            "2026-11-23T15:00:00.000000Z",
            "2026-11-23T15:00Z",
            "Monday, November 23, 2026 at 10:00 AM EST (America/New_York)",
            "This time was already past when the lead came.",
        ),
        (
            "2026-11-22T05:00:00.000000Z",
            "2026-11-22",
            "Sunday, November 22, 2026",
            "The renter named a day, but no time.\nThis day was already past when the lead came.",
        ),
    ],
)
def test_C10_what_is_remarkable_about_a_slot_is_said(slot: str, sent: str, text: str, remark: str) -> None:
    message = rendered({"slot": slot, "sent_slot": sent, "created_at": "2026-11-23T15:04:05.123456Z"})
    said = content(message, "plain").partition("Tour requested: ")[2].partition("\n\n")[0]
    assert said.startswith(f"{text}\n") and said.endswith(remark)
    html = Page(content(message, "html")).text
    assert all(sentence in html for sentence in remark.splitlines())


@pytest.mark.parametrize(
    ("slot", "sent"),
    [
        ("2026-12-01T15:00:00.000000Z", "2026-12-01T10:00"),
        ("2026-11-01T06:30:00.000000Z", "2026-11-01T01:30-05:00"),
        ("2026-11-01T05:30:00.000000Z", "2026-11-01T01:30-04:00"),
        ("1796-01-12T04:56:02.000000Z", "17960112"),
        ("0026-01-01T00:00:00.000000Z", "0026-01-01"),
        ("2026-12-01T15:00:00.000000Z", "2026-12-01T10:00:00+"),
        ("2026-12-01T15:00:00.000000Z", ""),
        ("2026-12-01T15:00:00.000000Z", None),
    ],
)
def test_C10_other_and_old_slots_are_not_remarked_on(slot: str, sent: str | None) -> None:
    lead = {"slot": slot, "sent_slot": sent, "created_at": "2026-10-23T15:04:05.123456Z"}
    said = content(rendered(lead), "plain").partition("Tour requested: ")[2].partition("\n\n")[0]
    assert len(said.splitlines()) == 1 and " at " in said


def test_C10_a_day_is_past_only_when_all_of_it_is() -> None:
    def remarks(hour: int) -> frozenset[Remark]:
        slot = parse_slot("2026-11-23")
        assert slot is not None
        return slot.remarks(ZoneInfo("America/New_York"), datetime(2026, 11, 24, hour, tzinfo=UTC))

    assert remarks(4) == {Remark.DATE_ALONE}
    assert remarks(5) == {Remark.DATE_ALONE, Remark.PAST}


def test_invitation_is_a_file_and_the_mail_is_none() -> None:
    message = rendered()
    assert [part.get_content_type() for part in message.walk()] == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "text/html",
        "application/ics",
    ]
    (attachment,) = message.iter_attachments()
    assert attachment.get_filename() == "tour.ics" and attachment.is_attachment()
    assert calendar(message)["method"] == "REQUEST"
    assert "The attached file tour.ics puts this tour into your calendar." in content(message, "plain")


def test_invitation_is_tentative_half_an_hour_in_utc_without_rsvp() -> None:
    event = invitation(rendered())
    assert event.decoded("dtstart") == datetime(2026, 12, 1, 15, tzinfo=UTC)
    assert event.decoded("dtend") == datetime(2026, 12, 1, 15, 30, tzinfo=UTC)
    assert event.decoded("dtstamp") == datetime(2026, 11, 23, 15, 4, 5, tzinfo=UTC)
    assert event["uid"] == "email_01-aB@example.test"
    assert event["summary"] == "Tour: Jane Doe, unit 4B, The Maple"
    assert event["location"] == "123 Main Street"
    assert "jane+rent@home.test" in event["description"] and "+1 (555) 123-4567" in event["description"]
    assert event["organizer"] == "mailto:leads@example.test"
    assert event["attendee"] == "mailto:agent@maple.test"
    assert event["attendee"].params["RSVP"] == "FALSE"
    assert event["status"] == "TENTATIVE"


@pytest.mark.parametrize("slot", [None, "9999-12-31T23:59:00.000000Z"])
def test_no_invitation_without_a_tour_that_a_calendar_can_hold(slot: str | None) -> None:
    message = rendered({"slot": slot})
    assert [part.get_content_type() for part in message.walk()] == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "text/html",
    ]


@pytest.mark.parametrize(
    ("lead", "links"),
    [
        ({"requestor_phone": "+1 (555) 123-4567"}, ["mailto:jane+rent@home.test", "tel:+15551234567"]),
        ({"requestor_phone": "javascript:alert(1)"}, ["mailto:jane+rent@home.test"]),
        ({"requestor_phone": "ask at the desk"}, ["mailto:jane+rent@home.test"]),
        (
            {"requestor_email": "a?b&c=d/e@x.test", "requestor_phone": None},
            ["mailto:a%3Fb%26c%3Dd%2Fe@x.test"],
        ),
        ({"requestor_email": "jürgen@x.test", "requestor_phone": None}, ["mailto:j%C3%BCrgen@x.test"]),
    ],
)
def test_links_are_encoded_and_only_mailto_or_tel(lead: dict[str, Any], links: list[str]) -> None:
    assert Page(content(rendered(lead), "html")).links == links


def test_renter_text_is_escaped_in_html() -> None:
    attack = "</div><script>alert(1)</script><img src=x onerror=alert(1)>{{ 1 + 1 }}"
    lead = dict.fromkeys(BLANK, attack) | {"slot": None, "utm_data": {attack: attack}}
    page = Page(content(rendered(lead, {"name": attack}), "html"))
    assert not page.tags & {"script", "img"} and "onerror" not in page.attributes
    assert page.text.count("<script>alert(1)</script>") >= len(lead)
    assert "{{ 1 + 1 }}" in page.text


@pytest.mark.parametrize(
    "name", ['Doe, "Jane" <x@y.test>', "Zoë Doe, Ünïted", "=?utf-8?q?x?=", "\\", "李 " * 40]
)
def test_display_name_never_becomes_an_address(name: str) -> None:
    (address,) = rendered({"requestor_name": name})["Reply-To"].addresses
    assert address.addr_spec == "jane+rent@home.test"
    # Without spaces: Python's parser puts one between encoded words.
    assert address.display_name.replace(" ", "") == name.replace(" ", "")


def test_local_part_outside_ascii_needs_smtputf8() -> None:
    lead = {"requestor_email": "jürgen@bücher.test"}
    without = render(context(lead), "leads@example.test", utf8=False)
    assert without.isascii() and "Reply-To" not in parse(without)
    assert "does not reach the renter: write to jürgen@bücher.test" in content(parse(without), "plain")
    with_it = render(context(lead), "leads@example.test", utf8=True)
    assert 'Reply-To: "Jane Doe" <jürgen@bücher.test>\r\n'.encode() in with_it


def test_domain_outside_ascii_is_written_in_idna() -> None:
    mail = render(context({"requestor_email": "jane@bücher.test"}), "leads@straße.test", utf8=True)
    assert mail.isascii()
    assert parse(mail)["Reply-To"].addresses[0].addr_spec == "jane@xn--bcher-kva.test"
    assert parse(mail)["Message-ID"] == "<email_01-aB@xn--strae-oqa.test>"


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("jane.@docomo.ne.jp", '"jane."@docomo.ne.jp'),
        ("a..b@x.test", '"a..b"@x.test'),
        (".@x.test", '"."@x.test'),
        ("...jane'#@bücher.test", None),
        ("jane+rent@home.test", "jane+rent@home.test"),
        ("<mailto:jane.@docomo.ne.jp>", '"jane."@docomo.ne.jp'),
    ],
)
@pytest.mark.parametrize("name", ["Jane", "Zoë", None])
def test_C9_local_part_that_is_no_dot_atom_is_quoted(
    address: str, written: str | None, name: str | None
) -> None:
    lead = {"requestor_email": address, "requestor_name": name}
    if written is None:  # an internationalised address has no such local part
        assert rendered(lead)["Reply-To"] is None
        return
    mail = render(context(lead, {"agent_email": address}), address, utf8=False)
    message = parse(mail)
    for header in ("Reply-To", "To", "From"):
        (parsed,) = message[header].addresses
        assert f"{parsed.username}@{parsed.domain}" == written.replace('"', "")
    assert f"Message-ID: <email_01-aB@{written.rpartition('@')[2]}>\r\n".encode() in mail
    assert written.encode() in mail and not message.defects
    assert not any(message[header].defects for header in ("Reply-To", "To", "From"))


def test_mail_without_a_writable_agent_address_raises() -> None:
    with pytest.raises(ValueError, match="no agent"):
        render(context(building={"agent_email": None}), "leads@example.test", utf8=True)
    with pytest.raises(ValueError, match="SMTPUTF8"):
        render(context(building={"agent_email": "jürgen@x.test"}), "leads@example.test", utf8=False)


anything = st.none() | st.text(st.characters(), max_size=150)
renters = st.fixed_dictionaries(
    dict.fromkeys(BLANK, anything)
    | {
        "slot": st.none() | st.just(LEAD["slot"]),
        "sent_slot": anything,
        "utm_data": st.none() | st.dictionaries(st.text(st.characters()), anything, max_size=4),
        "requestor_email": st.emails() | anything,
        "sms_consent": st.booleans(),
    }
)


@given(lead=renters, name=st.text(st.characters(), min_size=1), address=anything, utf8=st.booleans())
@settings(max_examples=300, deadline=None)
def test_no_text_breaks_the_mail(lead: dict[str, Any], name: str, address: str | None, utf8: bool) -> None:
    lead["requestor_email"] = lead["requestor_email"] or "jane@home.test"
    sent = context(lead, {"name": name, "address_line_one": address})
    mail = render(sent, "leads@example.test", utf8=utf8)
    assert mail == render(sent, "leads@example.test", utf8=utf8)
    assert all(len(line) <= 998 and b"\r" not in line and b"\n" not in line for line in mail.split(b"\r\n"))
    message = parse(mail)
    try:
        reply_to = mailbox(lead["requestor_email"], utf8=utf8)
    except ValueError:
        reply_to = None
    assert message.keys() == [header for header in HEADERS if header != "Reply-To" or reply_to]
    assert not message.defects
    assert [to.addr_spec for to in message["To"].addresses] == ["agent@maple.test"]
    assert [sender.addr_spec for sender in message["From"].addresses] == ["leads@example.test"]
    if reply_to and reply_to.isascii():
        assert mail.isascii()
        assert [address.addr_spec for address in message["Reply-To"].addresses] == [reply_to]
    assert message["Subject"].startswith("New lead: ")
    assert message["Subject"].endswith(one_line(name, 100))
    page = Page(content(message, "html"))
    assert page.tags <= {"html", "head", "meta", "title", "body", "div", "table", "tr", "td", "a", "br"}
    assert all(link.startswith(("mailto:", "tel:")) for link in page.links)
    plain = content(message, "plain").splitlines()
    for shown in (lead["requestor_email"], lead["website"]):
        assert is_bait(shown or "") or any(visible_line(shown or "") in line for line in plain)
    for shown in (name, address):
        assert any(one_line(shown or "") in line for line in plain)
    if lead["slot"]:
        assert invitation(message).decoded("dtstart") == datetime(2026, 12, 1, 15, tzinfo=UTC)
