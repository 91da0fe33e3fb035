"""`lead assign`: a lead gets a building, its agent the mail, and who had the lead is told."""

import asyncio
from asyncio.subprocess import PIPE
from functools import partial

import pytest
from command_line import ACTOR, NOW, Commands
from conftest import ServerHarness, SteppedClock, until

from models.building_actions import add_building, remove_building, update_building
from models.erasure import erase_customer
from models.errors import Conflict, NotFound
from models.lead import Lead
from models.lead_actions import Assignment, assign_lead, send_lead
from models.outbox.actions import pause, resume, retry_deliveries
from models.outbox.delivery import Delivery, DeliveryAttempt
from models.outbox.destination import EMAIL, configure_destinations
from models.outbox.mails import GIVEN_AWAY, GIVEN_BACK
from models.spam import SpamSignals


async def test_C17_an_assigned_lead_mails_the_agent_of_its_building(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    oak = await harness.building(token="oak", agent_email="agent@oak.test", time_zone="America/New_York")
    leads = [
        await harness.lead(token="unknown", slot="2026-12-01T10:00"),
        await harness.lead(token="unknown", slot="2026-12-01T10:00-08:00"),
    ]
    assert (await harness.stored(leads[0]))["slot"] == "2026-12-01T10:00:00.000000Z"
    now = clock.now()
    assigned = await harness.change(lambda: [assign_lead(ACTOR, lead, oak, now) for lead in leads])
    assert [one.not_told for one in assigned] == [None, None]
    await harness.settled()
    assert harness.mail.recipients == [["agent@oak.test"]] * 2
    stored = [await harness.stored(lead) for lead in leads]
    assert [lead["slot"] for lead in stored] == ["2026-12-01T15:00:00.000000Z", "2026-12-01T18:00:00.000000Z"]
    assert {lead["building_id"] for lead in stored} == {oak}


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("2026-12-01", "2026-12-01T05:00:00.000000Z"),
        ("2026-12-01 10:00:00  0100", "2026-12-01T09:00:00.000000Z"),
        ("Tue Dec 01 2026 10:00:00 GMT-0800 (Pacific Standard Time)", "2026-12-01T18:00:00.000000Z"),
        ("undefined", None),
        (None, None),
    ],
)
async def test_C10_assignment_reads_a_slot_as_intake_does(
    harness: ServerHarness, clock: SteppedClock, sent: str | None, stored: str | None
) -> None:
    oak = await harness.building(token="oak", time_zone="America/New_York")
    lead = await harness.lead(token="unknown", slot=sent)
    await harness.change(lambda: assign_lead(ACTOR, lead, oak, clock.now()))
    assert (await harness.stored(lead))["slot"] == stored


async def test_an_old_slot_that_no_longer_parses_is_left(harness: ServerHarness, clock: SteppedClock) -> None:
    lead = await harness.lead(token="unknown", slot="2026-12-01T10:00Z")
    await harness.change(lambda: Lead.update(sent_slot="1796011200000").execute())
    await harness.change(lambda: assign_lead(ACTOR, lead, 1, clock.now()))
    assert (await harness.stored(lead))["slot"] == "2026-12-01T10:00:00.000000Z"


def test_the_output_says_whether_the_mail_can_leave(commands: Commands) -> None:
    commands.leads({}, {"token": "unknown"}, {"token": "unknown"})
    said = commands.run("lead", "assign", 2, 1).stdout
    assert said == (
        "Lead 2 is of building 1 now: Maple Court\n"
        "The mail to agent@maple.test waits: no destination: LEADS_SMTP_URL is not set.\n"
    )
    with commands.database():
        configure_destinations(frozenset({EMAIL}))
    said = commands.run("lead", "assign", 3, 1).stdout
    assert said == ("Lead 3 is of building 1 now: Maple Court\nThe mail to agent@maple.test is on its way.\n")


def test_a_lead_is_not_assigned_to_its_own_building(commands: Commands) -> None:
    commands.leads({})
    assert commands.refusal("lead", "assign", 1, 1) == "lead 1 is of building 1 already"
    assert commands.refusal("lead", "assign", 7, 1) == "there is no lead 7; see 'lead list --unassigned'"
    assert commands.refusal("lead", "assign", 1, 7).startswith("there is no building 7")


