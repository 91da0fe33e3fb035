"""`lead assign`: an unassigned lead gets a building, and its agent the mail."""

import pytest
from command_line import ACTOR, Commands
from conftest import ServerHarness, SteppedClock

from models.lead import Lead
from models.lead_actions import assign_lead
from models.outbox.destination import EMAIL, configure_destinations


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


def test_a_lead_with_a_building_is_not_reassigned(commands: Commands) -> None:
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
        "waits_because": None,
    }
    [delivery] = commands.row("lead", "show", 1)["deliveries"]
    assert (delivery["state"], delivery["reason"]) == ("skipped", "the building has no agent e-mail")


def test_the_mail_of_an_unassigned_lead_can_not_be_retried(commands: Commands) -> None:
    commands.leads({"token": "unknown"})
    said = commands.refusal("outbox", "retry", 1)
    assert said == "lead 1 has no building, and so no agent; give it one by 'lead assign'"
