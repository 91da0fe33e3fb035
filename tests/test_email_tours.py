"""Invitations, updates and cancellations of a tour, and the mails that carry them."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from test_email_message import calendar, content, context, invitation, parse

from jobs.adapter import DeliveryContext
from jobs.email.message import render
from models.clock import utc_text
from models.outbox.delivery import CANCELLED_TOUR, CHANGED_TOUR, NEW_LEAD, TAKEN_AWAY

SENT_AT = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)
MOVED = {"slot": "2026-12-02T16:00:00.000000Z", "tour_sequence": 1}


def mail(context: DeliveryContext, mail_from: str = "leads@example.test") -> Any:
    return parse(render(context, mail_from, utf8=True))


def later(content: str, lead: dict[str, Any] | None = None, **more: Any) -> DeliveryContext:
    """Return a later mail about the lead, to the first mail's agent."""
    first = context(lead, content=content, recipient="agent@maple.test", sent_at=SENT_AT, **more)
    return dataclasses.replace(first, stable_id="email_01-aB-7", tour_id="email_01-aB")


def test_date_is_when_the_mail_was_first_sent() -> None:
    message = mail(context(sent_at=SENT_AT))
    assert message["Date"].datetime == SENT_AT
    assert invitation(message).decoded("dtstamp") == SENT_AT
    assert "Received: Monday, November 23, 2026 at 10:04 AM EST" in content(message, "plain")
    assert render(context(sent_at=SENT_AT), "a@b.test", utf8=True) == render(
        context(sent_at=SENT_AT), "a@b.test", utf8=True
    )


@pytest.mark.parametrize(
    ("sender", "agent"),
    [
        ("agent@maple.test", "agent@maple.test"),
        ("Agent@MAPLE.test", "agent@maple.test"),
        ("agent@maple.test", "agent+leads@maple.test"),
        ("agent+a@maple.test", "AGENT+b@Maple.Test"),
        ("ag.ent@maple.test", "agent@maple.test"),
        ("jürgen@bücher.test", "JÜRGEN@xn--bcher-kva.test"),
        ("agent@bücher.test", "agent@xn--bcher-kva.test"),
        ("noreply@maple.test", "noreply@maple.test"),
        ("No-Reply@maple.test", "noreply+x@maple.test"),
        ("agent@maple.test", "<mailto:agent@maple.test>"),
    ],
)
def test_organizer_is_never_the_attendee(sender: str, agent: str) -> None:
    event = invitation(mail(context(building={"agent_email": agent}), sender))
    organizer, attendee = (str(event[name]).lower() for name in ("organizer", "attendee"))
    assert organizer != attendee and organizer.startswith("mailto:no")
    assert organizer.partition("@")[0].replace("-", "") == "mailto:noreply"
    assert event["organizer"].params["CN"] == "Website leads"


def test_other_organizer_is_the_sender() -> None:
    event = invitation(mail(context(), "leads@maple.test"))
    assert event["organizer"] == "mailto:leads@maple.test"


def test_corrected_time_is_an_update_of_the_same_tour() -> None:
    message = mail(later(CHANGED_TOUR, MOVED))
    first = mail(context())
    assert message["Subject"] == "Tour changed: Jane Doe for unit 4B at The Maple"
    assert message["Message-ID"] == "<email_01-aB-7@example.test>"
    assert message["In-Reply-To"] == message["References"] == first["Message-ID"]
    assert message["Reply-To"] == "Jane Doe <jane+rent@home.test>"
    plain = content(message, "plain")
    assert "The time of this tour was corrected." in plain
    assert "New time of the tour: Wednesday, December 2, 2026 at 11:00 AM EST" in plain
    assert "takes this tour out" not in plain
    assert calendar(message)["method"] == "REQUEST"
    event, old = invitation(message), invitation(first)
    assert event["uid"] == old["uid"] == "email_01-aB@example.test"
    assert (old["sequence"], event["sequence"]) == (0, 1)
    assert event.decoded("dtstart") == datetime(2026, 12, 2, 16, tzinfo=UTC)
    assert event["organizer"] == old["organizer"] and event["attendee"] == old["attendee"]
    assert event.decoded("dtstamp") > old.decoded("dtstamp")