def test_C22_the_output_says_why_no_agent_is_mailed(commands: Commands) -> None:
    commands.leads({"token": "unknown"})
    commands.run("building", "update", 1, "--agent-email", "")
    assert commands.row("lead", "assign", 1, 1) == {
        "id": 1,
        "building_id": 1,
        "not_told": "the building has no agent e-mail",
        "taken_from": [],
        "waits_because": None,
    }
    [delivery] = commands.row("lead", "show", 1)["deliveries"]
    assert (delivery["state"], delivery["reason"]) == ("skipped", "the building has no agent e-mail")


def test_the_mail_of_an_unassigned_lead_can_not_be_retried(commands: Commands) -> None:
    commands.leads({"token": "unknown"})
    said = commands.refusal("outbox", "retry", 1)
    assert said == "lead 1 has no building, and so no agent; give it one by 'lead assign'"


async def give(harness: ServerHarness, lead: int, building: int) -> Assignment:
    now = harness.clock.now()
    assigned: Assignment = await harness.change(lambda: assign_lead(ACTOR, lead, building, now))
    return assigned


async def mails_to(harness: ServerHarness) -> list[tuple[str, str]]:
    """Return content and recipient of each delivered mail, in the order of the deliveries."""
    rows = await harness.settled(kind="email", state="delivered")
    assert sorted(to for [to] in harness.mail.recipients) == sorted(row["recipient"] for row in rows)
    return [(row["content"], row["recipient"]) for row in rows]


async def test_C24b_a_waiting_mail_goes_to_the_new_agent_alone(harness: ServerHarness) -> None:
    oak = await harness.building(name="Oak", token="oak", agent_email="agent@oak.test")
    await harness.change(lambda: pause(ACTOR, EMAIL, harness.clock.now()))
    lead = await harness.lead(token="maple")
    assert (await give(harness, lead, oak)).taken_from == []
    [delivery] = await harness.deliveries()
    assert (delivery["state"], delivery["recipient"]) == ("pending", "agent@oak.test")
    await harness.change(lambda: resume(ACTOR, EMAIL, harness.clock.now()))
    assert await mails_to(harness) == [("lead", "agent@oak.test")]


async def test_C24b_a_failed_mail_goes_to_the_new_agent(harness: ServerHarness) -> None:
    oak = await harness.building(name="Oak", token="oak", agent_email="agent@oak.test")
    harness.mail.unknown.add("agent@maple.test")
    lead = await harness.lead(token="maple")
    await harness.settled()
    assert (await give(harness, lead, oak)).taken_from == []
    assert await mails_to(harness) == [("lead", "agent@oak.test")]


async def test_C24b_a_delivered_lead_is_taken_from_the_earlier_agent(harness: ServerHarness) -> None:
    oak = await harness.building(name="Oak", token="oak", agent_email="agent@oak.test")
    lead = await harness.lead(token="maple", listing_source="june_homes")
    await harness.settled()
    assert (await give(harness, lead, oak)).taken_from == ["agent@maple.test"]
    assert await mails_to(harness) == [
        ("lead", "agent@maple.test"),
        ("taken_away", "agent@maple.test"),
        ("lead", "agent@oak.test"),
    ]
    assert len({mail["Message-ID"] for mail in harness.mail.mails}) == 3
    assert len(harness.partner.calls) == 1
    # It names the building that lost the lead.
    [taken] = [m for m in harness.mail.mails if m["To"] == "agent@maple.test"][1:]
    assert "The Maple" in taken["Subject"]
    assert (await harness.change(lambda: Lead.get_by_id(lead))).tour_sequence == 1


async def test_C24b_an_attempt_before_schema_7_was_to_the_agent(harness: ServerHarness) -> None:
    oak = await harness.building(name="Oak", token="oak", agent_email="agent@oak.test")
    lead = await harness.lead(token="maple")
    await harness.settled()
    await harness.change(lambda: DeliveryAttempt.update(recipient=None).execute())
    await harness.change(lambda: Delivery.update(sent_at=None).execute())
    assert (await give(harness, lead, oak)).taken_from == ["agent@maple.test"]


