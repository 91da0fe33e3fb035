"""SEQUENCE of a lead's calendar files: a calendar drops a file that is lower than the last (RFC 5546)."""

import random
from contextlib import suppress
from email.message import EmailMessage
from functools import partial
from typing import Any, cast

import pytest
from command_line import ACTOR
from conftest import ServerHarness, SteppedClock
from icalendar import Calendar

from models.errors import Conflict
from models.lead_actions import assign_lead, correct_slot, send_lead
from models.outbox.actions import pause, resume
from models.outbox.destination import EMAIL

Sent = tuple[str, int]  # METHOD and SEQUENCE


class Files:
    """The calendar files that each address got, by their UID, the oldest first."""

    def __init__(self, harness: ServerHarness) -> None:
        self.sent: dict[tuple[str, str], list[Sent]] = {}
        for [to], mail in zip(harness.mail.recipients, harness.mail.mails, strict=True):
            for part in mail.walk():
                if part.get_content_type() == "application/ics":
                    calendar = Calendar.from_ical(cast(bytes, part.get_payload(decode=True)))
                    event = calendar.walk("VEVENT")[0]
                    sent = str(calendar["method"]), int(str(event["sequence"]))
                    self.sent.setdefault((to, str(event["uid"])), []).append(sent)

    def to(self, address: str) -> list[Sent]:
        return [sent for (to, _), files in self.sent.items() if to == address for sent in files]

    def fallen(self) -> list[tuple[str, list[Sent]]]:
        """Return the addresses whose calendar drops a file, with what they got."""
        return [
            (to, files)
            for (to, _), files in self.sent.items()
            for (method, sequence), (_, later) in zip(files, files[1:], strict=False)
            if later < sequence + (method == "CANCEL")
        ]


async def three_buildings(harness: ServerHarness) -> list[int]:
    """Return a building of another agent in another time zone, one without an agent, and the first."""
    oak = await harness.building(
        name="Oak", token="oak", agent_email="agent@oak.test", time_zone="America/New_York"
    )
    return [oak, await harness.building(name="Mute", token="mute", agent_email=None), 1]


async def test_C24b_sequence_rises_after_a_building_without_an_agent(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    _, mute, maple = await three_buildings(harness)
    lead = await harness.lead(token="maple", slot="2026-12-01T10:00Z")
    await harness.settled()
    for building in (mute, maple):
        clock.step(60)
        await harness.change(partial(assign_lead, ACTOR, lead, building, clock.now()))
        await harness.settled()
    assert Files(harness).to("agent@maple.test") == [("REQUEST", 0), ("CANCEL", 2), ("REQUEST", 3)]


async def test_C24b_sequence_rises_when_a_lead_is_sent_back(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    lead = await harness.lead(token="maple", slot="2026-12-01T10:00Z")
    await harness.settled()
    oak, *_ = await three_buildings(harness)
    await harness.change(partial(assign_lead, ACTOR, lead, oak, clock.now()))
    await harness.settled()
    await harness.change(partial(send_lead, ACTOR, lead, "AGENT@maple.test", clock.now()))
    await harness.settled()
    assert not Files(harness).fallen()
    assert Files(harness).to("AGENT@maple.test") == [("REQUEST", 3)]


@pytest.mark.parametrize("first_seed", range(0, 60, 15))
async def test_C24b_sequence_never_falls(
    harness: ServerHarness, clock: SteppedClock, first_seed: int
) -> None:
    buildings = await three_buildings(harness)
    for seed in range(first_seed, first_seed + 15):
        await act_at_random(harness, clock, buildings, random.Random(seed))
    assert not Files(harness).fallen()


async def act_at_random(
    harness: ServerHarness, clock: SteppedClock, buildings: list[int], random: random.Random
) -> None:
    """Send a lead, and do seven actions of an operator on it."""
    slot = random.choice(["2026-12-01T10:00Z", "2026-12-01T10:00", "2026-12-01"])
    lead = await harness.lead(token="maple", slot=slot)
    is_paused = False
    if random.random() < 0.8:
        await harness.settled()
    for _ in range(7):
        clock.step(61)
        now = clock.now()
        slot = f"2026-12-0{random.randint(1, 9)}T1{random.randint(0, 9)}:00"
        to = random.choice(["boss@x.test", "agent@maple.test"])
        action: partial[Any] = random.choice(
            [
                *(partial(assign_lead, ACTOR, lead, building, now) for building in buildings * 2),
                partial(correct_slot, ACTOR, lead, slot, now),
                partial(correct_slot, ACTOR, lead, None, now),
                partial(send_lead, ACTOR, lead, None, now),
                partial(send_lead, ACTOR, lead, to, now),
                partial(resume if is_paused else pause, ACTOR, EMAIL, now),
            ]
        )
        is_paused ^= action.func in (pause, resume)
        with suppress(Conflict):
            await harness.change(action)
        if not is_paused:
            await harness.settled()
    if is_paused:
        await harness.change(partial(resume, ACTOR, EMAIL, clock.now()))
    await harness.settled()


def event_of(mail: EmailMessage) -> Any:
    """Return the event in a mail's calendar file."""
    [file] = [part for part in mail.walk() if part.get_content_type() == "application/ics"]
    return Calendar.from_ical(cast(bytes, file.get_payload(decode=True))).walk("VEVENT")[0]


async def test_C24b_removed_tour_is_cancelled_by_its_earlier_time(harness: ServerHarness) -> None:
    lead = await harness.lead(token="maple", slot="2026-12-01T10:00")
    await harness.settled()
    await harness.change(lambda: correct_slot(ACTOR, lead, None, harness.clock.now()))
    await harness.settled()
    told = event_of(harness.mail.mails[0])
    gone = event_of(harness.mail.mails[1])
    assert gone["status"] == "CANCELLED" and gone["uid"] == told["uid"]
    assert gone.decoded("dtstart") == told.decoded("dtstart")


async def test_C24b_lead_taken_away_names_the_time_that_its_agent_knew(harness: ServerHarness) -> None:
    fields = {"token": "oak", "name": "Oak", "agent_email": "agent@oak.test"}
    oak = await harness.building(time_zone="America/Los_Angeles", **fields)
    lead = await harness.lead(token="maple", slot="2026-12-01T10:00")
    await harness.settled()
    await harness.change(lambda: assign_lead(ACTOR, lead, oak, harness.clock.now()))
    await harness.settled()
    by_agent = {str(mail["To"]): event_of(mail) for mail in harness.mail.mails[1:]}
    told = event_of(harness.mail.mails[0])
    assert by_agent["agent@maple.test"].decoded("dtstart") == told.decoded("dtstart")
    assert by_agent["agent@oak.test"].decoded("dtstart") != told.decoded("dtstart")