@pytest.mark.parametrize("sent", ["2026-12-01", "2026-12-01T10:00", "2026-11-01T01:30"])
def test_corrected_time_has_no_remarks_on_the_old_one(sent: str) -> None:
    message = mail(later(CHANGED_TOUR, {**MOVED, "sent_slot": sent}))
    said = content(message, "plain").partition("New time of the tour: ")[2].partition("\n\n")[0]
    assert said == "Wednesday, December 2, 2026 at 11:00 AM EST (America/New_York)"
    assert invitation(message).decoded("dtstart") == datetime(2026, 12, 2, 16, tzinfo=UTC)


@pytest.mark.parametrize("hour", ["2026-11-01T01:30", "2026-03-08T02:30", "2020-01-01T10:00"])
def test_operators_words_are_not_the_renters(hour: str) -> None:
    slot = utc_text(datetime.fromisoformat(hour).replace(tzinfo=ZoneInfo("America/New_York")))
    lead = {"slot": slot, "sent_slot": hour, "slot_corrected": True, "tour_sequence": 1}
    for kind in (NEW_LEAD, CHANGED_TOUR):
        plain = content(mail(later(kind, lead)), "plain")
        assert "renter wrote" not in plain and "clocks" not in plain and "past" not in plain


def test_corrected_day_is_a_day_without_remarks() -> None:
    lead = {
        "slot": "2026-12-02T05:00:00Z",
        "sent_slot": "2026-12-02",
        "slot_corrected": True,
        "tour_sequence": 1,
    }
    message = mail(later(CHANGED_TOUR, lead))
    assert "New time of the tour: Wednesday, December 2, 2026\n\n" in content(message, "plain")
    assert b"DTSTART;VALUE=DATE:20261202" in invitation(message).to_ical()


@pytest.mark.parametrize("sent", ["2026-12-01T10:00", "2026-12-01"])
def test_tour_that_is_gone_is_cancelled(sent: str) -> None:
    told = {"sent_slot": sent, "slot_corrected": True, "tour_sequence": 2}
    message = mail(later(CANCELLED_TOUR, told))
    assert message["Subject"] == "Tour cancelled: Jane Doe for unit 4B at The Maple"
    assert "This lead no longer has a tour." in content(message, "plain")
    assert "takes this tour out of your calendar" in content(message, "plain")
    assert calendar(message)["method"] == "CANCEL"
    event = invitation(message)
    assert (event["status"], event["sequence"]) == ("CANCELLED", 2)
    assert event["uid"] == "email_01-aB@example.test"


def test_lead_taken_away_is_named_but_not_shown() -> None:
    message = mail(later(TAKEN_AWAY, {"tour_sequence": 1}))
    assert message["Subject"] == "Taken away: Jane Doe for unit 4B at The Maple"
    assert message["To"] == "agent@maple.test" and message["Reply-To"] is None
    assert message["References"] == "<email_01-aB@example.test>"
    assert calendar(message)["method"] == "CANCEL"
    event = invitation(message)
    assert (event["status"], event["sequence"]) == ("CANCELLED", 2)
    shown = content(message, "plain") + content(message, "html") + str(event.to_ical())
    assert "This lead is no longer yours." in shown and "Lead number: 1234" in shown
    # The renter's data are no longer this agent's.
    for text in (
        "jane+rent",
        "555",
        "dog",
        "google",
        "gclid",
        "SE-998",
        "www.maple",
    ):
        assert text not in shown


@pytest.mark.parametrize("slot", [None, "2026-12-01T15:00:00.000000Z"])
def test_unassigned_lead_can_be_taken_away(slot: str | None) -> None:
    taken = dataclasses.replace(later(TAKEN_AWAY, {"slot": slot}), building=None)
    message = mail(taken)
    assert "This lead is no longer yours." in content(message, "plain")
    assert len(list(message.iter_attachments())) == (slot is not None)


def test_given_back_lead_is_newer_than_its_cancellation() -> None:
    """A move raises the sequence by one, so both have the same: then the later time stamp counts."""
    cancelled = invitation(mail(later(TAKEN_AWAY, {"tour_sequence": 1})))
    back = invitation(mail(context({"tour_sequence": 2}, sent_at=SENT_AT + timedelta(days=1))))
    assert back["sequence"] >= cancelled["sequence"] and back["uid"] == cancelled["uid"]
    assert back.decoded("dtstamp") > cancelled.decoded("dtstamp")