async def test_C24b_each_address_that_had_the_lead_is_told(harness: ServerHarness) -> None:
    oak = await harness.building(name="Oak", token="oak", agent_email="agent@oak.test")
    lead = await harness.lead(token="maple")
    await harness.settled()
    now = harness.clock.now()
    await harness.change(lambda: send_lead(ACTOR, lead, "boss@office.test", now))
    await harness.settled()
    await harness.change(lambda: pause(ACTOR, EMAIL, harness.clock.now()))
    assert (await give(harness, lead, oak)).taken_from == ["agent@maple.test", "boss@office.test"]
    assert (await give(harness, lead, 1)).taken_from == []  # those mails did not leave
    await harness.change(lambda: resume(ACTOR, EMAIL, harness.clock.now()))
    assert (await mails_to(harness))[2:] == [("taken_away", "boss@office.test"), ("lead", "agent@maple.test")]


async def test_C24b_one_agent_of_two_buildings_gets_the_lead_again(harness: ServerHarness) -> None:
    oak = await harness.building(name="Oak", token="oak", agent_email="AGENT@maple.test")
    lead = await harness.lead(token="maple")
    await harness.settled()
    assert (await give(harness, lead, oak)).taken_from == []
    assert await mails_to(harness) == [("lead", "agent@maple.test"), ("lead", "AGENT@maple.test")]


async def test_C24b_an_agent_that_gets_a_lead_back_is_not_told_it_is_gone(harness: ServerHarness) -> None:
    oak = await harness.building(name="Oak", token="oak", agent_email="agent@oak.test")
    lead = await harness.lead(token="maple")
    await harness.settled()
    await harness.change(lambda: pause(ACTOR, EMAIL, harness.clock.now()))
    await give(harness, lead, oak)
    await give(harness, lead, 1)
    await harness.change(lambda: resume(ACTOR, EMAIL, harness.clock.now()))
    assert await mails_to(harness) == [("lead", "agent@maple.test")] * 2
    skipped = await harness.deliveries(state="skipped")
    assert [(mail["content"], mail["reason"]) for mail in skipped] == [
        ("taken_away", GIVEN_BACK),
        ("lead", GIVEN_AWAY),
    ]
    ids = [mail["id"] for mail in skipped]
    for one in ids:
        with pytest.raises(Conflict, match="can't leave: the lead was given"):
            await harness.change(partial(retry_deliveries, ACTOR, [one], harness.clock.now()))


@pytest.mark.parametrize("reply", [None, "451 later", "550 5.1.1 unknown"])
async def test_C24b_a_mail_in_flight_counts_and_is_not_retried(
    harness: ServerHarness, clock: SteppedClock, reply: str | None
) -> None:
    oak = await harness.building(name="Oak", token="oak", agent_email="agent@oak.test")
    harness.mail.gate.clear()
    if reply:
        harness.mail.replies.append(reply)
    lead = await harness.lead(token="maple")
    await until(lambda: harness.mail.at_once)
    while (await harness.deliveries())[0]["state"] != "sending":
        pass
    await harness.change(lambda: pause(ACTOR, EMAIL, clock.now()))
    assert (await give(harness, lead, oak)).taken_from == ["agent@maple.test"]
    harness.mail.gate.set()
    while (await harness.stored(lead))["attempts"][0]["ended_at"] is None:
        await asyncio.sleep(0.005)
    await harness.change(lambda: resume(ACTOR, EMAIL, clock.now()))
    await harness.settled()
    clock.step(7 * 86400)
    await harness.settled()
    told = [to for [to] in harness.mail.recipients]
    assert sorted(told) == sorted(
        [*([] if reply else ["agent@maple.test"]), "agent@maple.test", "agent@oak.test"]
    )


