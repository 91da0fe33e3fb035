"""The digest: several leads in one mail, each in full."""

import dataclasses
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any, cast

import pytest
from icalendar import Calendar
from test_email_message import Page, content, context, parse

from jobs.adapter import DeliveryContext
from jobs.email.message import render_digest
from models.outbox.delivery import CHANGED_TOUR, TAKEN_AWAY

SENT_AT = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)
BIRCH = {"id": 2, "name": "The Birch", "time_zone": "America/Chicago"}


def lead(number: int, building: dict[str, Any] | None = None, **fields: Any) -> DeliveryContext:
    """Return the delivery of a lead of its own."""
    more = {name: fields.pop(name) for name in ("content", "sent_at") if name in fields}
    one = context(
        {
            "id": number,
            "requestor_name": f"Renter {number}",
            "requestor_email": f"r{number}@home.test",
            **fields,
        },
        building,
        recipient="agent@maple.test",
        **more,
    )
    return dataclasses.replace(one, stable_id=f"lead{number}-email")


def digest(*contexts: DeliveryContext) -> EmailMessage:
    mail = render_digest(contexts, "digest-5", "leads@example.test", utf8=False)
    assert mail == render_digest(contexts, "digest-5", "leads@example.test", utf8=False)
    assert all(len(line) <= 998 for line in mail.split(b"\r\n"))
    message = parse(mail)
    assert not message.defects
    return message


def test_C24c_digest_has_every_lead_in_full() -> None:
    contexts = [
        lead(n, sent_at=SENT_AT + timedelta(minutes=n), message=f"Text {n}\nof it") for n in range(1, 51)
    ]
    message = digest(*contexts)
    assert message["Subject"] == "50 new leads at The Maple"
    assert message["To"] == "agent@maple.test" and message["Reply-To"] is None
    assert message["Message-ID"] == "<digest-5@example.test>"
    assert message["Date"].datetime == SENT_AT + timedelta(minutes=50)
    plain, html = content(message, "plain"), content(message, "html")
    page = Page(html).text
    for n in range(1, 51):
        assert f"{n}. New lead: Renter {n} for unit 4B at The Maple (lead {n})" in plain.splitlines()
        for text in (f"r{n}@home.test", f"Text {n}", "Tuesday, December 1, 2026 at 10:00 AM EST"):
            assert plain.count(text) >= 1 and text in page
        assert f'href="mailto:r{n}@home.test"' in html
        assert f"| Text {n}" in plain.splitlines()
    assert "More mail than usual came for this address, so these leads come together." in plain
    assert "A reply to this mail reaches no renter" in plain
    files = list(message.iter_attachments())
    assert [file.get_filename() for file in files] == [f"tour-{n}.ics" for n in range(1, 51)]
    events = [
        Calendar.from_ical(cast(bytes, file.get_payload(decode=True))).walk("VEVENT")[0] for file in files
    ]
    assert [event["uid"] for event in events] == [f"lead{n}-email@example.test" for n in range(1, 51)]


@pytest.mark.parametrize(
    ("contexts", "subject"),
    [
        ([lead(1), lead(2, BIRCH)], "2 new leads at 2 buildings"),
        ([lead(1), lead(2, content=CHANGED_TOUR)], "1 new lead, 1 changed tour at The Maple"),
        ([lead(1, content=TAKEN_AWAY), lead(2, content=TAKEN_AWAY)], "2 leads taken away at The Maple"),
        ([lead(1), lead(2, content=TAKEN_AWAY)], "1 new lead, 1 lead taken away at The Maple"),
    ],
)
def test_C24c_digest_counts_in_its_subject(contexts: list[DeliveryContext], subject: str) -> None:
    assert digest(*contexts)["Subject"] == subject


def test_C24c_digest_tells_changes_and_leads_taken_away() -> None:
    message = digest(
        lead(1, slot=None),
        lead(2, content=CHANGED_TOUR, tour_sequence=1, slot="2026-12-02T16:00:00.000000Z"),
        lead(3, content=TAKEN_AWAY, message="secret"),
    )
    plain = content(message, "plain")
    assert "New time of the tour: Wednesday, December 2, 2026 at 11:00 AM EST" in plain
    assert "This lead is no longer yours." in plain and "secret" not in plain and "r3@home" not in plain
    methods = {
        file.get_filename(): Calendar.from_ical(cast(bytes, file.get_payload(decode=True)))["method"]
        for file in message.iter_attachments()
    }
    assert methods == {"tour-2.ics": "REQUEST", "tour-3.ics": "CANCEL"}


def test_C24c_digest_without_tours_has_no_files() -> None:
    message = digest(lead(1, slot=None), lead(2, slot=None))
    assert not list(message.iter_attachments()) and "calendar" not in content(message, "plain")


def test_C24c_digest_keeps_withheld_texts_in_one_file() -> None:
    message = digest(lead(1, slot=None, message="viagra"), lead(2, slot=None, message="male enhancement"))
    (file,) = message.iter_attachments()
    text = cast(bytes, file.get_payload(decode=True)).decode("utf-8-sig")
    assert "Message of lead 1, as it was sent:" in text and "| male enhancement" in text
    assert "viagra" not in content(message, "plain")


@pytest.mark.parametrize(
    "text", ["\U0001f600" * 10_000, ("\U0001f600" * 99 + "\n") * 100, '"' * 10_000, "=" * 10_000]
)
def test_C24c_longest_digest_is_below_ten_megabytes(text: str) -> None:
    contexts = [
        lead(
            n,
            message=f"{text} a.com",
            requestor_name=text[:200],
            utm_data={f"k{i}": text[:300] for i in range(30)},
        )
        for n in range(50)
    ]
    mail = render_digest(contexts, "digest-5", "leads@example.test", utf8=False)
    assert len(mail) < 9_500_000 and max(map(len, mail.split(b"\r\n"))) <= 998
    message = parse(mail)
    body = message.get_body(("plain",))
    assert body is not None and not message.defects
    plain = body.get_content().replace("\r\n", "\n")
    assert plain.count("a[.]com") == 50 and plain.count(text.splitlines()[0]) >= 50