async def test_C24b_a_new_building_without_an_agent_can_be_mailed_later(harness: ServerHarness) -> None:
    mute = await harness.building(name="Mute", token="mute", agent_email=None)
    lead = await harness.lead(token="maple")
    await harness.settled()
    assigned = await give(harness, lead, mute)
    assert (assigned.not_told, assigned.taken_from) == (
        "the building has no agent e-mail",
        ["agent@maple.test"],
    )
    [skipped] = await harness.settled(state="skipped")
    now = harness.clock.now()
    await harness.change(lambda: update_building(ACTOR, mute, {"agent_email": "agent@mute.test"}, now))
    await harness.change(lambda: retry_deliveries(ACTOR, [skipped["id"]], now))
    assert (await mails_to(harness))[-1] == ("lead", "agent@mute.test")
    assert len({mail["Message-ID"] for mail in harness.mail.mails}) == 3


async def test_C10_a_slot_without_offset_moves_to_the_new_time_zone(harness: ServerHarness) -> None:
    oak = await harness.building(name="Oak", token="oak", time_zone="America/New_York")
    leads = [await harness.lead(token="maple", slot=slot) for slot in ("2026-12-01T10:00", None)]
    await harness.change(lambda: pause(ACTOR, EMAIL, harness.clock.now()))
    await harness.change(lambda: Delivery.update(state="pending", sent_at=None).execute())
    await harness.change(lambda: DeliveryAttempt.delete().execute())
    for lead in leads:
        await give(harness, lead, oak)
    rows = await harness.change(lambda: list(Lead.select().order_by(Lead.id)))
    assert [(row.slot and row.slot.hour, row.tour_sequence) for row in rows] == [(15, 1), (None, 0)]


async def test_a_lead_of_a_removed_building_is_given_to_another(harness: ServerHarness) -> None:
    oak = await harness.building(name="Oak", token="oak", agent_email="agent@oak.test")
    lead = await harness.lead(token="maple")
    await harness.settled()
    await harness.change(lambda: remove_building(ACTOR, 1, harness.clock.now()))
    assert (await give(harness, lead, oak)).taken_from == ["agent@maple.test"]
    with pytest.raises(NotFound):
        await give(harness, lead, 1)


async def test_an_erased_lead_is_not_assigned(harness: ServerHarness) -> None:
    lead = await harness.lead(token="unknown")
    await harness.change(lambda: erase_customer(ACTOR, 1, harness.clock.now()))
    with pytest.raises(Conflict, match="the customer was erased"):
        await give(harness, lead, 1)
    assert [d["state"] for d in await harness.settled()] == ["skipped"]


async def test_of_two_operators_the_second_is_refused(harness: ServerHarness) -> None:
    oak = await harness.building(name="Oak", token="oak", agent_email="agent@oak.test")
    lead = await harness.lead(token="maple")
    await harness.settled()
    commands = Commands(harness.data_dir)
    done = await asyncio.gather(
        *(asyncio.to_thread(commands.arguments, "lead", "assign", lead, oak) for _ in range(2))
    )
    processes = [
        await asyncio.create_subprocess_exec(*command, env=env, stdout=PIPE, stderr=PIPE)
        for command, env in done
    ]
    said = [await process.communicate() for process in processes]
    assert sorted(process.returncode or 0 for process in processes) == [0, 1]
    assert b"is of building 2 already" in b"".join(error for _, error in said)
    assert len(await harness.deliveries()) == 3


def test_a_quarantined_mail_follows_the_new_building(commands: Commands) -> None:
    commands.leads({"spam_signals": SpamSignals(honeypot=True)})
    with commands.database():
        Delivery.update(state="quarantined", reason="suspected of spam", due_at=None).execute()
        for name, defence in (("Oak", "hold"), ("Elm", "off")):
            add_building(ACTOR, {"name": name, "agent_email": "a@b.test", "spam_defence": defence}, None, NOW)
        held = assign_lead(ACTOR, 1, 2, NOW)
        states = [Delivery.get_by_id(1).state]
        left = assign_lead(ACTOR, 1, 3, NOW)
        states += [row.state for row in Delivery.select()]
    assert (held.not_told or "").startswith("suspected of spam: ") and left.not_told is None
    assert states == ["quarantined", "pending"]
